"""Which device to compute on, and in which precision."""

import contextlib
from typing import Any

import torch

from pealm_core.errors import UserError


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of a name; "auto": a GPU where there is one. Raises UserError for one that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA device here; use --device cpu")
    if name == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps: torch finds no Metal device here; use --device cpu")
    return torch.device(name, local_rank) if name == "cuda" else torch.device(name)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of a name; "auto": bf16 on a GPU that multiplies it fast, else fp32.

    On CPUs "auto" is fp32: without AMX or AVX512-BF16 bf16 products are hundreds of times slower, and fp32 gives
    the same losses on every CPU. `--dtype bf16` is there for those that multiply it fast.
    """
    if name == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[name]


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[Any]:
    """Matrix products in dtype; nothing for fp32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)
