"""This rank's part of each step's batch, on the device: the next one is drawn in a thread while a step runs."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from pealm_core.contract.training_protocols import Batch
from pealm_core.hardware.device import to_device
from pealm_core.training.objective import part, prepared, scored

if TYPE_CHECKING:
    from pealm_core.training.trainer import Trainer

Counts = list[int]  # of scored targets, by pass


class Batches:
    """Draws the samples of a step by their numbers, so that a batch is the same for any number of processes."""

    def __init__(self, trainer: "Trainer", *, ahead: bool) -> None:
        """ahead: draw the next batch in a thread."""
        self._trainer = trainer
        self._thread = ThreadPoolExecutor(1, "batches") if ahead else None
        self._next: dict[int, Future[tuple[Batch, Counts]]] = {}  # by its first sample

    def get(self, sample: int) -> tuple[Batch, Counts]:
        """Return the batch that starts with this sample, and the scored targets of each pass over it."""
        if self._thread is None:
            return self._draw(sample)
        batch = self._next[sample].result() if sample in self._next else self._draw(sample)
        after = sample + self._trainer.settings.batch_size
        self._next = {after: self._thread.submit(self._draw, after)}
        return batch

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _draw(self, sample: int) -> tuple[Batch, Counts]:
        t = self._trainer
        local, micro = t.settings.batch_size // t.world.size, t.micro_batch_size
        first = sample + t.world.rank * local
        batch = prepared(t.objective, t.data.train, range(first, first + local), t.settings.seed)
        counts = [scored(t.objective, part(batch, start, micro)) for start in range(0, local, micro)]
        return to_device(batch, t.device), counts
