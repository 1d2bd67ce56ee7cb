"""The operations of kernels.c, from calls of torch's functions."""

import ctypes
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pealm_cpu.int8 import Int8Weight
from pealm_cpu.kernels import FEW
from pealm_cpu.linear_weight import RowWeight

NAMES = "copy add sub mul div silu gelu relu rms_norm layer_norm linear int8_linear store attend"
KINDS = {name: kind for kind, name in enumerate(NAMES.split())}  # as in kernels.c


class Operation(ctypes.Structure):
    """The struct `operation` of kernels.c. tensors: what it reads and writes."""

    _fields_ = (
        ("kind", ctypes.c_int32),
        ("keys", ctypes.c_int32),
        ("size", ctypes.c_int64 * 4),
        ("strides", ctypes.c_int64 * 4 * 4),
        ("result", ctypes.c_void_p),
        ("input", ctypes.c_void_p * 5),
        ("number", ctypes.c_double),
    )

    def __init__(
        self, name: str, y: Tensor, *inputs: Tensor | None, size: Sequence[int], number: float = 0.0
    ) -> None:
        super().__init__(KINDS[name], number=number, result=y.data_ptr())
        self.tensors, self.size[: len(size)] = (y, *inputs), size
        self.input[: len(inputs)] = [0 if tensor is None else tensor.data_ptr() for tensor in inputs]


def is_plain(value: Any, dtype: torch.dtype = torch.float32) -> bool:
    """Return whether a value is a tensor or parameter of this dtype on a CPU."""
    return type(value) in (Tensor, nn.Parameter) and value.dtype == dtype and value.device.type == "cpu"


def operations_of(name: str, args: Any, kwargs: Any, y: Any) -> list[Operation] | None:
    """Return the operations of kernels.c that compute a function of torch with this name, or None."""
    make = FUNCTIONS.get(name)
    try:
        values = None if make is None else inspect.signature(make).bind(y, *args, **kwargs)
    except TypeError:  # an argument that it does not know
        return None
    return make(*values.args, **values.kwargs) if make and values and is_plain(y) else None


def _elements(name: str, y: Tensor, *inputs: Any) -> list[Operation] | None:
    """Element by element, with broadcasting; dimensions that are one in memory are joined."""
    tensors = [torch.tensor(float(part)) if isinstance(part, int | float) else part for part in inputs]
    if not all(map(is_plain, tensors)):
        return None
    parts, dims = [y, *(part.expand(y.shape) for part in tensors)], list[tuple[int, list[int]]]()
    for size, *strides in zip(y.shape, *(part.stride() for part in parts), strict=True):
        if dims and dims[-1][1] == [stride * size for stride in strides]:
            dims[-1] = dims[-1][0] * size, strides
        elif size != 1:
            dims.append((size, strides))
    dims = [(1, [0] * len(parts))] * (4 - len(dims)) + dims
    if len(dims) > 4:
        return None
    operation = Operation(name, y, *tensors, *tensors[:1] * (len(tensors) == 1), size=[size for size, _ in dims])
    for number in range(3):  # the second input of one that has a single one is the first
        operation.strides[number][:] = [strides[min(number, len(parts) - 1)] for _, strides in dims]
    return [operation]


def _binary(name: str) -> Callable[..., list[Operation] | None]:
    return lambda y, a, b, /: _elements(name, y, a, b)


def _copied(y: Tensor, x: Tensor, *shape: object) -> list[Operation] | None:
    """Copy x to y, which is contiguous and may have another shape."""
    if not is_plain(x):
        return None
    return _elements("copy", y.view(x.shape), x) if y.is_contiguous() else None


