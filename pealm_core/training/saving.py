"""Checkpoints of a running training: copied, then written by a thread while training continues."""

import copy
import math
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.checkpoints.tensors import identity
from pealm_core.contract.errors import PealmError
from pealm_core.contract.protocols import Tokenizer
from pealm_core.hardware.device import synchronize
from pealm_core.training.run_folder import Run

if TYPE_CHECKING:
    from pealm_core.training.trainer import Trainer


STATE = ("step", "seconds", "val_loss", "first_val_loss", "eval_seconds")  # of the trainer, in state.json


class Snapshot:
    """Copies of tensors in host memory, which training can't change. The next copies reuse the memory."""

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}

    def take(self, tree: Any, place: str = "") -> Any:
        """Return the same nested dicts with every tensor copied; tensors that share memory share the copy."""
        copies: dict[tuple[Any, ...], Tensor] = {}
        taken = self._copy(tree, place, copies)
        for device in {key[-1] for key in copies if isinstance(key[-1], torch.device)}:
            synchronize(device)
        return taken

    def _copy(self, tree: Any, place: str, copies: dict[tuple[Any, ...], Tensor]) -> Any:
        if isinstance(tree, Mapping):
            return {key: self._copy(value, f"{place}.{key}", copies) for key, value in tree.items()}
        if not isinstance(tree, Tensor):
            return copy.deepcopy(tree)
        if (key := identity(tree)) not in copies:
            memory = self._memory.get(place)
            if memory is None or memory.shape != tree.shape or memory.dtype != tree.dtype:
                memory = self._memory[place] = torch.empty(tree.shape, dtype=tree.dtype, pin_memory=tree.is_cuda)
            # Only copies from CUDA to pinned memory are waited for above.
            copies[key] = memory.copy_(tree.detach(), non_blocking=tree.is_cuda)
        return copies[key]


class Writer:
    """A thread that runs one job at a time. Nothing waits for it when the process ends."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: PealmError | None = None

    def start(self, job: Callable[[], None]) -> None:
        """Run a job, after the one before."""
        self.join()

        def work() -> None:
            try:
                job()
            except PealmError as error:
                self._error = error
            except (
                BaseException
            ) as error:  # a plugin's tokenizer (also SystemExit), a checkpoint that can't be removed
                self._error = PealmError(f"the checkpoint could not be written: {type(error).__name__}: {error}")

        self._error = None
        self._thread = threading.Thread(target=work, name="pealm-checkpoint", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the system has no more threads: training waits for the save
            self._thread = None
            work()

    @property
    def busy(self) -> bool:
        """Whether the job is still running."""
        return self._thread is not None and self._thread.is_alive()

    def join(self) -> PealmError | None:
        """Wait for the job; return its error."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        return self._error


class Saver:
    """Saves the checkpoints of a run: `checkpoints/step-00000500` to resume from, and `best/`."""

    def __init__(
        self,
        run: Run,
        tokenizer: Tokenizer,
        data_key: str,
        *,
        saved: Callable[[Path], None] = lambda folder: None,
        warn: Callable[[str], None] = lambda line: None,
    ) -> None:
        """saved: called on every rank for each folder that is complete. warn: shows a line about a failed save."""
        self.run, self.tokenizer, self.data_key = run, tokenizer, data_key
        self.best_on_disk = math.inf  # the loss of the weights in best/
        self.writer = Writer()
        self._saved, self._warn = saved, warn
        self._snapshot = Snapshot()
        self._folders: list[Path] = []  # being written
        self._best: float | None = None  # the loss of the weights being written to best/
        self._best_written = False

    def save(self, trainer: "Trainer", *, full: bool, best: bool) -> None:
        """Copy the state and start to write it: a step checkpoint (full), the weights (best), or both.

        Blocks only for the copy, and for the save before if that still runs.
        """
        self.settle(trainer)
        self.run.check()
        best = best and trainer.best_loss < self.best_on_disk  # a resumed run may find its own best/ of a later step
        if not (full or best):
            return
        step, best_folder = self.run.dir / "checkpoints" / f"step-{trainer.step:08d}", self.run.dir / "best"
        self._folders = [best_folder] * best + [step] * full
        self._best, self._best_written = trainer.best_loss if best else None, False
        if not trainer.world.main:
            return
        model = self._snapshot.take(trainer.model.state_dict(), "model")
        optimizer = self._snapshot.take(trainer.optimizer.state_dict(), "optimizer") if full else None
        state = {name: getattr(trainer, name) for name in STATE} | {
            "best_loss": trainer.best_loss if math.isfinite(trainer.best_loss) else None,
            "world_size": trainer.world.size,
            "data": self.data_key,
        }
        parts = {"model": model, "config": self.run.config, "tokenizer": self.tokenizer, "state": state}

        def write() -> None:
            self.run.sync()
            if best:
                checkpoint.save(best_folder, **parts, replace=True)
                self._best_written = True
            if full:
                link = best_folder if best else None
                checkpoint.save(step, **parts, optimizer=optimizer, replace=True, same_model=link)
            checkpoint.prune(self.run.dir, trainer.settings.keep)

        self.writer.start(write)

    def poll(self, trainer: "Trainer") -> None:
        """Announce the save that has ended meanwhile, if any."""
        if self._folders and not trainer.world.gather(self.writer.busy)[0][0]:
            self.settle(trainer)

    def settle(self, trainer: "Trainer", *, last: bool = False) -> PealmError | None:
        """Wait for the writer and announce what is on disk; return its error. last: no save follows."""
        if not self._folders:
            return None
        error, folders = self.writer.join(), self._folders
        self._folders = []
        failed, best_written = map(bool, trainer.world.gather(error is not None, self._best_written)[0])
        if self._best is not None and best_written:
            self.best_on_disk = self._best
        elif trainer.best_loss == self._best:
            trainer.best_loss = self.best_on_disk  # save again if better than best/
        if error is not None and not last:
            self._warn(f"{error}; training continues, and the next save tries again")
        for folder in folders:
            if not failed or (best_written and folder.name == "best"):
                self._saved(folder)
        return error

    def finish(self, trainer: "Trainer", *, failed: bool) -> None:
        """Wait for the last save. Raises PealmError if it failed, unless training has failed already."""
        if failed:
            self.writer.join()
            return
        with trainer.world.together():
            if error := self.settle(trainer, last=True):
                raise error
