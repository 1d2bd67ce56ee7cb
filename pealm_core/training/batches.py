"""Batches on the device: the next one is drawn in a thread while a step runs."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from pealm_core.data.windows import Batch
from pealm_core.hardware.device import to_device


class Batches:
    """This rank's batches on the device. `ahead`: a thread draws the next one while a step runs."""

    def __init__(self, draw: Callable[[int], Batch], device: torch.device, *, ahead: bool) -> None:
        self._draw, self._device = draw, device
        self._thread = ThreadPoolExecutor(1, "batches") if ahead else None
        self._next: tuple[int, Future[Batch]] | None = None

    def get(self, step: int) -> Batch:
        """Return the batch of a step. Raises what drawing it raises."""
        if self._thread is None:
            return self._fetch(step)
        ready = self._next
        batch = ready[1].result() if ready is not None and ready[0] == step else self._fetch(step)
        self._next = (step + 1, self._thread.submit(self._fetch, step + 1))
        return batch

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _fetch(self, step: int) -> Batch:
        idx, targets = self._draw(step)
        batch = to_device({"idx": idx, "targets": targets}, self._device)
        return batch["idx"], batch["targets"]
