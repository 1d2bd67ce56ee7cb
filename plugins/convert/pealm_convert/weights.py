"""Write the weights of a checkpoint: without an adapter, and in another precision."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from pealm_core import Checkpoint, UserError, load, write_checkpoint

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FILE, OPTIMIZER = "model.safetensors", "optimizer.safetensors"


@contextmanager
def merged(saved: Checkpoint) -> Iterator[Path]:
    """Give a checkpoint with checked weights: itself, or while this lasts, a copy with its adapter merged.

    Raises PealmError.
    """
    if saved.adapter is None:
        load(saved.path, device="cpu", dtype="fp32")  # raises an error for weights that do not fit or are not finite
        yield saved.path
        return
    with TemporaryDirectory() as folder:
        to_weights(saved, copy := Path(folder, "merged"))
        yield copy


def to_weights(saved: Checkpoint, target: Path, dtype: str | None = None) -> tuple[int, int]:
    """Write the weights as a new checkpoint, with an adapter merged; return their bytes before and after.

    dtype: "fp32", "bf16", "fp16"; None: as they are. Raises PealmError.
    """
    tensors = {}
    cast: dict[Any, torch.Tensor] = {}  # tied tensors stay tied
    for name, tensor in saved.model.items():
        wanted = DTYPES[dtype] if dtype and tensor.is_floating_point() else tensor.dtype
        key = (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else name
        tensors[name] = new = cast.setdefault(key, tensor.to(wanted))
        if (tensor.isfinite() & ~new.isfinite()).any():
            limit = torch.finfo(wanted).max
            raise UserError(f"{name} has values beyond {limit:,.0f}, the largest in {dtype}; use bf16 or fp32")
    write_checkpoint(target, model=tensors, config=saved.config, tokenizer=saved.tokenizer, state=saved.state)
    before, after = ((folder / FILE).stat().st_size for folder in (saved.path, target))
    return before, after


def has_only(saved: Checkpoint, dtype: str | None) -> bool:
    """Whether a checkpoint has only weights, in this precision, and no adapter."""
    floats = (tensor.dtype for tensor in saved.model.values() if tensor.is_floating_point())
    same = dtype is None or all(own == DTYPES[dtype] for own in floats)
    return same and not saved.adapter and not (saved.path / OPTIMIZER).exists()
