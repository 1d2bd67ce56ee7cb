"""Read and write checkpoints from code outside the core: `read_checkpoint`, `write_checkpoint`, `load_tokenizer`."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.checkpoints.build import make_model, make_tokenizer
from pealm_core.checkpoints.tensors import load_tensors, read_tensors
from pealm_core.config.job import Job, plan
from pealm_core.config.toml_layers import Layer, file_layer
from pealm_core.contract.errors import UserError
from pealm_core.contract.protocols import Tokenizer

COMPONENTS = ("model", "tokenizer")
Config = Mapping[str, Mapping[str, Any]]  # the tables of a config.toml


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk: the arguments with which `write_checkpoint` makes the same one.

    path: its folder. config: the tables of its config.toml. tokenizer: the folder of its saved vocabulary. state:
    facts such as `step` and `val_loss`.
    """

    path: Path
    config: Config
    tokenizer: Path
    state: Mapping[str, Any]

    @cached_property
    def model(self) -> dict[str, Tensor]:
        """The weights as a state dict, read when they are first asked for."""
        return read_tensors(self.path / checkpoint.MODEL)[0]


def read_checkpoint(path: Path | str) -> Checkpoint:
    """Return the checkpoint of a run (its best, else its newest), a checkpoint folder or a file in one.

    Its weights, config and vocabulary are compared with the hashes they were saved with. Raises UserError.
    """
    folder = checkpoint.find(Path(path))
    state = checkpoint.verify(folder, checkpoint.MODEL, checkpoint.CONFIG, checkpoint.TOKENIZER)
    config = file_layer(folder / checkpoint.CONFIG).tables
    return Checkpoint(folder, config, folder / checkpoint.TOKENIZER, state)


def load_tokenizer(config: Config, saved: Path | None = None) -> Tokenizer:
    """Return the tokenizer of a config's tables, by default the model's own one, with a saved vocabulary.

    Only `[model] name` is needed. Raises PealmError.
    """
    return make_tokenizer(_plan(config), saved)


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
    defaults; vocab_size comes from the tokenizer. tokenizer: a tokenizer or the folder in which one was saved;
    None: the model's own. state: what `read_checkpoint` returns as `state`.
    """
    target = Path(path)
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise UserError(f"{target} exists already; remove it or choose another place")
    if tokenizer is None or isinstance(tokenizer, Path):
        tokenizer, saved = load_tokenizer(config, tokenizer), tokenizer
    else:
        saved = None
    made, job = make_model(_plan(config), tokenizer.vocab_size)
    load_tensors(made, model, f"what was to be written as {target}")
    kept = {name: table for name, table in config.items() if name not in COMPONENTS}
    facts = {"step": 0, **(state or {})}
    checkpoint.save(target, model=model, config={**job.tables(), **kept}, tokenizer=saved or tokenizer, state=facts)


def _plan(config: Config) -> Job:
    return plan(COMPONENTS, file=Layer("config", config))
