"""Four small functions, three of them with derivatives by hand, for CPUs.

There torch runs a formula one operation at a time, each a pass over memory, and differentiates it in the same way.
Half of the passes are not needed. A GPU gets the plain formulas: its compiler makes one pass of them.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def norm(x: Tensor) -> Tensor:
    """x over its root mean square, along the last dimension."""
    found: Tensor = _Norm.apply(x.float()) if _by_hand(x) else F.rms_norm(x, (x.shape[-1],))  # type: ignore[no-untyped-call]
    return found


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of features, D / 2 apart, of x (B, T, ..., D) by its position's angle.

    cos, sin: of the angles, (T, ..., D / 2).
    """
    if _by_hand(x):
        found: Tensor = _Rotate.apply(x.float(), cos, sin)  # type: ignore[no-untyped-call]
        return found
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).type_as(x)


def squared_relu(x: Tensor) -> Tensor:
    """The square of x where it is positive, else 0 (So et al. 2021)."""
    found: Tensor = _SquaredReLU.apply(x) if _by_hand(x) else F.relu(x).square()  # type: ignore[no-untyped-call]
    return found


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """`F.dropout`; on a CPU from 16 random bits for each number, a third of the time."""
    if not (p and training and x.device.type == "cpu"):
        return F.dropout(x, p, training)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = (words[: x.numel()].view(x.shape) >= int(p * 2**16) - 2**15).to(x.dtype)
    return x * kept.mul_(1 / (1 - p))


def _by_hand(x: Tensor) -> bool:
    return x.device.type == "cpu" and (x.dtype == torch.float32 or torch.is_autocast_enabled("cpu"))


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True).mul_(x.shape[-1] ** -0.5)
        scale = size.clamp_min_(1e-6).reciprocal_()
        y: Tensor = x * scale
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # What of the gradient points along y would change nothing but x's size.
        y, scale = ctx.saved_tensors
        along = (gradient * y).mean(dim=-1, keepdim=True)
        rest: Tensor = torch.addcmul(gradient, y, along, value=-1).mul_(scale)
        return rest


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(gradient, cos, sin, -1), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, way: int) -> Tensor:
    # On whole rows of features: torch is slow on many short pieces of memory.
    places = (*cos.shape[:-3], *x.shape[-3:])
    cos, sin = (torch.cat(halves, -1).expand(places).contiguous() for halves in ((cos, cos), (-way * sin, way * sin)))
    a, b = x.chunk(2, dim=-1)
    return torch.mul(x, cos).addcmul_(torch.cat([b, a], -1), sin)


class _SquaredReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = x.clamp_min(0)
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        positive: Tensor = ctx.saved_tensors[0]
        return (gradient * positive).mul_(2)
