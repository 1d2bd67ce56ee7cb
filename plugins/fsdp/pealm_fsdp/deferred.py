"""Models on the meta device: made without memory, and given their initial weights one tensor at a time.

A model's constructor and its `init_weights()` run on tensors without data, while their operations are recorded. Once
the model is sharded, what `init_weights()` did is repeated on the CPU: each process draws the same numbers as a model
that is made in the ordinary way, keeps its part of each parameter, and frees the rest.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

from pealm_core import PluginError


@dataclass(frozen=True)
class View:
    """A tensor without data: the number of its storage, and where it is in it."""

    storage: int
    nbytes: int
    dtype: torch.dtype
    size: torch.Size
    stride: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Call:
    """An operation, with views in place of the tensors without data."""

    func: Any
    args: Any
    kwargs: Any
    result: Any

    def views(self) -> list[View]:
        """Return the views among the arguments and results."""
        return [part for part in tree_iter((self.args, self.kwargs, self.result)) if isinstance(part, View)]

    @property
    def random(self) -> bool:
        """Whether it draws from a generator."""
        return torch.Tag.nondeterministic_seeded in self.func.tags


class Record(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records operations on the meta device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []
        self._tensors: list[Tensor] = []  # alive, so that no storage gets the number of another

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and record it."""
        result = func(*args, **(kwargs or {}))
        self.calls.append(Call(func, *tree_map_only(Tensor, self._view, (args, kwargs or {}, result))))
        return result

    def _view(self, tensor: Tensor) -> Any:
        self._tensors.append(tensor)
        return view(tensor) if tensor.is_meta else tensor


def view(tensor: Tensor) -> View:
    """Return where a tensor without data is."""
    storage = tensor.untyped_storage()
    where = (tensor.size(), tensor.stride(), int(tensor.storage_offset()))
    return View(storage._cdata, storage.nbytes(), tensor.dtype, *where)


class Deferred:
    """A model on the meta device whose initial weights are still to be computed."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        with torch.device("meta"), Record() as made:
            self.model = make()
        with torch.device("meta"), Record() as initial:
            self.model.init_weights()  # type: ignore[operator]
        draws = [call for call in made.calls if call.random]
        own = sum(call.random for call in initial.calls)
        self._before = draws[: len(draws) - own]  # of the constructor, until it calls init_weights
        self._calls = initial.calls
        self._wholes = {view(tensor).storage: (name, view(tensor)) for name, tensor in named_tensors(self.model)}
        used = {part.storage for call in initial.calls for part in call.views()}
        if missing := [name for storage, (name, _) in self._wholes.items() if storage not in used]:
            raise PluginError(f"init_weights() of {type(self.model).__name__} does not set {', '.join(missing[:5])}")

    def fill(self, put: Callable[[str, Tensor], object]) -> None:
        """Compute the initial weights on the CPU, and put each by its name as soon as it is complete."""
        for call in self._before:  # draw what the constructor draws, for the same numbers afterwards
            run(call, {})
        memory: dict[int, torch.UntypedStorage] = {}
        last = {part.storage: number for number, call in enumerate(self._calls) for part in call.views()}
        for number, call in enumerate(self._calls):
            run(call, memory)
            for storage in {part.storage for part in call.views() if last[part.storage] == number}:
                if storage in self._wholes:
                    name, whole = self._wholes[storage]
                    put(name, real(whole, memory))
                del memory[storage]


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters and buffers of a model by name."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def run(call: Call, memory: dict[int, torch.UntypedStorage]) -> None:
    """Repeat an operation on the CPU, on the storages in `memory`, to which it adds those that are new."""
    kwargs = {**call.kwargs, **({"device": torch.device("cpu")} if "device" in call.kwargs else {})}
    args, kwargs = tree_map_only(View, lambda part: real(part, memory), (call.args, kwargs))
    result = call.func(*args, **kwargs)
    for part, tensor in zip(tree_iter(call.result), tree_iter(result), strict=True):
        if isinstance(part, View):
            memory.setdefault(part.storage, tensor.untyped_storage())


def real(part: View, memory: dict[int, torch.UntypedStorage]) -> Tensor:
    """Return a view's tensor on the CPU; without data if nothing has written it yet."""
    if part.storage not in memory:
        memory[part.storage] = torch.UntypedStorage(part.nbytes)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=part.dtype).set_(memory[part.storage], part.offset, part.size, part.stride)
