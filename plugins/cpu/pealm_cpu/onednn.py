"""Matrix products and attention of training and scoring by oneDNN, where torch's own choice is slower."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from pealm_cpu.linear_weight import RowWeight
from pealm_cpu.processor import cpuinfo

SOFTMAX = "_softmax_backward_data"  # private to torch
SHORT = 512  # most keys for which whole matrices are faster than the small blocks of the flash kernel
ROWS = 128  # queries in a product of causal attention: fewer compute less that it hides, but more slowly


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