def _cat(y: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> list[Operation] | None:
    if any(tensor.dim() != y.dim() for tensor in tensors):
        return None
    parts = zip(torch.split(y, [tensor.shape[dim] for tensor in tensors], dim), tensors, strict=True)
    operations = [_elements("copy", *part) for part in parts]
    return None if None in operations else [each for some in operations for each in some or ()]


def _silu(y: Tensor, x: Tensor, inplace: bool = False) -> list[Operation] | None:
    return _elements("silu", y, x)


def _relu(y: Tensor, x: Tensor, inplace: bool = False) -> list[Operation] | None:
    return _elements("relu", y, x)


def _gelu(y: Tensor, x: Tensor, *, approximate: str = "none") -> list[Operation] | None:
    return _elements("gelu", y, x) if approximate == "tanh" else None


def _norm(name: str, y: Tensor, x: Tensor, shape: Any, weight: Any, bias: Any, eps: float) -> list[Operation] | None:
    plain = all(part is None or (is_plain(part) and part.is_contiguous()) for part in (x, y, weight, bias))
    if len(shape) != 1 or not plain:
        return None
    return [Operation(name, y, x, weight, bias, size=[x.numel() // shape[0], shape[0]], number=eps)]


def _layer_norm(
    y: Tensor, x: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> list[Operation] | None:
    return _norm("layer_norm", y, x, shape, weight, bias, eps)


def _rms_norm(y: Tensor, x: Tensor, shape: Any, weight: Any = None, eps: Any = None) -> list[Operation] | None:
    return _norm("rms_norm", y, x, shape, weight, None, torch.finfo(x.dtype).eps if eps is None else eps)


def _linear(y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> list[Operation] | None:
    k, n = x.shape[-1], y.shape[-1]
    if x.dim() < 2 or not k or (bias is not None and bias.shape != (n,)):
        return None
    rows = x.numel() // k
    if not all(part is None or (is_plain(part) and part.is_contiguous()) for part in (x, y, bias)):
        return None
    if isinstance(weight, Int8Weight):
        few = weight._few if rows <= FEW else None
        if few is None:
            return None
        return [Operation("int8_linear", y, x, few.weight, bias, few.offsets, few.unit, size=[rows, n, k])]
    plain = weight.weight if isinstance(weight, RowWeight) else weight
    if rows > FEW or not is_plain(plain) or not plain.is_contiguous():
        return None
    return [Operation("linear", y, x, plain, bias, size=[rows, n, k])]


def _store(y: Tensor, cache: Tensor, dim: int, index: Tensor, source: Tensor) -> list[Operation] | None:
    """`index_copy_` of one place of the third of four dimensions."""
    if dim != 2 or cache.dim() != 4 or index.numel() != 1 or not (is_plain(source) and is_plain(index, torch.int64)):
        return None
    operation = Operation("store", cache, source, source, index, size=source.shape)
    operation.strides[0][:] = cache.stride()
    operation.strides[1][:] = operation.strides[2][:] = source.stride()
    operation.strides[3][0], operation.keys = cache.stride(2), cache.shape[2]
    return [operation]


def _attend(y: Tensor, q: Tensor, k: Tensor, v: Tensor, *, attn_mask: Tensor | None = None) -> list[Operation] | None:
    """Attention with as many keys as queries have heads, and a mask (B, 1, 1, S) of numbers to add."""
    four = [y, q, k, v]
    if not (all(is_plain(part) and part.dim() == 4 and part.stride(3) == 1 for part in four) and is_plain(attn_mask)):
        return None
    if attn_mask is None or attn_mask.dim() != 4 or attn_mask.shape[1:] != (1, 1, k.shape[2]):
        return None
    if len(attn_mask) not in (1, len(q)) or v.shape != k.shape or k.shape[:2] != q.shape[:2] or y.shape != q.shape:
        return None
    operation = Operation("attend", y, q, k, v, attn_mask, size=q.shape, number=q.shape[3] ** -0.5)
    operation.keys = k.shape[2]
    for number, part in enumerate(four):
        operation.strides[number][:3] = part.stride()[:3]
    operation.strides[0][3], operation.strides[1][3] = attn_mask.stride(0) * (len(attn_mask) > 1), attn_mask.stride(3)
    return [operation]


FUNCTIONS: dict[str, Callable[..., list[Operation] | None]] = {
    **{spelling: _binary(name) for name in ("add", "sub", "mul", "div") for spelling in (name, f"__{name}__")},
    **{"__radd__": _binary("add"), "__rmul__": _binary("mul"), "__truediv__": _binary("div")},
    **dict.fromkeys(("reshape", "contiguous", "flatten", "clone"), _copied),
    "cat": _cat,
    "silu": _silu,
    "relu": _relu,
    "gelu": _gelu,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "linear": _linear,
    "index_copy_": _store,
    "scaled_dot_product_attention": _attend,
}
