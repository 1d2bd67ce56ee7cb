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

import ctypes
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
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from pealm_core.hardware.device import DTYPES, cpuinfo
from pealm_core.hardware.linear_weight import RowWeight

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h
SOFTMAX = "_softmax_backward_data"  # private to torch
SHORT = 512  # most keys for which whole matrices are faster than the small blocks of the flash kernel
ROWS = 128  # queries in a product of causal attention: fewer compute less that it hides, but more slowly


def keep_memory() -> None:
    """Let glibc keep what this process frees; else each large result gets new pages from the system."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda name, value: None)  # other C libraries lack it
        mallopt(M_TRIM_THRESHOLD, 2**30)
        mallopt(M_MMAP_THRESHOLD, 2**25)  # glibc's maximum; larger blocks are still returned


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


@contextmanager
def products(device: torch.device) -> Iterator[None]:
    """Compute matrix products by the faster library for this device.

    torch multiplies fp32 matrices by MKL, which has no AVX-512 code for AMD processors. oneDNN, which is part of
    torch, has: on a Zen 5 it does 220 GFLOP/s a core and MKL 93, both in fp32.
    """
    avx512 = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512"
    onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not (avx512 and onednn and "AuthenticAMD" in cpuinfo()):
        yield
        return
    before = torch.get_float32_matmul_precision()
    # torch uses oneDNN only if bf16 precision is enough; on these CPUs oneDNN still computes in fp32.
    torch.set_float32_matmul_precision("medium")
    try:
        with _OneDNN():
            yield
    finally:
        torch.set_float32_matmul_precision(before)


class _OneDNN(TorchFunctionMode):
    """Where torch calls oneDNN in a slow way, call it in a faster one.

    Attention over few keys and without dropout is computed in three calls on whole matrices. The flash kernel for
    CPUs multiplies blocks of 32 rows, for which oneDNN's setup takes longer than the product: in bf16 ten times as
    long. A model that was loaded for inference multiplies many rows by copies of its weights.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and len(args) == 3:
            (q, k, v), mask = args, kwargs.get("attn_mask")
            plain = not kwargs.get("dropout_p") and kwargs.keys() <= {"attn_mask", "dropout_p", "is_causal"}
            masked = mask is None or (mask.dtype == torch.bool and mask.dim() == 2)
            if torch.is_autocast_enabled("cpu"):  # as torch's own attention then does
                q, k, v = (x.to(torch.get_autocast_dtype("cpu")) for x in (q, k, v))
            small = q.shape[:-2] == k.shape[:-2] and k.shape[-2] <= SHORT
            same = q.dtype == k.dtype == v.dtype and q.dtype in (torch.float32, torch.bfloat16)
            if plain and masked and small and same:
                return _attention(q, k, v, mask, causal=kwargs.get("is_causal", False))
        if func is F.linear and len(args) > 1 and isinstance(args[1], RowWeight):
            x, weight, *bias = args
            if x.numel() > x.shape[-1] and x.dtype == torch.float32 and not torch.is_grad_enabled():
                return weight.onednn(x, *bias, **kwargs)
        return func(*args, **kwargs)


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, causal: bool) -> Tensor:
    """(..., T, D), (..., S, D) and (..., S, E) to (..., T, E); mask: (T, S), true where a query sees a key."""
    shape, added = (*q.shape[:-1], v.shape[-1]), q.new_zeros(q.shape[-2], k.shape[-2], dtype=torch.float32)
    if causal:
        mask = torch.ones_like(added, dtype=torch.bool).tril_()
    if mask is not None:
        added = added.masked_fill(~mask, float("-inf"))
    q, k, v = (x.flatten(0, -3) for x in (q, k, v))
    with torch.autocast("cpu", enabled=False):
        if not causal or len(added) <= ROWS:
            return _Attention.apply(q, k, v, added).view(shape)  # type: ignore[no-any-return, no-untyped-call]
        parts = []
        for start in range(0, len(added), ROWS):
            end = start + ROWS  # no query before it sees a key after it
            parts.append(_Attention.apply(q[:, start:end], k[:, :end], v[:, :end], added[start:end, :end]))  # type: ignore[no-untyped-call]
    return torch.cat(parts, 1).view(shape)


class _Attention(torch.autograd.Function):
    """Attention of (N, T, D) over (N, S, D) and (N, S, E), to whose scores a (T, S) is added.

    In bf16 the scores are still fp32: large ones, rounded, would make weights wrong by several percent.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, added: Tensor) -> Tensor:
        """Compute the attention, (N, T, E), in the dtype of v."""
        scores = torch.baddbmm(added, q.float(), k.float().mT, alpha=q.shape[-1] ** -0.5)
        weights = scores.softmax(-1).to(v.dtype)
        ctx.save_for_backward(q, k, v, weights)
        return torch.bmm(weights, v)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Return the gradients of q, k and v. Raises RuntimeError if they are differentiated again."""
        q, k, v, weights = ctx.saved_tensors
        back = _softmax_backward(torch.bmm(gradient, v.mT), weights)
        dq, dk = (torch.bmm(*pair).mul_(q.shape[-1] ** -0.5) for pair in ((back, k), (back.mT, q)))
        return dq, dk, torch.bmm(weights.mT, gradient), None


def _softmax_backward(gradient: Tensor, weights: Tensor) -> Tensor:
    """Return the gradient of scores from that of their softmax, `weights`, over the last dimension."""
    if (kernel := getattr(torch.ops.aten, SOFTMAX, None)) is not None:
        return kernel(gradient, weights, -1, weights.dtype)  # type: ignore[no-any-return]
    product = gradient.float() * weights
    return (product - weights * product.sum(-1, keepdim=True)).to(weights.dtype)
