"""How fast this machine is: its matrix products at their best, and each operation of a step by itself."""

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_iter, tree_map_only

from pealm_estimate.ledger import Call, Calls, Shape

COPIES, FOOTPRINT = 64, 2**26  # of a call's tensors, and their bytes
LEAST = 0.02  # seconds that an operation is repeated
ROUNDS = 3


def synchronize(device: torch.device) -> None:
    """Wait until the device has done everything it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def seconds(work: Callable[[], Any], device: torch.device, least: float = LEAST) -> float:
    """Return the time of a call: the median of rounds, after one that doesn't count."""
    began = time.perf_counter()
    work()
    synchronize(device)
    repeat = max(1, int(least / max(1e-7, time.perf_counter() - began)))
    times = []
    for _ in range(ROUNDS if repeat > 1 else 1):
        began = time.perf_counter()
        for _ in range(repeat):
            work()
        synchronize(device)
        times.append((time.perf_counter() - began) / repeat)
    return statistics.median(times)


def peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s of a large product of matrices."""
    n = 1024 if device.type == "cpu" else 8192
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    return 2 * n**3 / seconds(lambda: a @ b, device, 0.3)


def replay(calls: Calls, device: torch.device) -> float:
    """Return the seconds of all calls: each kind is run on tensors of its shapes, and multiplied by its number.

    Operations of other devices' tensors and those without tensors are left out.
    """
    total = 0.0
    for call in calls.values():
        shapes = [part for part in tree_iter((call.args, call.kwargs)) if isinstance(part, Shape)]
        bytes_ = sum(shape.dtype.itemsize * math.prod(shape.size) for shape in shapes)
        work = Cold(call, device, copies=min(COPIES, max(1, FOOTPRINT // max(1, bytes_))))
        with torch.no_grad():
            total += call.count * seconds(work, device)
    return total


class Cold:
    """A call on each of several copies of its tensors in turn, with its last results kept.

    In a step, what an operation reads and writes was last used long before, and is not in a cache.
    """

    def __init__(self, call: Call, device: torch.device, copies: int) -> None:
        self.func, self._turn, self._results = call.func, 0, [None] * copies
        self._copies = [
            tree_map_only(Shape, lambda shape: tensor(shape, device), (call.args, call.kwargs)) for _ in range(copies)
        ]
        for _, kwargs in self._copies:
            kwargs |= {"device": device} if "device" in kwargs else {}

    def __call__(self) -> None:
        """Run it on the next copy."""
        args, kwargs = self._copies[self._turn]
        self._results[self._turn] = self.func(*args, **kwargs)
        self._turn = (self._turn + 1) % len(self._copies)


def tensor(shape: Shape, device: torch.device) -> torch.Tensor:
    """Return a tensor of a shape: small numbers, and zeros where they may be indices."""
    result = torch.empty_strided(shape.size, shape.stride, dtype=shape.dtype, device=device)
    return result.fill_(0.01) if shape.dtype.is_floating_point else result.zero_()
