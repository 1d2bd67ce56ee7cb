"""Weights for inference: how a linear layer reads them, a token at a time, is what generation costs.

`prepare` swaps the weights that reach `F.linear` for tensors that know a faster way: int8 with a scale per output
channel, or on a CPU the fp32 weights as they are, read in blocks. Models need no change, tied heads included.
"""

import time
from functools import lru_cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from pealm_core.contract.errors import UserError

LARGE = 2**16  # elements; a smaller matrix stays in the processor's cache, where nothing is to be won
BATCH = 64  # rows of one token each, up to which a second copy of the weights, in oneDNN's order, makes them faster


def prepare(model: nn.Module, quantize: str | None = None) -> nn.Module:
    """Swap a model's linear weights, in place, for those of inference. Raises UserError for an unknown `quantize`.

    quantize: "int8", or None. The model can't be trained afterwards. Its state dict stays what it was, but for what
    int8 rounds.
    """
    if quantize not in (None, "int8"):
        raise UserError(f"--quantize {quantize}: unknown; int8 is what there is")
    for parameter in linear_weights(model):
        fast: Tensor
        if quantize == "int8":
            fast = Int8Weight.of(parameter)
        elif parameter.device.type == "cpu" and parameter.dtype == torch.float32 and parameter.numel() >= LARGE:
            fast = parameter.detach().as_subclass(BlockWeight)
        else:
            continue
        fast._is_param = True  # an nn.Parameter to whoever asks
        for module in model.modules():  # a tied weight stands in several places
            for name, own in module._parameters.items():
                if own is parameter:
                    module._parameters[name] = fast  # type: ignore[assignment]
    return model


@torch.inference_mode()
def linear_weights(model: nn.Module) -> list[Tensor]:
    """The parameters that a forward pass gives to `F.linear`, whole or flattened: what every token reads."""
    own = {_key(parameter): parameter for parameter in model.parameters() if parameter.dim() >= 2}
    found: dict[int, Tensor] = {}

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if func is F.linear:
                weight = kwargs["weight"] if "weight" in kwargs else args[1]
                if (parameter := own.get(_key(weight))) is not None and parameter.numel() == weight.numel():
                    found[_key(parameter)] = parameter
            return func(*args, **kwargs)

    with Watch():
        model(torch.zeros(1, 1, dtype=torch.long, device=next(model.parameters()).device))
    return list(found.values())


def _key(weight: Tensor) -> int:
    return (weight.q if isinstance(weight, Int8Weight) else weight).data_ptr()


def nbytes(weight: Tensor) -> int:
    """The memory that a weight takes."""
    if isinstance(weight, Int8Weight):
        return weight.q.nbytes + weight.scale.nbytes
    return weight.numel() * weight.element_size()


def bytes_per_token(model: nn.Module) -> int:
    """Bytes of weights that a new token reads: those of linear layers, and vectors; not a whole embedding."""
    return sum(map(nbytes, linear_weights(model))) + sum(nbytes(p) for p in model.parameters() if p.dim() < 2)


def read_bandwidth(device: torch.device | str = "cpu") -> float:
    """Bytes a second at which the device reads memory: the best of a few sums over 256 MiB."""
    data, best = torch.ones(2**26, device=device), float("inf")
    for _ in range(6):
        began = time.perf_counter()
        float(data.sum())
        best = min(best, time.perf_counter() - began)
    return data.nbytes / best


class BlockWeight(Tensor):
    """An fp32 matrix on a CPU whose product with one row is a `bmm` over blocks of its rows.

    Nothing is copied. MKL's product of a matrix and a vector reads about half as fast (on a Zen 5, one thread: 16.5
    and 28.7 GB/s). Several rows of one token each, a batch, take oneDNN and a copy in its own order, made when the
    first batch comes.
    """

    _packed: Tensor | None = None
    _whole: "BlockWeight | None" = None  # what this is a view of

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """As a plain tensor, and gives plain tensors; `F.linear` and `flatten` know better."""
        with torch._C.DisableTorchFunctionSubclass():
            if func is F.linear and not kwargs and type(args[1]) is cls and not torch.is_grad_enabled():
                return _linear(*args)
            found = func(*args, **(kwargs or {}))
            if func is Tensor.flatten and type(args[0]) is cls:
                found = found.as_subclass(cls)
                found._whole = args[0]
            return found


def _linear(x: Tensor, weight: BlockWeight, bias: Tensor | None = None) -> Tensor:
    n, k = weight.shape
    rows = x.numel() // k
    if x.dtype != torch.float32 or x.layout is not torch.strided:
        return F.linear(x, weight, bias)
    if rows == 1 and (blocks := _blocks(n, torch.get_num_threads())):
        # As the transpose of a row: with the strides of a column torch takes a way that is eight times slower.
        column = x.reshape(1, k).t().expand(blocks, k, 1)
        y = torch.bmm(weight.view(blocks, n // blocks, k), column).view(*x.shape[:-1], n)
        return y if bias is None else y + bias
    if 2 < rows <= BATCH and x.shape[-2] == 1 and torch._C._has_mkldnn:
        whole = weight._whole if weight._whole is not None else weight
        if whole._packed is None:
            whole._packed = torch.ops.mkldnn._reorder_linear_weight(weight.as_subclass(Tensor), 8)
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, whole._packed, bias, "none", [], ""))
    return F.linear(x, weight, bias)


