"""Convert a checkpoint to a smaller one: weights only, in another precision."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.checkpoints.api import read_checkpoint, write_checkpoint
from pealm_core.checkpoints.tensors import identity
from pealm_core.config.paths import shown
from pealm_core.config.toml_layers import file_layer
from pealm_core.contract.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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
