"""Private functions of torch, each behind a function that also works with a torch that lacks it.

No other module of the core calls a private function of torch.
"""

import operator
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend


def _private(path: str) -> Callable[..., Any] | None:
    """Return `torch.<path>`, or None where this torch has no such function."""
    try:
        return cast(Callable[..., Any], operator.attrgetter(path)(torch))
    except AttributeError:
        return None


def _onednn(path: str) -> Callable[..., Any] | None:
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return _private(path) if available else None


def int8_matmul(a: Tensor, b: Tensor) -> Tensor:
    """Return the product of int8 matrices, (B, K) and (K, N), with exact sums where torch can do that."""
    product = _private("_int_mm")
    return a.float() @ b.float() if product is None else cast(Tensor, product(a, b))


def pack(weight: Tensor) -> Tensor | None:
    """Copy an fp32 weight (out, in) into oneDNN's own order for `packed_linear`; None where that is unavailable."""
    reorder = _onednn("ops.mkldnn._reorder_linear_weight")
    if reorder is None or _onednn("ops.mkldnn._linear_pointwise") is None:
        return None
    return cast(Tensor, reorder(weight, 8))


def packed_linear(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """Compute `F.linear` with a weight from `pack`."""
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], ""))


def pack_int8(weight: Tensor) -> Tensor | None:
    """Copy an int8 weight (out, in) into oneDNN's own order for `packed_int8_matmul`; None as for `pack`."""
    prepack = _onednn("ops.onednn.qlinear_prepack")
    if prepack is None or _onednn("ops.onednn.qlinear_pointwise") is None:
        return None
    return cast(Tensor, prepack(weight, [8, weight.shape[1]]))


def packed_int8_matmul(x: Tensor, packed: Tensor, scale: Tensor) -> Tensor:
    """Return the product of whole numbers x (B, in) of -127 to 127 and a weight from `pack_int8`, times scale (out,).

    oneDNN takes bytes of 0 to 255, of which 128 means 0. x is overwritten.
    """
    x = x.add_(128).to(torch.uint8)
    zero_points = torch.zeros(len(scale), dtype=torch.int32)
    # No bias, output scale 1 and zero point 0, and no operation after the product.
    rest: tuple[Any, ...] = (None, 1.0, 0, torch.float32, "none", [], "")
    return cast(Tensor, torch.ops.onednn.qlinear_pointwise(x, 1.0, 128, packed, scale, zero_points, *rest))


def attention_kernel(q: Tensor) -> str | None:
    """Name the kernel that torch chooses for causal attention with queries, keys and values like q."""
    choice = _private("_fused_sdp_choice")
    if choice is None:
        return None
    return SDPBackend(choice(q, q, q, is_causal=True)).name.lower().removesuffix("_attention")