@lru_cache
def _blocks(n: int, threads: int) -> int:
    """Into how many blocks to cut n rows: at least two, and as many as threads; 0 where no such number divides n."""
    return next((blocks for blocks in range(max(2, threads), 2 * threads + 64) if n % blocks == 0), 0)


class Int8Weight(Tensor):
    """A matrix as whole numbers of -127 to 127 times a scale per output channel.

    On a CPU the rows that it meets are rounded so, too, each on its own, and the products summed exactly: the batch
    that a row is in changes nothing. Elsewhere the matrix is made whole again for each product. To everything
    but `F.linear` it is a matrix of its scale's dtype.
    """

    q: Tensor  # int8, (..., out, in)
    scale: Tensor  # (..., out, 1)
    unit: Tensor  # (... out,), fp32: what a 1 of 127 makes of a product
    _flat: "Int8Weight | None" = None  # three dimensions as two
    _packed: Tensor | None = None
    _zero: Tensor

    @staticmethod
    def __new__(cls, q: Tensor, scale: Tensor) -> "Int8Weight":
        """From the numbers (..., in) and the scales (..., 1)."""
        self: Int8Weight = Tensor._make_wrapper_subclass(cls, q.shape, dtype=scale.dtype, device=q.device)
        self.q, self.scale, self.unit = q, scale, scale.float().flatten() / 127
        return self

    @classmethod
    def of(cls, weight: Tensor) -> "Int8Weight":
        """The nearest such matrix to a weight (..., in)."""
        with torch.no_grad():
            scale = weight.float().abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
            return cls((weight.float() / scale).round().to(torch.int8), scale.to(weight.dtype))

    def dequantize(self) -> Tensor:
        """The plain matrix."""
        return self.q.to(self.scale.dtype) * self.scale

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """`F.linear` in int8; rows of an embedding and slices made whole alone."""
        if func is F.linear and not kwargs and type(args[1]) is cls:
            return _int8_linear(*args)
        if func is F.embedding and type(args[1]) is cls:
            return F.embedding(args[0], args[1].q) * F.embedding(args[0], args[1].scale)
        if func is Tensor.flatten and args[1:] == (0, 1) and args[0].dim() == 3:
            if args[0]._flat is None:
                args[0]._flat = cls(args[0].q.flatten(0, 1), args[0].scale.flatten(0, 1))
            return args[0]._flat
        if func is Tensor.__getitem__ and type(args[0]) is cls and isinstance(args[1], (int, slice)):
            return args[0].q[args[1]].to(args[0].scale.dtype) * args[0].scale[args[1]]
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Anything else sees the plain matrix."""
        args, kwargs = tree_map_only(cls, cls.dequantize, (args, kwargs or {}))
        return func(*args, **kwargs)


def _int8_linear(x: Tensor, weight: Int8Weight, bias: Tensor | None = None) -> Tensor:
    x = x.to_dense() if x.layout is not torch.strided else x
    if x.device.type != "cpu":
        return F.linear(x, weight.dequantize().to(x.dtype), bias)
    rows = x.reshape(-1, x.shape[-1]).float()  # (B, in)
    size = rows.abs().amax(-1, keepdim=True).clamp_min_(1e-12)  # (B, 1)
    q = (rows / size).mul_(127).round_()
    if 1 < len(rows) <= BATCH and x.shape[-2] == 1 and torch._C._has_mkldnn:
        y = _packed_product(q, weight)
    else:
        y = torch._int_mm(q.to(torch.int8), weight.q.t()) * weight.unit  # (B, out)
    y = y.mul_(size) if bias is None else torch.addcmul(bias.float(), y, size)
    return y.to(x.dtype).view(*x.shape[:-1], y.shape[-1])


def _packed_product(q: Tensor, weight: Int8Weight) -> Tensor:
    """The same, by a product that takes bytes of 0 to 255, of which 128 are 0, and a copy in oneDNN's order."""
    if weight._packed is None:
        weight._packed = torch.ops.onednn.qlinear_prepack(weight.q, [8, weight.q.shape[1]])
        weight._zero = torch.zeros(len(weight.q), dtype=torch.int32)
    x = q.add_(128).to(torch.uint8)
    more: tuple[Any, ...] = (None, 1.0, 0, torch.float32, "none", [], "")  # no bias, nothing after the product
    found = torch.ops.onednn.qlinear_pointwise(x, 1.0, 128, weight._packed, weight.unit, weight._zero, *more)
    return cast(Tensor, found)
