"""Optimizations of training for the device. They change results by rounding only.

tf32      fp32 matrix products in TF32 (CUDA)
compile   torch.compile of the model (CUDA; on CPUs these models gain nothing)
flash     attention without a matrix of scores: flash or cuDNN (CUDA)
prefetch  a thread draws the next batch and copies it to the device during the current step (CUDA)
onednn    fp32 matrix products by oneDNN where torch's own choice is slower (AMD CPUs with AVX-512)
heap      memory that a step frees is kept for the next step, not returned to the system (CPU with glibc)
gc        Python's garbage collector runs rarely: its pauses come at different times on different ranks

`--without` disables them by name. bf16 is `--dtype`; fused AdamW is `--optimizer.fused`.
"""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from pealm_core.hardware.cpu_kernels import products

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h


@contextmanager
def faster(model: torch.nn.Module, device: torch.device, without: tuple[str, ...]) -> Iterator[None]:
    """Enable every optimization not listed in `without`. Compiling is in place and keeps the model's state dict."""
    cuda, thresholds, precision = device.type == "cuda", gc.get_threshold(), torch.get_float32_matmul_precision()
    if cuda and "tf32" not in without:
        torch.set_float32_matmul_precision("high")
    if cuda and "compile" not in without:
        model.compile(dynamic=False)  # a graph for each number of rows: one dynamic graph would be slower
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
    """Set glibc's limits until the process ends; do nothing with another C library."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 2**30)
        mallopt(M_MMAP_THRESHOLD, 2**25)  # glibc's maximum; larger blocks are still returned


def describe(device: torch.device, dtype: torch.dtype, without: tuple[str, ...]) -> str:
    """List the precision and the enabled optimizations: "bf16, tf32, compile, flash, prefetch"."""
    names = ("tf32", "compile", "flash", "prefetch") if device.type == "cuda" else ()
    return ", ".join(
        [{torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype], *(n for n in names if n not in without)]
    )
