"""Tensors that replace a linear layer's weight and compute `F.linear` faster.

Every call of a private function of torch is here, in the last functions, which also work with a torch that lacks it.
"""

import operator
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from pealm_core.hardware import kernels
from pealm_core.hardware.device import cpuinfo

FEW = 8  # most rows for which the product in C is faster than oneDNN's
PAYS = 2048  # rows whose products take as much less time by such a copy as making it takes
BATCH = 64  # most rows of one token each for which a second copy of the weights, in oneDNN's order, is faster


class LinearWeight(Tensor):
    """A weight that `F.linear` reads as `parts`, here one tensor; every other function sees the tensor `plain()`."""

    weight: Tensor  # has the shape, dtype and device
    parts: tuple[Tensor, ...]
    _flat: Self | None = None  # three dimensions as two
    _packed: Callable[..., Tensor] | None = None
    _rows = 0  # that RowWeight.onednn has multiplied

    @staticmethod
    def __new__(cls, weight: Tensor, *parts: Tensor) -> Self:
        """Wrap tensors, without a copy; a product reads the weight itself if there are no parts."""
        self = weight.as_subclass(cls)
        self.weight, self.parts = weight, parts or (weight,)
        return self

    def linear(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Compute `F.linear(x, self, bias)`."""
        return F.linear(x, self.parts[0], bias)

    def plain(self) -> Tensor:
        """Return the weight as an ordinary tensor."""
        return self.weight

    @property
    def nbytes(self) -> int:  # type: ignore[override]
        """The bytes of memory that one product reads."""
        return sum(part.nbytes for part in self.parts)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `linear` for `F.linear`, and anything else with plain tensors.

        `flatten(0, 1)` keeps the class: models use it to join the weights of queries, keys and values.
        """
        kwargs = kwargs or {}
        if func is F.linear and len(args) > 1 and isinstance(args[1], LinearWeight):
            return args[1].linear(args[0], *args[2:], **kwargs)
        if func is Tensor.flatten and args[1:] == (0, 1) and args[0].weight.dim() == 3:
            if args[0]._flat is None:
                args[0]._flat = cls(*(part.flatten(0, 1) for part in (args[0].weight, *args[0].parts)))
            return args[0]._flat
        return func(*_plain(args), **{key: _plain(value) for key, value in kwargs.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(map(_plain, value))
    return value.plain() if isinstance(value, LinearWeight) else value


class RowWeight(LinearWeight):
    """An fp32 matrix on a CPU, with a faster product for rows of one token each.

    One row: MKL's matrix-vector product; on an AMD CPU, where that reads memory at half the speed (one thread of a
    Zen 5: 16.5 and 28.7 GB/s), a `bmm` over blocks of the matrix's rows. On Intel CPUs blocks are the slower ones.
    Several rows: oneDNN and a copy in oneDNN's order, which the first such batch makes.
    """

    def linear(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Choose by the number of rows and by the CPU; sequences of several tokens use `F.linear`."""
        weight = self.weight
        n, k = weight.shape
        rows = x.numel() // k
        if x.dtype != torch.float32 or torch.is_grad_enabled():
            return F.linear(x, weight, bias)
        if rows == 1:
            blocks, column = _blocks(n, torch.get_num_threads()), x.reshape(k)
            if not blocks:
                y = torch.mv(weight, column) if bias is None else torch.addmv(bias, weight, column)
                return y.view(*x.shape[:-1], n)
            # The transpose of a row: with the strides of a column torch uses a path that is eight times slower.
            y = torch.bmm(weight.view(blocks, n // blocks, k), column.view(1, k).t().expand(blocks, k, 1))
            y = y.view(*x.shape[:-1], n)
            return y if bias is None else y + bias
        if 2 < rows <= BATCH and x.shape[-2] == 1:
            self._packed = self._packed or _packed_linear(weight)
            return self._packed(x, bias)
        return F.linear(x, weight, bias)

    def onednn(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Compute `linear` of many rows by oneDNN, after some thousand of them by the copy. x: fp32, no gradient."""
        self._rows += x.numel() // self.weight.shape[1]
        if self._rows >= PAYS:
            self._packed = self._packed or _packed_linear(self.weight)
        return self._packed(x, bias) if self._packed else F.linear(x, self.weight, bias)


@lru_cache
def _blocks(n: int, threads: int) -> int:
    """Return into how many blocks to cut n rows on an AMD CPU: at least 2 and one per thread; 0 for no blocks."""
    if "AuthenticAMD" not in cpuinfo():
        return 0
    return next((blocks for blocks in range(max(2, threads), 2 * threads + 64) if n % blocks == 0), 0)


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
        fits = 0 < x.numel() <= FEW * q.shape[1] and x.shape[-1] == q.shape[1]
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


def _onednn(*paths: str) -> list[Callable[..., Any]] | None:
    """Return the functions `torch.ops.<path>`, or None where this torch lacks one of them or oneDNN."""
    try:
        found = [operator.attrgetter(path)(torch.ops) for path in paths]
    except AttributeError:
        return None
    return found if torch.backends.mkldnn.is_available() else None  # type: ignore[no-untyped-call]


def _packed_linear(weight: Tensor) -> Callable[[Tensor, Tensor | None], Tensor]:
    """Return a function of (x, bias) that computes `F.linear` from a copy of an fp32 weight in oneDNN's own order."""
    functions = _onednn("mkldnn._reorder_linear_weight", "mkldnn._linear_pointwise")
    if functions is None:
        return lambda x, bias: F.linear(x, weight, bias)
    reorder, linear = functions
    packed = reorder(weight, 8)
    return lambda x, bias: linear(x, packed, bias, "none", [], "")


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
    functions = _onednn("onednn.qlinear_prepack", "onednn.qlinear_pointwise")
    if functions is None:
        return lambda x: _int8_linear(x, weight, scale)
    prepack, linear = functions
    packed, zeros = prepack(weight, [8, weight.shape[1]]), torch.zeros(len(scale), dtype=torch.int32)
    # No bias, output scale 1 and zero point 0, and no operation after the product.
    rest: tuple[Any, ...] = (None, 1.0, 0, torch.float32, "none", [], "")
    # oneDNN takes bytes of 0 to 255, of which 128 means 0.
    return lambda x: linear(x.add_(128).to(torch.uint8), 1.0, 128, packed, scale, zeros, *rest)
