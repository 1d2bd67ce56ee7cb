"""Private functions of torch, each behind a function that also works with a torch that lacks it.

No other module of the core calls a private function of torch.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def _onednn(*paths: str) -> list[Callable[..., Any]] | None:
    """Return the functions `torch.ops.<path>`, or None where this torch lacks one of them or oneDNN."""
    try:
        found = [operator.attrgetter(path)(torch.ops) for path in paths]
    except AttributeError:
        return None
    return found if torch.backends.mkldnn.is_available() else None  # type: ignore[no-untyped-call]


def packed_linear(weight: Tensor) -> Callable[[Tensor, Tensor | None], Tensor]:
    """Return a function of (x, bias) that computes `F.linear` from a copy of an fp32 weight in oneDNN's own order."""
    functions = _onednn("mkldnn._reorder_linear_weight", "mkldnn._linear_pointwise")
    if functions is None:
        return lambda x, bias: F.linear(x, weight, bias)
    reorder, linear = functions
    packed = reorder(weight, 8)
    return lambda x, bias: linear(x, packed, bias, "none", [], "")


def int8_linear(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Multiply whole numbers x (B, in) of -127 to 127 by an int8 weight (out, in), exactly, and by scale (out,)."""
    product = getattr(torch, "_int_mm", None)
    if product is None:
        return x @ weight.t().float() * scale
    result: Tensor = product(x.to(torch.int8), weight.t()) * scale
    return result


def packed_int8_linear(weight: Tensor, scale: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a function of x that computes `int8_linear` from a copy in oneDNN's own order; it may overwrite x."""
    functions = _onednn("onednn.qlinear_prepack", "onednn.qlinear_pointwise")
    if functions is None:
        return lambda x: int8_linear(x, weight, scale)
    prepack, linear = functions
    packed, zeros = prepack(weight, [8, weight.shape[1]]), torch.zeros(len(scale), dtype=torch.int32)
    # No bias, output scale 1 and zero point 0, and no operation after the product.
    rest: tuple[Any, ...] = (None, 1.0, 0, torch.float32, "none", [], "")
    # oneDNN takes bytes of 0 to 255, of which 128 means 0.
    return lambda x: linear(x.add_(128).to(torch.uint8), 1.0, 128, packed, scale, zeros, *rest)
