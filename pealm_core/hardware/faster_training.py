"""Optimizations of training for the device. They change results by rounding only.

tf32      fp32 matrix products in TF32 (CUDA)
compile   torch.compile of the model (CUDA; on CPUs these models gain nothing)
flash     attention without a matrix of scores: flash or cuDNN (CUDA)
prefetch  a thread draws the next batch and copies it to the device during the current step (CUDA)
onednn    fp32 matrix products by oneDNN where torch's own choice is slower (AMD CPUs with AVX-512)
heap      memory that a step frees is kept for the next step, not returned to the system (CPU with glibc)
gc        Python's garbage collector runs rarely: its pauses come at different times on different ranks

`--without` disables them by name. bf16 and fp16 are `--dtype`; fused AdamW is `--optimizer.fused`.
"""

import gc
import inspect
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from pealm_core.hardware.device import DTYPES
from pealm_cpu import keep_memory, products


@contextmanager
def faster(model: torch.nn.Module, device: torch.device, without: tuple[str, ...]) -> Iterator[None]:
    """Enable every optimization not listed in `without`. Compiling is in place and keeps the model's state dict."""
    cuda, thresholds, precision = device.type == "cuda", gc.get_threshold(), torch.get_float32_matmul_precision()
    if cuda and "tf32" not in without:
        torch.set_float32_matmul_precision("high")
    if cuda and "compile" not in without and not compiler_problem():
        model.compile(dynamic=False)  # a graph for each number of rows: one dynamic graph would be slower
    if device.type == "cpu" and "heap" not in without:
        keep_memory()
    if "gc" not in without:
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


def use_eager_optimizers() -> None:
    """Keep `torch._dynamo`, a second of imports, out of a process that compiles nothing.

    Adam and AdamW import it in every step, other methods of torch's optimizers at their first call unless they know
    their uncompiled form. What is computed stays the same. A torch version that does this in another way imports it.
    """
    plain = inspect.unwrap(torch.optim.Adam.step)
    if "torch._dynamo" in sys.modules or plain is torch.optim.Adam.step:
        return

    def step(self: torch.optim.Adam, closure: Any = None) -> Any:
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return plain(self, closure)

    torch.optim.Adam.step = step  # type: ignore[method-assign]
    for method in vars(torch.optim.Optimizer).values():
        if (eager := getattr(method, "__wrapped__", None)) is not None:
            vars(eager).setdefault("__dynamo_disable", eager)


def describe(device: torch.device, dtype: torch.dtype, without: tuple[str, ...]) -> str:
    """List the precision and the enabled optimizations: "bf16, tf32, compile, flash, prefetch"."""
    names = ("tf32", "compile", "flash", "prefetch") if device.type == "cuda" else ()
    precision = next(name for name, known in DTYPES.items() if known == dtype)
    problem = compiler_problem() if "compile" in names and "compile" not in without else ""
    without = (*without, "compile") if problem else without
    text = ", ".join([precision, *(name for name in names if name not in without)])
    return f"{text}; without compile: {problem}" if problem else text


def compiler_problem() -> str:
    """Return why torch.compile can't make kernels for CUDA here, "" if it can. Triton builds its launcher in C."""
    if find_spec("triton") is None:
        return "triton is not installed"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "no C compiler is found; install gcc"
    header = Path(sysconfig.get_path("include"), "Python.h")
    return "" if header.exists() else f"{header} is missing; install Python's headers (python3-dev)"
