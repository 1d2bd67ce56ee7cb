"""Record a function's operations on a CPU, and repeat them in C, where a small one costs less than a microsecond.

A pass for one token is a thousand operations on a few hundred numbers each: Python and torch spend more time on them
than it takes to read all weights. What kernels.c does not have is repeated by torch, in its place.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pealm_cpu import kernels
from pealm_cpu.int8 import Int8Weight
from pealm_cpu.operations import Operation, operations_of

# What can be recorded: functions whose results depend on nothing but their arguments, in the same shapes whatever the
# numbers are. All others end the recording.
_FUNCTIONS = """
    abs acos add addcmul addmm all amax amin any arange argmax argmin asin atan atan2 baddbmm bitwise_and bitwise_not
    bitwise_or bmm cat ceil clamp clamp_max clamp_min clone contiguous copy cos cosh cumprod cumsum div einsum elu
    embedding eq erf exp exp2 expm1 fill flip floor floor_divide fmod full full_like gather ge gelu glu group_norm gt
    index_add index_copy index_select isfinite isinf isnan layer_norm le lerp linear log log1p log2 log_softmax
    logical_and logical_not logical_or logsigmoid logsumexp lt masked_fill matmul max maximum mean min minimum mish mm
    mul mv ne neg new_full new_ones new_zeros norm normalize ones ones_like outer polar pow prod reciprocal relu
    remainder repeat repeat_interleave reshape rms_norm roll round rsqrt scaled_dot_product_attention scatter
    scatter_add sigmoid sign silu sin sinh softmax softplus sort sqrt square stack std sub sum tan tanh tensor topk
    tril triu true_divide var where zero zeros zeros_like
    bfloat16 bool double float half int long to type type_as
    as_strided broadcast_to chunk detach diagonal expand expand_as flatten imag movedim narrow permute real select
    split squeeze swapaxes swapdims t tensor_split transpose unbind unflatten unsqueeze view view_as view_as_complex
    view_as_real dropout
    dim is_complex is_contiguous is_floating_point nelement numel size storage_offset stride __getitem__ __len__
    __setitem__ __invert__ __neg__ __abs__ __matmul__ __rmatmul__ __eq__ __ne__ __lt__ __le__ __gt__ __ge__
"""
_OPERATORS = "add sub mul div truediv floordiv mod pow and or xor"
_NAMES = [name + ending for name in _FUNCTIONS.split() for ending in ("", "_")]
_NAMES += [f"__{letter}{name}__" for name in _OPERATORS.split() for letter in ("", "r", "i")]
KNOWN = {getattr(place, name) for place in (torch, Tensor, F) for name in _NAMES if hasattr(place, name)}
SHAPES = {"arange", "full", "new_full", "repeat", "repeat_interleave", "reshape", "roll", "topk", "tril", "triu"}
LIKE = {"expand_as", "view_as", "type_as", "to"}  # views that depend on no numbers of their second argument


def record(function: Callable[[], Tensor], change: Callable[[], None]) -> Callable[[], Tensor]:
    """Return a function that repeats all operations of another one and returns the same tensor each time.

    The other one does the same operations in the same shapes at every call. It runs once; then `change` gives the
    tensors that it reads other numbers, and it runs again, beside what was recorded. Raises RuntimeError if it
    can't be recorded, or if the two results differ.
    """
    library = kernels.library()
    if library is None:
        raise RuntimeError("there is no C compiler")
    recorder = _Recorder()
    with recorder:
        output = function()
    steps = recorder.steps(library.run)

    def repeat() -> Tensor:
        for step in steps:
            step()
        return output

    change()
    expected = function()
    finite = expected.isfinite()
    difference, size = (float(part[finite].norm()) for part in (repeat() - expected, expected))
    if not difference <= (0.2 if recorder.rounds else 1e-3) * size:
        raise RuntimeError("its operations give another result when they are repeated")
    return repeat


class _Recorder(TorchFunctionMode):
    """Runs operations and remembers them."""

    def __init__(self) -> None:
        super().__init__()
        self._done: list[Operation | Callable[[], object]] = []
        self.rounds = False  # so that another rounding of a number may become several percent of the result

    def steps(self, run: Any) -> list[Callable[[], object]]:
        """Return what repeats them: one function for those in a row that are in C, one for each of the others."""
        steps, row = list[Callable[[], object]](), list[Operation]()
        for done in [*self._done, None]:
            if isinstance(done, Operation):
                row.append(done)
                continue
            if row:
                steps.append(_in_c(run, row))
                row = []
            if done is not None:
                steps.append(done)
        return steps

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        result = func(*args, **kwargs)
        inputs = [leaf for leaf in _leaves([args, kwargs]) if isinstance(leaf, Tensor)]
        every = [leaf for leaf in _leaves(result) if isinstance(leaf, Tensor)]
        results = [
            leaf for leaf in every if type(leaf) in (Tensor, nn.Parameter) or any(leaf is own for own in inputs)
        ]
        memory, made = _memory(inputs), _memory(results)
        rest = [leaf for leaf in _leaves([args[1:], kwargs]) if isinstance(leaf, Tensor)]
        in_place = name == "__setitem__" or "out" in kwargs or (name[-1:] == "_" and name[-2:] != "__")
        in_place |= len(args) > 0 and result is args[0] and (name in ("relu", "silu") or name.startswith("__i"))
        view = not in_place and made <= memory
        if (
            (func not in KNOWN and (name != "__get__" or not view))  # an attribute such as `shape` is known
            or len(results) < len(every)  # another kind of tensor
            # The shape of the result depends on numbers:
            or (name in SHAPES and (rest or (name == "arange" and inputs)))
            or (name == "where" and len(args) + len(kwargs) < 3)
            or (name == "__getitem__" and any(leaf.dtype in (torch.bool, torch.uint8) for leaf in rest))
            or (view and name not in LIKE and not _memory(rest) <= made)  # its place in memory does
            or (name == "dropout" and not view)  # the numbers are random
            or torch.is_autocast_enabled("cpu")
        ):
            raise RuntimeError(f"{name} can't be recorded")
        low = (torch.bfloat16, torch.float16)
        self.rounds |= any(isinstance(leaf, Int8Weight) or leaf.dtype in low for leaf in [*inputs, *results])
        if view:
            return result
        operations = operations_of(name, args, kwargs, result)
        if operations is not None:
            self._done += operations
        elif in_place:
            self._done.append(lambda: func(*args, **kwargs))
        else:
            self._done.append(lambda: _copy(func(*args, **kwargs), results))
        return result


def _in_c(run: Any, row: list[Operation]) -> Callable[[], None]:
    array = (Operation * len(row))(*row)

    def step() -> None:
        if failed := run(array, len(row), torch.get_num_threads()):  # `row` keeps the tensors
            raise MemoryError if failed == 1 else IndexError("a place outside the cache")

    return step


def _copy(new: Any, results: list[Tensor]) -> None:
    for tensor, result in zip((leaf for leaf in _leaves(new) if isinstance(leaf, Tensor)), results, strict=True):
        result.copy_(tensor)


def _memory(tensors: list[Tensor]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


def _leaves(tree: Any) -> Iterator[Any]:
    """Yield what nested arguments or results consist of."""
    if isinstance(tree, slice):
        tree = tree.start, tree.stop, tree.step
    if isinstance(tree, list | tuple | dict):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _leaves(part)
    else:
        yield tree
