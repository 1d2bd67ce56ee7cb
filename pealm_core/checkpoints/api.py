"""The public functions that read and write checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.checkpoints.adapters import merged_state
from pealm_core.checkpoints.build_model import make_model, plan_of, with_adapter
from pealm_core.checkpoints.build_tokenizer import COMPONENTS, Config, load_tokenizer, plan_config
from pealm_core.checkpoints.tensors import load_model, load_tensors, read_tensors
from pealm_core.config.toml_layers import file_layer
from pealm_core.contract.errors import UserError
from pealm_core.contract.protocols import Tokenizer


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk: the arguments with which `write_checkpoint` makes the same one.

    path: its folder. config: the tables of its config.toml. tokenizer: the folder of its saved vocabulary. state:
    facts such as `step` and `val_loss`. adapter: None, or the table of the adapter in it; then `model` is merged, and
    `config` has no such table. base: as given to `read_checkpoint`.
    """

    path: Path
    config: Config
    tokenizer: Path
    state: Mapping[str, Any]
    adapter: Mapping[str, Any] | None = None
    base: Path | None = None

    @cached_property
    def model(self) -> dict[str, Tensor]:
        """The weights as a state dict, read when they are first asked for."""
        if self.adapter is None:
            return read_tensors(self.path / checkpoint.MODEL)[0]
        job = with_adapter(plan_of(self.path), file_layer(self.path / checkpoint.CONFIG), self.base)
        model, _ = make_model(job, job.configs["model"].vocab_size)
        load_model(model, self.path / checkpoint.MODEL)
        return merged_state(model)


def read_checkpoint(path: Path | str, *, base: Path | str | None = None) -> Checkpoint:
    """Return the checkpoint of a run (its best, else its newest), a checkpoint folder or a file in one.

    Its weights, config and vocabulary are compared with the hashes they were saved with. base: where an adapter's
    base is, if not in the place that the config names. Raises UserError.
    """
    folder = checkpoint.find(Path(path))
    state = checkpoint.verify(folder, checkpoint.MODEL, checkpoint.CONFIG, checkpoint.TOKENIZER)
    config = dict(file_layer(folder / checkpoint.CONFIG).tables)
    adapter = config.pop("adapter", None)
    if base is not None and adapter is None:
        raise UserError(f"--base {base}: {folder} has no adapter, and only a checkpoint with one has a base")
    return Checkpoint(folder, config, folder / checkpoint.TOKENIZER, state, adapter, Path(base) if base else None)


def write_checkpoint(
    path: Path | str,
    *,
    model: Mapping[str, Tensor],
    config: Config,
    tokenizer: Tokenizer | Path | None = None,
    state: Mapping[str, Any] | None = None,
) -> None:
    """Write a weights-only checkpoint in a new or empty folder, complete or not at all. Raises PealmError.

    model: a state dict, which must fit the model of the config. config: `[model] name` and what differs from the
    defaults; vocab_size comes from the tokenizer. With `[adapter] name` and `base`, model has only the tensors that
    the adapter adds or trains. tokenizer: a tokenizer or the folder in which one was saved;
    None: the model's own. state: what `read_checkpoint` returns as `state`.
    """
    target = Path(path)
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise UserError(f"{target} exists already; remove it or choose another place")
    if tokenizer is None or isinstance(tokenizer, Path):
        tokenizer, saved = load_tokenizer(config, tokenizer), tokenizer
    else:
        saved = None
    made, job = make_model(plan_config(config), tokenizer.vocab_size)
    load_tensors(made, model, f"what was to be written as {target}")
    kept = {name: table for name, table in config.items() if name not in COMPONENTS}
    facts = {"step": 0, **(state or {})}
    checkpoint.save(target, model=model, config={**job.tables(), **kept}, tokenizer=saved or tokenizer, state=facts)
