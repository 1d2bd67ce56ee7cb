"""The faster library for a CPU's matrix products.

torch multiplies fp32 matrices by MKL, which has no AVX-512 code for AMD's processors; oneDNN, which torch carries,
too, has. On a Zen 5 oneDNN does 220 GFLOP/s a core and MKL 93, in fp32 either way.
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

SHORT = 256  # keys up to which attention by whole matrices is faster than the flash kernel's small blocks


@contextmanager
def products(device: torch.device) -> Iterator[None]:
    """Inside, matrix products are those of the faster library for this device."""
    if device.type != "cpu" or not _avx512_elsewhere():
        yield
        return
    before = torch.get_float32_matmul_precision()
    # torch asks oneDNN only where bf16 would be good enough; oneDNN computes in fp32 all the same on these CPUs.
    torch.set_float32_matmul_precision("medium")
    try:
        with _WholeMatrices():
            yield
    finally:
        torch.set_float32_matmul_precision(before)


class _WholeMatrices(TorchFunctionMode):
    """Inside, attention over few keys and without dropout is three calls on whole matrices, in fp32.

    The flash kernel of CPUs multiplies blocks of 32 rows, for which oneDNN takes longer to begin than to multiply: in
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
    """(..., T, D), (..., S, D) and (..., S, E) to (..., T, E); mask: (T, S), true where a key is seen."""
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
    """Whether the CPU has AVX-512 and is not Intel's."""
    about = cpuinfo()
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and bool(about)
        and "GenuineIntel" not in about
    )
