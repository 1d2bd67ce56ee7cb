"""Read, write and convert checkpoints; `read_checkpoint`, `write_checkpoint` and `load_tokenizer` are public."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.checkpoints.adapters import merged_state
from pealm_core.checkpoints.build import make_model, plan_of, with_adapter
from pealm_core.checkpoints.build_tokenizer import make_tokenizer
from pealm_core.checkpoints.saved_tokenizer import read_saved_tokenizer
from pealm_core.checkpoints.tensors import identity, load_tensors, read_tensors
from pealm_core.config.job import Job, plan
from pealm_core.config.paths import shown
from pealm_core.config.toml_layers import Layer, file_layer
from pealm_core.contract.errors import UserError
from pealm_core.contract.protocols import Tokenizer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
COMPONENTS = ("model", "tokenizer", "adapter")
Config = Mapping[str, Mapping[str, Any]]  # the tables of a config.toml


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
        checkpoint.load_model(model, self.path)
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


def check_weights(path: Path) -> None:
    """Raise UserError unless the weights of a checkpoint without an adapter fit its model and are finite."""
    job = plan_of(path)
    model, _ = make_model(job, job.configs["model"].vocab_size)
    checkpoint.load_model(model, checkpoint.find(path))


def load_tokenizer(config: Config, saved: Path | None = None) -> Tokenizer:
    """Return the tokenizer of a config's tables, by default the model's own one, with a saved vocabulary.

    Only `[model] name` is needed. Raises PealmError.
    """
    return make_tokenizer(_plan(config), saved)


def load_saved_tokenizer(path: Path | str) -> Tokenizer:
    """Return the tokenizer of a run, a checkpoint or a folder of token shards. Raises PealmError."""
    saved = read_saved_tokenizer(Path(path))
    if saved is None:
        raise UserError(f"{path} does not say which tokenizer it was made with")
    return load_tokenizer(saved[0].tables, saved[1])


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
    made, job = make_model(_plan(config), tokenizer.vocab_size)
    load_tensors(made, model, f"what was to be written as {target}")
    kept = {name: table for name, table in config.items() if name not in COMPONENTS}
    facts = {"step": 0, **(state or {})}
    checkpoint.save(target, model=model, config={**job.tables(), **kept}, tokenizer=saved or tokenizer, state=facts)


def _plan(config: Config) -> Job:
    return plan(COMPONENTS, file=Layer("config", config))


@contextmanager
def merged(source: Path, base: Path | None = None) -> Iterator[Path]:
    """Give a place with the weights of a checkpoint: itself, or while this lasts, a copy with its adapter merged.

    base: as in `read_checkpoint`. Raises PealmError.
    """
    if base is None and "adapter" not in file_layer(checkpoint.find(source) / checkpoint.CONFIG).tables:
        yield source
        return
    with TemporaryDirectory() as folder:
        to_weights(source, copy := Path(folder, "merged"), base=base)
        yield copy


def to_weights(source: Path, target: Path, dtype: str | None = None, base: Path | None = None) -> str:
    """Write a run's best weights or a checkpoint's as a weights-only folder, with an adapter merged into them.

    dtype: "fp32", "bf16", "fp16"; None: as they are. base: as in `read_checkpoint`. Returns a line
    that says what was done. Raises PealmError.
    """
    if dtype not in (None, *DTYPES):
        raise UserError(f"--dtype {dtype}: unknown; use {', '.join(DTYPES)}")
    saved, tensors = read_checkpoint(source, base=base), {}
    cast: dict[Any, torch.Tensor] = {}  # tied tensors stay tied
    for name, tensor in saved.model.items():
        wanted = DTYPES[dtype] if dtype and tensor.is_floating_point() else tensor.dtype
        tensors[name] = new = cast.setdefault(identity(tensor), tensor.to(wanted))
        if (tensor.isfinite() & ~new.isfinite()).any():
            limit = torch.finfo(wanted).max
            raise UserError(f"{name} has values beyond {limit:,.0f}, the largest in {dtype}; use bf16 or fp32")
    same = all(tensors[name].dtype == tensor.dtype for name, tensor in saved.model.items())
    if saved.path == source and same and not saved.adapter and not (source / checkpoint.OPTIMIZER).exists():
        raise UserError(f"{source} has only weights already{f', in {dtype}' if dtype else ''}; nothing was written")
    write_checkpoint(target, model=tensors, config=saved.config, tokenizer=saved.tokenizer, state=saved.state)
    before, after = ((folder / checkpoint.MODEL).stat().st_size for folder in (saved.path, target))
    return f"wrote {shown(target)}: {after / 1e6:,.1f} MB of weights (of {before / 1e6:,.1f} MB)"
