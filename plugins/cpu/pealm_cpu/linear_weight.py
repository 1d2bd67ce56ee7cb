"""Tensors that replace a linear layer's weight and compute `F.linear` faster: what they share, and those in fp32.

Every call of a private function of torch is in the last functions, which also work with a torch that lacks it.
"""

import operator
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from pealm_cpu import kernels
from pealm_cpu.processor import cpuinfo

PAYS = 2048  # rows whose products take as much less time by such a copy as making it takes
BATCH = 64  # most rows of one token each for which a second copy of the weights, in oneDNN's order, is faster


class LinearWeight(Tensor):
    """A weight that `F.linear` reads as `parts`, here one tensor; every other function sees the tensor `plain()`."""

    weight: Tensor  # has the shape, dtype and device
    parts: tuple[Tensor, ...]
    _is_param: bool
    _flat: Self | None = None  # three dimensions as two
    _packed: Callable[..., Tensor] | None = None
    _rows = 0  # that RowWeight.onednn has multiplied

    @staticmethod
    def __new__(cls, weight: Tensor, *parts: Tensor) -> Self:
        """Wrap tensors, without a copy; a product reads the weight itself if there are no parts."""
        self = weight.as_subclass(cls)
        self.weight, self.parts = weight, parts or (weight,)
        self._is_param = True  # isinstance(self, nn.Parameter) holds
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
    Several rows: a product in C; more than eight, or no C compiler: oneDNN and a copy in oneDNN's order, which the
    first such batch makes.
    """

    _generates = False  # rows come one at a time: a few together are guesses of the next tokens

    def linear(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Choose by the number of rows and by the CPU; sequences of several tokens use `F.linear`."""
        weight = self.weight
        n, k = weight.shape
        rows = x.numel() // k
        if x.dtype != torch.float32 or torch.is_grad_enabled():
            return F.linear(x, weight, bias)
        if rows == 1:
            self._generates = True
            blocks, column = _blocks(n, torch.get_num_threads()), x.reshape(k)
            if not blocks:
                y = torch.mv(weight, column) if bias is None else torch.addmv(bias, weight, column)
                return y.view(*x.shape[:-1], n)
            # The transpose of a row: with the strides of a column torch uses a path that is eight times slower.
            y = torch.bmm(weight.view(blocks, n // blocks, k), column.view(1, k).t().expand(blocks, k, 1))
            y = y.view(*x.shape[:-1], n)
            return y if bias is None else y + bias
        few = 1 < rows <= kernels.FEW and (x.shape[-2] == 1 or self._generates)
        if few and (product := kernels.linear(x, weight, bias)) is not None:
            return product
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


def onednn(*paths: str) -> list[Callable[..., Any]] | None:
    """Return the functions `torch.ops.<path>`, or None where this torch lacks one of them or oneDNN."""
    try:
        found = [operator.attrgetter(path)(torch.ops) for path in paths]
    except AttributeError:
        return None
    return found if torch.backends.mkldnn.is_available() else None  # type: ignore[no-untyped-call]


def _packed_linear(weight: Tensor) -> Callable[[Tensor, Tensor | None], Tensor]:
    """Return a function of (x, bias) that computes `F.linear` from a copy of an fp32 weight in oneDNN's own order."""
    functions = onednn("mkldnn._reorder_linear_weight", "mkldnn._linear_pointwise")
    if functions is None:
        return lambda x, bias: F.linear(x, weight, bias)
    reorder, linear = functions
    packed = reorder(weight, 8)
    return lambda x, bias: linear(x, packed, bias, "none", [], "")
