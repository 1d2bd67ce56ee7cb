"""Record a function's operations on a CPU, and repeat them in C, where a small one costs less than a microsecond.

A pass for one token is a thousand operations on a few hundred numbers each: Python and torch spend more time on them
than it takes to read all weights. What kernels.c does not have is repeated by torch, in its place.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pealm_core.hardware import cpu_operations, kernels
from pealm_core.hardware.cpu_operations import Operation, is_plain

# Functions whose result Python code or a shape depends on.
NUMBERS = {"item", "tolist", "numpy", "equal", "allclose", "nonzero", "argwhere", "masked_select", "unique"}
NUMBERS |= {f"__{name}__" for name in ("bool", "int", "float", "index", "contains")}


def record(function: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Return a function that repeats all operations of another one and returns the same tensor each time.

    The other one has the same shapes at every call, and what it does depends on no numbers. It runs once, and once
    more as recorded. Raises RuntimeError if it can't be recorded, or if the two results differ.
    """
    library = kernels.library()
    if library is None:
        raise RuntimeError("there is no C compiler")
    recorder = _Recorder()
    with recorder:
        output = function()
    steps, expected = recorder.steps(library.run), output.clone()

    def repeat() -> Tensor:
        for step in steps:
            step()
        return output

    finite = expected.isfinite()
    difference, size = (float(part[finite].norm()) for part in (repeat() - expected, expected))
    if not difference <= 0.2 * size:  # int8 turns another rounding into several percent
        raise RuntimeError("its operations give another result when they are repeated")
    return repeat


class _Recorder(TorchFunctionMode):
    """Runs operations and remembers them."""

    def __init__(self) -> None:
        super().__init__()
        self._done: list[Operation | Callable[[], object]] = []

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
        masks = name == "__getitem__" and any(is_plain(leaf, torch.bool) for leaf in _leaves(args[1:]))
        if name in NUMBERS or masks or torch.is_autocast_enabled("cpu"):
            raise RuntimeError(f"{name} can't be recorded")
        result = func(*args, **kwargs)
        inputs = [leaf for leaf in _leaves([args, kwargs]) if isinstance(leaf, Tensor)]
        results = [leaf for leaf in _leaves(result) if type(leaf) is Tensor]
        memory = {tensor.untyped_storage().data_ptr() for tensor in inputs}
        in_place = name == "__setitem__" or "out" in kwargs or (name[-1:] == "_" and name[-2:] != "__")
        in_place |= name.startswith("__i") and len(args) > 0 and result is args[0]
        if not in_place and all(tensor.untyped_storage().data_ptr() in memory for tensor in results):
            return result  # views, sizes
        operations = cpu_operations.operations(name, args, kwargs, result)
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
        if run(array, len(row), torch.get_num_threads()):  # `row` keeps the tensors
            raise MemoryError

    return step


def _copy(new: Any, results: list[Tensor]) -> None:
    for tensor, result in zip((leaf for leaf in _leaves(new) if type(leaf) is Tensor), results, strict=True):
        result.copy_(tensor)


def _leaves(tree: Any) -> Iterator[Any]:
    """Yield what nested arguments or results consist of."""
    if isinstance(tree, list | tuple | dict):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _leaves(part)
    else:
        yield tree
