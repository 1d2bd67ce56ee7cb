"""What a step costs: its memory at the peak and its operations, counted on tensors without data."""

import weakref
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

MAPPED = 2**25  # bytes from which on glibc gets each block from the system, and returns it


@dataclass(frozen=True)
class Shape:
    """A tensor without its data."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


@dataclass
class Call:
    """An operation with arguments of these shapes, and how often it is called."""

    func: Any
    args: Any
    kwargs: Any
    count: int = 0


Calls = Mapping[str, Call]


@dataclass(frozen=True)
class Cost:
    """What the passes of one step cost, in bytes and floating-point operations.

    working: the most that a forward and a backward pass use at one time beside the weights, new gradients included.
    mapped: the part of all memory at that time that is in blocks of MAPPED bytes or more.
    """

    parameters: int
    weights: int
    gradients: int
    optimizer: int
    working: int
    mapped: int
    flops: int
    calls: Calls  # of a pass
    update: Calls  # of the optimizer

    def memory(self, passes: int) -> int:
        """Return the peak of a step with so many passes: from the second one on, gradients are there already."""
        return self.weights + self.optimizer + self.working + (self.gradients if passes > 1 else 0)


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that are made and not yet freed, and the operations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.peak = self.flops = 0
        self.mapped = self.mapped_at_peak = 0
        self.calls: dict[str, Call] = {}
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count it."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.add(tensor)
        counter = flop_registry.get(func._overloadpacket)
        self.flops += int(counter(*args, **kwargs, out_val=result)) if counter is not None else 0
        shapes = tree_map_only(Tensor, _shape, (args, kwargs))
        key = f"{func} {shapes}"
        self.calls.setdefault(key, Call(func, *shapes)).count += 1
        return result

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's memory until it is freed."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._seen and size:
            self._seen.add(key)
            self.bytes += size
            self.mapped += size if size >= MAPPED else 0
            if self.bytes > self.peak:
                self.peak, self.mapped_at_peak = self.bytes, self.mapped
            weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.bytes -= size
        self.mapped -= size if size >= MAPPED else 0


def _shape(tensor: Tensor) -> Shape:
    return Shape(tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)


def cost(
    make_model: Callable[[], Any],
    make_optimizer: Callable[[Any], Any],
    *,
    micro_batch_size: int,
    block_size: int,
    dtype: torch.dtype,
) -> Cost:
    """Return the cost of a pass and an update. No data is made, unless the model asks for values."""
    sizes = (micro_batch_size, block_size, dtype)
    try:
        with FakeTensorMode():
            return _count(make_model(), make_optimizer, *sizes)
    except RuntimeError:  # DataDependentOutputException and its like
        with torch.random.fork_rng(devices=()):
            return _count(make_model(), make_optimizer, *sizes)


def _count(model: nn.Module, make_optimizer: Callable[[Any], Any], rows: int, block: int, dtype: torch.dtype) -> Cost:
    model.train()
    idx = torch.zeros(rows, block, dtype=torch.long)

    def step() -> None:
        with torch.autocast("cpu", dtype) if dtype != torch.float32 else nullcontext():
            loss = model(idx, idx)[1]
        loss.backward()

    with Ledger() as ledger:
        for tensor in (*model.parameters(), *model.buffers()):
            ledger.add(tensor)
        weights = ledger.bytes
        step()
        working, flops, calls, ledger.calls = ledger.peak - weights, ledger.flops, ledger.calls, {}
        gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
        before = ledger.bytes
        optimizer = make_optimizer(model)
        optimizer.step()
        update, state, ledger.calls = ledger.calls, ledger.bytes - before, {}
        working = max(working, ledger.peak - weights - state)
    count = sum(p.numel() for p in model.parameters())
    return Cost(count, weights, gradients, state, working, ledger.mapped_at_peak, flops, calls, update)
