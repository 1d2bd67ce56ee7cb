"""Tensors that replace a linear layer's weight and compute `F.linear` faster."""

from functools import lru_cache
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from pealm_core.hardware.private_torch import pack, packed_linear

BATCH = 64  # most rows of one token each for which a second copy of the weights, in oneDNN's order, is faster


class LinearWeight(Tensor):
    """A weight with its own `linear`; every other function sees the tensor `plain()`."""

    _tensor: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> Self:
        """Wrap a weight, without a copy."""
        tensor = weight.detach()
        self = tensor.as_subclass(cls)
        self._tensor = tensor
        return self

    def linear(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Compute `F.linear(x, self, bias)`."""
        raise NotImplementedError

    def plain(self) -> Tensor:
        """Return the weight as an ordinary tensor."""
        return self._tensor

    def bytes_read(self) -> int:
        """Return the bytes of memory that one product reads."""
        plain = self.plain()
        return plain.numel() * plain.element_size()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `linear` for `F.linear`, and anything else with plain tensors."""
        kwargs = kwargs or {}
        if func is F.linear and len(args) > 1 and isinstance(args[1], LinearWeight):
            return args[1].linear(args[0], *args[2:], **kwargs)
        return func(*_plain(args), **_plain(kwargs))


def _plain(value: Any) -> Any:
    if isinstance(value, LinearWeight):
        return value.plain()
    if isinstance(value, (tuple, list)):
        return type(value)(map(_plain, value))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


class TiedWeight(LinearWeight):
    """An fp32 embedding that `F.linear` reads in a lower precision as the model's head."""

    low: Tensor

    def linear(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Multiply by the copy in low precision."""
        return F.linear(x, self.low, bias)

    def bytes_read(self) -> int:
        """Return the bytes of the copy."""
        return self.low.nbytes


class BlockWeight(LinearWeight):
    """An fp32 matrix on a CPU whose product with one row is a `bmm` over blocks of its rows.

    Nothing is copied for that. MKL's matrix-vector product reads memory at about half the speed (one thread of a
    Zen 5: 16.5 and 28.7 GB/s). A batch of several rows of one token each uses oneDNN and a copy in oneDNN's order,
    which the first such batch makes.
    """

    _packed: Tensor | None = None
    _flat: "BlockWeight | None" = None  # three dimensions as two

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Keep the class for `flatten(0, 1)`, which models use to join the weights of queries, keys and values."""
        if func is Tensor.flatten and args[1:] == (0, 1) and args[0].dim() == 3:
            if args[0]._flat is None:
                args[0]._flat = cls.of(args[0]._tensor.flatten(0, 1))
            return args[0]._flat
        return super().__torch_function__(func, types, args, kwargs)

    def linear(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Choose by the number of rows: blocks for one, oneDNN for a batch of single tokens, else `F.linear`."""
        weight = self._tensor
        n, k = weight.shape
        rows = x.numel() // k
        if x.dtype != torch.float32 or x.layout is not torch.strided or torch.is_grad_enabled():
            return F.linear(x, weight, bias)
        if rows == 1 and (blocks := _blocks(n, torch.get_num_threads())):
            # The transpose of a row: with the strides of a column torch uses a path that is eight times slower.
            column = x.reshape(1, k).t().expand(blocks, k, 1)
            y = torch.bmm(weight.view(blocks, n // blocks, k), column).view(*x.shape[:-1], n)
            return y if bias is None else y + bias
        if 2 < rows <= BATCH and x.shape[-2] == 1:
            if self._packed is None:
                self._packed = pack(weight)
            if self._packed is not None:
                return packed_linear(x, self._packed, bias)
        return F.linear(x, weight, bias)


@lru_cache
def _blocks(n: int, threads: int) -> int:
    """Return into how many blocks to cut n rows: at least 2 and one per thread; 0 if no such number divides n."""
    return next((blocks for blocks in range(max(2, threads), 2 * threads + 64) if n % blocks == 0), 0)
