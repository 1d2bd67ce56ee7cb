"""Which device to compute on, and in which precision."""

import contextlib
from functools import cache
from pathlib import Path
from typing import Any

import torch

from pealm_core.contract.errors import UserError


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of a name; "auto": a GPU where there is one. Raises UserError for one that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA device here; use --device cpu")
    if name == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps: torch finds no Metal device here; use --device cpu")
    if name == "cuda" and local_rank >= (count := torch.cuda.device_count()):
        raise UserError(
            f"process {local_rank} of this machine has no GPU: torch finds {count}; start --nproc_per_node={count}"
        )
    return torch.device(name, local_rank) if name == "cuda" else torch.device(name)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of a name; "auto": bf16 where the device multiplies it fast, else fp32."""
    if name == "auto":
        return torch.bfloat16 if fast_bf16(device) else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[name]


def fast_bf16(device: torch.device) -> bool:
    """Whether products of bf16 are faster than those of fp32: on CPUs without AVX512-BF16 or AMX by far not."""
    if device.type == "cpu":
        return torch.backends.cpu.get_cpu_capability() == "AVX512" and bool(
            {"avx512_bf16", "amx_bf16"} & set(cpuinfo().split())
        )
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


@cache
def cpuinfo() -> str:
    """What Linux tells of the CPU; nothing elsewhere."""
    about = Path("/proc/cpuinfo")
    return about.read_text() if about.exists() else ""


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[Any]:
    """Matrix products in dtype; nothing for fp32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)
