"""Weights in int8 with one scale per output channel."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pealm_core.hardware.linear_weight import BATCH, LinearWeight
from pealm_core.hardware.private_torch import int8_matmul, pack_int8, packed_int8_matmul

# What needs the shape, dtype and device of a weight, but not its numbers.
_NO_NUMBERS = {
    *(getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "layout", "ndim", "requires_grad")),
    *(getattr(Tensor, name).__get__ for name in ("is_cpu", "is_cuda", "is_mps", "is_meta", "is_leaf")),
    *(getattr(Tensor, name) for name in ("size", "dim", "numel", "element_size", "is_floating_point")),
    *(getattr(Tensor, name) for name in ("new_empty", "new_full", "new_ones", "new_zeros", "new_tensor")),
}


class Int8Weight(LinearWeight):
    """A matrix of whole numbers of -127 to 127 times one scale per output channel.

    On a CPU each row of the input is rounded in the same way and the products are summed exactly, so that the batch
    does not change a row's result. On other devices the matrix is dequantized for each product. Every function but
    `F.linear` sees a matrix in the scale's dtype.
    """

    q: Tensor  # int8, (..., out, in)
    scale: Tensor  # (..., out, 1)
    unit: Tensor  # (... out,), fp32: the scale of a product with an input rounded to 127ths
    _shell: Tensor  # shape, dtype and device
    _flat: "Int8Weight | None" = None  # three dimensions as two
    _packed: Tensor | None = None

    @staticmethod
    def __new__(cls, q: Tensor, scale: Tensor) -> "Int8Weight":
        """Make a weight of the numbers (..., in) and their scales (..., 1)."""
        shell = scale.new_empty(()).expand(q.shape)
        self = shell.as_subclass(cls)
        self.q, self.scale, self.unit, self._shell = q, scale, scale.float().flatten() / 127, shell
        return self

    @classmethod
    def of(cls, weight: Tensor) -> "Int8Weight":
        """Round a weight (..., in) to the nearest such matrix."""
        with torch.no_grad():
            scale = weight.float().abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
            return cls((weight.float() / scale).round().to(torch.int8), scale.to(weight.dtype))

    def plain(self) -> Tensor:
        """Dequantize."""
        return self.q.to(self.scale.dtype) * self.scale

    def bytes_read(self) -> int:
        """Return the bytes of the numbers and scales."""
        return self.q.nbytes + self.scale.nbytes

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Dequantize only the rows that an embedding or an index picks; keep the class for `flatten(0, 1)`."""
        if func is F.embedding and isinstance(args[1], cls):
            return F.embedding(args[0], args[1].q) * F.embedding(args[0], args[1].scale)
        self = args[0] if args and isinstance(args[0], cls) else None
        if self is None:
            return super().__torch_function__(func, types, args, kwargs)
        if func in _NO_NUMBERS:
            return func(self._shell, *args[1:], **(kwargs or {}))
        if func is Tensor.flatten and args[1:] == (0, 1) and self.q.dim() == 3:
            if self._flat is None:
                self._flat = cls(self.q.flatten(0, 1), self.scale.flatten(0, 1))
            return self._flat
        if func is Tensor.__getitem__ and isinstance(args[1], (int, slice)):
            return self.q[args[1]].to(self.scale.dtype) * self.scale[args[1]]
        return super().__torch_function__(func, types, args, kwargs)

    def linear(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Multiply in int8 on a CPU, else by the dequantized matrix."""
        x = x.to_dense() if x.layout is not torch.strided else x
        if x.device.type != "cpu":
            low = torch.is_autocast_enabled(x.device.type)
            dtype = torch.get_autocast_dtype(x.device.type) if low else x.dtype
            return F.linear(x, self.q.to(dtype) * self.scale.to(dtype), bias)
        rows = x.reshape(-1, x.shape[-1]).float()  # (B, in)
        size = rows.abs().amax(-1, keepdim=True).clamp_min_(1e-12)  # (B, 1)
        q = (rows / size).mul_(127).round_()
        batch = 1 < len(rows) <= BATCH and x.shape[-2] == 1  # of single tokens
        if batch and self._packed is None:
            self._packed = pack_int8(self.q)
        if batch and self._packed is not None:
            y = packed_int8_matmul(q, self._packed, self.unit)
        else:
            y = int8_matmul(q.to(torch.int8), self.q.t()) * self.unit  # (B, out)
        y = y.mul_(size) if bias is None else torch.addcmul(bias.float(), y, size)
        return y.to(x.dtype).view(*x.shape[:-1], y.shape[-1])
