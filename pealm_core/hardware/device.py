"""Choose the device and the precision, and move tensors to a device."""

import contextlib
import platform
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pealm_core.contract.errors import UserError
from pealm_core.hardware.launch import launched
from pealm_cpu import cpuinfo

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """Return the device of a name; "auto" prefers a GPU. Raises UserError for a device that this machine lacks.

    Each process of a launcher has a CUDA device of its own. They can't share one Metal device: for them "auto" is
    CUDA or the CPU.
    """
    cuda, metal = torch.cuda.is_available(), torch.backends.mps.is_available()
    _, processes, local_rank = launched()
    if name == "auto":
        name = "cuda" if cuda else "mps" if metal and processes == 1 else "cpu"
    if not {"cuda": cuda, "mps": metal}.get(name, True):
        raise UserError(f"--device {name}: torch finds no {name.upper()} device here; use --device cpu")
    if name == "mps" and processes > 1:
        raise UserError(f"--device mps: {processes} processes can't share a Metal device; start one, or --device cpu")
    if name != "cuda":
        return torch.device(name)
    if local_rank >= (count := torch.cuda.device_count()):
        raise UserError(
            f"process {local_rank} of this machine has no GPU: torch finds {count}; start --nproc_per_node={count}"
        )
    return torch.device(name, local_rank)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of a name. Raises UserError for one that this machine lacks.

    "auto" is bf16 where the device multiplies it fast; fp16 on CUDA devices with only that (V100, T4: compute
    capability 7); else fp32, also on MPS, where both are options.
    """
    if name == "bf16" and device.type == "mps" and int(platform.mac_ver()[0].partition(".")[0] or 0) < 14:
        raise UserError("--dtype bf16: Metal has it from macOS 14 on; use --dtype fp32 or fp16")
    if name == "auto":
        half = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)
        name = "bf16" if fast_bf16(device) else "fp16" if half else "fp32"
    return DTYPES[name]


def fast_bf16(device: torch.device) -> bool:
    """Whether bf16 products are faster than fp32 ones. On CPUs without AVX512-BF16 or AMX they are much slower."""
    if device.type == "cpu":
        flags = {"avx512_bf16", "amx_bf16"} & {*cpuinfo().split()}
        return bool(flags) and torch.backends.cpu.get_cpu_capability() == "AVX512"
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[Any]:
    """Compute matrix products in dtype; do nothing for fp32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def to_device(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Copy a batch to a device.

    Only copies from pinned memory to CUDA overlap with computing. On other devices an asynchronous copy may read the
    source after it was freed (pytorch issue 189690).
    """
    if device.type == "cuda":
        return {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in tensors.items()}
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def synchronize(device: torch.device) -> None:
    """Wait until the device has done everything it was given; a CPU always has."""
    if device.type not in ("cpu", "meta"):
        torch.accelerator.synchronize(device)
