"""Choose the faster library for matrix products on a CPU.

torch multiplies fp32 matrices by MKL, which has no AVX-512 code for AMD processors. oneDNN, which is part of torch,
has: on a Zen 5 it does 220 GFLOP/s a core and MKL 93, both in fp32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pealm_core.hardware.device import cpuinfo

SHORT = 256  # most keys for which whole matrices are faster than the small blocks of the flash kernel


@contextmanager
def products(device: torch.device) -> Iterator[None]:
    """Compute matrix products by the faster library for this device."""
    if device.type != "cpu" or not _avx512_elsewhere():
        yield
        return
    before = torch.get_float32_matmul_precision()
    # torch uses oneDNN only if bf16 precision is enough; on these CPUs oneDNN still computes in fp32.
    torch.set_float32_matmul_precision("medium")
    try:
        with _WholeMatrices():
            yield
    finally:
        torch.set_float32_matmul_precision(before)


class _WholeMatrices(TorchFunctionMode):
    """Compute attention over few keys and without dropout in three calls on whole matrices, in fp32.

    The flash kernel for CPUs multiplies blocks of 32 rows, for which oneDNN's setup takes longer than the product: in
    bf16 ten times as long.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and len(args) == 3 and _fits(*args[:2], **kwargs):
            q, k, v = args
            return _attention(q, k, v, kwargs.get("attn_mask"), causal=kwargs.get("is_causal", False))
        return func(*args, **kwargs)


def _fits(q: Tensor, k: Tensor, *, attn_mask: Tensor | None = None, dropout_p: float = 0.0, **more: Any) -> bool:
    plain = not dropout_p and not more.keys() - {"is_causal"}
    masked = attn_mask is None or (attn_mask.dtype == torch.bool and attn_mask.dim() == 2)
    small = q.shape[:-2] == k.shape[:-2] and k.shape[-2] <= SHORT
    return plain and masked and small and q.dtype in (torch.float32, torch.bfloat16)


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, causal: bool) -> Tensor:
    """(..., T, D), (..., S, D) and (..., S, E) to (..., T, E); mask: (T, S), true where a query sees a key."""
    if q.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return _attention(q.float(), k.float(), v.float(), mask, causal=causal).to(q.dtype)
    added = q.new_zeros(q.shape[-2], k.shape[-2])
    if causal:
        mask = torch.ones_like(added, dtype=torch.bool).tril_()
    if mask is not None:
        added = added.masked_fill(~mask, float("-inf"))
    q, k, v, shape = q.flatten(0, -3), k.flatten(0, -3), v.flatten(0, -3), (*q.shape[:-1], v.shape[-1])
    scores = torch.baddbmm(added, q, k.mT, alpha=q.shape[-1] ** -0.5)
    return torch.bmm(scores.softmax(-1), v).view(shape)


@cache
def _avx512_elsewhere() -> bool:
    """Whether the CPU has AVX-512 and is not from Intel."""
    text = cpuinfo()
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and bool(text)
        and "GenuineIntel" not in text
    )
