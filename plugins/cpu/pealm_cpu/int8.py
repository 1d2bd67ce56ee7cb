"""Weights of 8 bits.

Every call of a private function of torch is in the last functions, which also work with a torch that lacks it.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from pealm_cpu import kernels
from pealm_cpu.linear_weight import BATCH, LinearWeight, onednn

# What needs the shape, dtype and device of a weight, but not its numbers.
_NO_NUMBERS = {
    *(getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "requires_grad")),
    *(getattr(Tensor, name) for name in ("size", "dim", "numel", "new_empty", "new_zeros", "new_full")),
}


class Int8Weight(LinearWeight):
    """A matrix of whole numbers of -127 to 127, (..., out, in), times one scale per output channel, (..., out, 1).

    On a CPU each row is rounded to 127ths of its largest number and the products are summed exactly, so that the size
    of a batch does not change them; but where there is no C compiler, nor a matrix unit for int8 (AMX), one row alone
    is multiplied in bf16, which is faster there. On other devices the matrix is dequantized for each product. Every
    function but `F.linear` sees a matrix in the scale's dtype.
    """

    _unit: Tensor | None = None  # (out,), fp32: the scale of a product with an input rounded to 127ths
    _few: kernels.Int8Product | None = None

    @classmethod
    def of(cls, weight: Tensor) -> Self:
        """Round a weight (..., in) to the nearest such matrix."""
        weight = weight.detach()
        scale = weight.float().abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
        q = (weight.float() / scale).round().to(torch.int8).contiguous()
        return cls(weight.new_empty(()).expand(weight.shape), q, scale.to(weight.dtype))

    def plain(self) -> Tensor:
        """Return the dequantized matrix."""
        q, scale = self.parts
        return q.to(scale.dtype) * scale

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Dequantize only the rows that an embedding picks, and nothing for what needs no numbers."""
        if func is F.embedding and isinstance(args[1], cls):
            return F.embedding(args[0], args[1].parts[0]) * F.embedding(args[0], args[1].parts[1])
        if func in _NO_NUMBERS:
            return func(args[0].weight, *args[1:], **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)

    def linear(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Multiply in int8 on a CPU, else by the dequantized matrix."""
        q, scale = self.parts
        if x.device.type != "cpu":
            low = torch.is_autocast_enabled(x.device.type)
            dtype = torch.get_autocast_dtype(x.device.type) if low else x.dtype
            return F.linear(x, q.to(dtype) * scale.to(dtype), bias)
        fits = 0 < x.numel() <= kernels.FEW * q.shape[1] and x.shape[-1] == q.shape[1]
        if self._few and fits and (bias is None or bias.shape == q.shape[:1]):
            return self._few(x.float(), bias if bias is None else bias.float()).to(x.dtype)
        if self._unit is None:
            self._unit = scale.float().flatten() / 127
            self._few = kernels.int8_product(q, self._unit) if q.device.type == "cpu" else None
            return self.linear(x, bias)
        rows, shape = x.reshape(-1, x.shape[-1]), (*x.shape[:-1], len(q))  # (B, in)
        if len(rows) == 1 and not _int8_unit() and (y := _one_row(rows, q)) is not None:
            y = y * scale.flatten() if bias is None else torch.addcmul(bias, y.float(), scale.flatten())
            return y.to(x.dtype).view(shape)
        rows = rows.float()
        size = torch.linalg.vector_norm(rows, torch.inf, -1, True).clamp_min_(1e-12)  # (B, 1)
        rows = (rows / size).mul_(127).round_()
        if len(rows) <= BATCH and (x.shape[-2] == 1 or self._packed):  # single tokens, or a few guessed ones
            self._packed = self._packed or _packed_int8_linear(q, self._unit)
            y = self._packed(rows)
        else:
            y = _int8_linear(rows, q, self._unit)  # (B, out)
        y = y.mul_(size) if bias is None else y.mul_(size).add_(bias.float())  # `addcmul` rounds in another way
        return y.to(x.dtype).view(shape)


@lru_cache
def _int8_unit() -> bool:
    """Return whether the CPU has a matrix unit for int8, which is at least as fast as bf16 for one row alone."""
    return bool(getattr(torch.cpu, "get_capabilities", dict[str, bool])().get("amx_int8"))  # not in torch 2.9


def _one_row(x: Tensor, weight: Tensor) -> Tensor | None:
    """Multiply a row x (1, in) by an int8 weight (out, in) in bf16: (1, out); None where torch can't."""
    product = getattr(torch, "_weight_int8pack_mm", None)
    if product is None or len(weight) < 16 or weight.shape[1] % 32:  # it reads 16 rows of 32 numbers at a time
        return None
    result: Tensor = product(x.to(torch.bfloat16), weight, _ones(len(weight)))
    return result


@lru_cache
def _ones(n: int) -> Tensor:
    return torch.ones(n, dtype=torch.bfloat16)


def _int8_linear(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Multiply whole numbers x (B, in) of -127 to 127 by an int8 weight (out, in), exactly, and by scale (out,)."""
    product = getattr(torch, "_int_mm", None)
    if product is None or weight.shape[1] == 1:  # torch 2.13's is wrong for one input column
        return x @ weight.t().float() * scale
    result: Tensor = product(x.to(torch.int8), weight.t()) * scale
    return result


def _packed_int8_linear(weight: Tensor, scale: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a function of x that computes `_int8_linear` from a copy in oneDNN's own order; it may overwrite x."""
    functions = onednn("onednn.qlinear_prepack", "onednn.qlinear_pointwise")
    if functions is None:
        return lambda x: _int8_linear(x, weight, scale)
    prepack, linear = functions
    packed, zeros = prepack(weight, [8, weight.shape[1]]), torch.zeros(len(scale), dtype=torch.int32)
    # No bias, output scale 1 and zero point 0, and no operation after the product.
    rest: tuple[Any, ...] = (None, 1.0, 0, torch.float32, "none", [], "")
    # oneDNN takes bytes of 0 to 255, of which 128 means 0.
    return lambda x: linear(x.add_(128).to(torch.uint8), 1.0, 128, packed, scale, zeros, *rest)
