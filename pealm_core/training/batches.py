"""Batches on the device: the next one is drawn in a thread while a step runs."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from pealm_core.contract.errors import describe
from pealm_core.contract.training_parts import Batch, Source
from pealm_core.hardware.device import to_device
from pealm_core.hardware.distributed import World
from pealm_core.training.objective import part, prepared, scored

NO_MEMORY = "can't allocate memory"  # as torch says it on a CPU
Counts = list[int]  # of scored targets, by pass


class Batches:
    """This rank's part of each step's batch, on the device.

    The samples of a step are drawn by their numbers, so that the batch is the same for any number of processes.
    """

    def __init__(
        self,
        source: Source,
        objective: Any,
        world: World,
        device: torch.device,
        *,
        batch_size: int,
        micro_batch_size: int,
        seed: int,
        ahead: bool,
    ) -> None:
        """batch_size: samples of a step, on all ranks. micro_batch_size: in a pass. ahead: draw in a thread."""
        self._source, self._objective, self._seed, self._device = source, objective, seed, device
        self._size, self._local, self._micro = batch_size, batch_size // world.size, micro_batch_size
        self._offset = world.rank * self._local
        self._thread = ThreadPoolExecutor(1, "batches") if ahead else None
        self._next: tuple[int, Future[tuple[Mapping[str, Tensor], Counts]]] | None = None

    def get(self, sample: int) -> tuple[Batch, Counts]:
        """Return the batch that starts with this sample, and the scored targets of each pass over it."""
        if self._thread is None:
            return self._draw(sample)
        ready = self._next
        batch = ready[1].result() if ready is not None and ready[0] == sample else self._draw(sample)
        self._next = (sample + self._size, self._thread.submit(self._draw, sample + self._size))
        return batch

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _draw(self, sample: int) -> tuple[Batch, Counts]:
        first = sample + self._offset
        batch = prepared(self._objective, self._source, range(first, first + self._local), self._seed)
        parts = range(0, self._local, self._micro)
        counts = [scored(self._objective, part(batch, start, self._micro)) for start in parts]
        return to_device(batch, self._device), counts


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the device has no memory left."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or NO_MEMORY in describe(error)


def memory_advice(where: str, micro: int, block: int) -> str:
    """Return the line for a pass of `micro` sequences of `block` tokens that does not fit into memory."""
    smaller = f"--micro-batch-size {micro // 2}" if micro > 1 else f"--block-size {block // 2}"
    what = f"{micro} sequences of {block} tokens in a pass"
    return f"out of memory {where}: {what}; try {smaller} or a smaller model (--model.n-layer, ...)"
