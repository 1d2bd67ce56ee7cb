"""What makes training faster, where the hardware has it; what is learned stays the same, but for rounding.

tf32      matrix products of fp32 in TF32 (CUDA)
compile   torch.compile of the model (CUDA; on CPUs it gains nothing for these models)
flash     attention without the matrix of scores: flash or cuDNN (CUDA)
prefetch  the next batch is drawn by a thread, and on its way to the device while the step at hand runs (CUDA)
onednn    matrix products of fp32 by oneDNN, where torch's own choice is slower (CPUs of AMD's with AVX-512)
heap      memory that a step frees is kept for the next one, not given back and mapped again (CPU with glibc)
gc        Python's garbage collector runs rarely: its pauses come on different ranks at different times

`--without` leaves it out. bf16 is `--dtype`, fused AdamW `--optimizer.fused`.
"""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from pealm_core.hardware.cpu_kernels import products

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as glibc's malloc.h numbers them


@contextmanager
def faster(model: torch.nn.Module, device: torch.device, without: tuple[str, ...]) -> Iterator[None]:
    """Inside, what is not left out is on. The model is compiled in place: its state dict stays as it is."""
    cuda, thresholds, precision = device.type == "cuda", gc.get_threshold(), torch.get_float32_matmul_precision()
    if cuda and "tf32" not in without:
        torch.set_float32_matmul_precision("high")
    if cuda and "compile" not in without:
        model.compile(dynamic=False)  # validation has other row counts; one dynamic graph for all would be slower
    if device.type == "cpu" and "heap" not in without:
        _keep_freed_memory()
    if "gc" not in without:
        gc.collect()
        gc.freeze()
        gc.set_threshold(100_000, 50, 100)
    try:
        with ExitStack() as contexts:
            if cuda and "flash" in without:
                contexts.enter_context(sdpa_kernel(SDPBackend.MATH))
            if "onednn" not in without:
                contexts.enter_context(products(device))
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _keep_freed_memory() -> None:
    """Tell glibc, for as long as the process lives; another C library, or none of that name, is left alone."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 2**30)
        mallopt(M_MMAP_THRESHOLD, 2**25)  # the most that it takes; what is larger is still given back


def describe(device: torch.device, dtype: torch.dtype, without: tuple[str, ...]) -> str:
    """What is on, in words: "bf16, tf32, compile, flash_attention, prefetch"."""
    words = [{torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]]
    if device.type == "cuda":
        words += [name for name in ("tf32", "compile", "prefetch") if name not in without]
        q = torch.empty(1, 2, 64, 64, device=device, dtype=dtype, requires_grad=True)
        chosen = SDPBackend(torch._fused_sdp_choice(q, q, q, is_causal=True))
        words.append(f"{'math' if 'flash' in without else chosen.name.lower().removesuffix('_attention')} attention")
    return ", ".join(words)
