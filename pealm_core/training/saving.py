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
from pealm_core.checkpoints.adapters import trainable_state
from pealm_core.checkpoints.tensors import identity
from pealm_core.contract.errors import PealmError, describe
from pealm_core.contract.protocols import has
from pealm_core.hardware.device import synchronize

if TYPE_CHECKING:
    from pealm_core.training.trainer import Trainer


STATE = ("step", "sample", "seconds", "val_loss", "first_val_loss", "eval_seconds")  # of the trainer, in state.json


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
        if isinstance(tree, list | tuple):
            return type(tree)(self._copy(value, f"{place}.{i}", copies) for i, value in enumerate(tree))
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
            except BaseException as error:  # a plugin's (also SystemExit), a checkpoint that can't be removed
                text = f"the checkpoint could not be written: {describe(error)}"
                self._error = error if isinstance(error, PealmError) else PealmError(text)

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
    """Saves the checkpoints of a run: `checkpoints/step-00000500` to resume from, and `best/`.

    Every method is called on every rank; rank 0 writes.
    """

    def __init__(self, trainer: "Trainer") -> None:
        self.trainer = trainer
        self.best_on_disk = math.inf  # the loss of the weights in best/
        self.writer = Writer()
        self._snapshot = Snapshot()
        self._folders: list[Path] = []  # being written
        self._best: float | None = None  # the loss of the weights being written to best/
        self._best_written = False

    def save(self, *, full: bool, best: bool) -> None:
        """Copy the state and start to write it: a step checkpoint (full), the best weights, or both.

        Blocks only for the copy, and for the save before if that still runs.
        """
        t = self.trainer
        self.settle()
        t.run.check()
        best = best and t.best_loss < self.best_on_disk  # a resumed run may find its own best/ of a later step
        if not (full or best):
            return
        step, best_folder = t.run.dir / "checkpoints" / f"step-{t.step:08d}", t.run.dir / "best"
        self._folders = [best_folder] * best + [step] * full
        self._best, self._best_written = t.best_loss if best else None, False
        weights, optimizer = t.strategy.full_state(t.model, t.optimizer)
        kept = trainable_state(t.model).keys()
        weights = {name: tensor for name, tensor in weights.items() if name in kept}
        averaged = None  # the weights to keep in best/, if they are not the model's own
        if best:
            with t.observers.evaluating() as model:
                if model is not t.model or has(t.optimizer, "eval"):
                    averaged = self._snapshot.take(trainable_state(model), "best")
        if not t.world.main:
            return
        own = self._snapshot.take(weights, "model") if full or averaged is None else {}
        extras: dict[str, Any] = {"optimizer": optimizer, "extra": t.observers.state()}
        extras = {name: self._snapshot.take(tree, name) for name, tree in extras.items() if full and tree}
        state = {name: getattr(t, name) for name in STATE} | {
            "best_loss": t.best_loss if math.isfinite(t.best_loss) else None,
            "world_size": t.world.size,
            "data": t.data.key,
            **({"scaler": t.scaler.state_dict()} if t.scaler.is_enabled() else {}),
        }
        parts: dict[str, Any] = {"config": t.run.config, "tokenizer": t.tokenizer, "state": state, "replace": True}

        def write() -> None:
            t.run.sync()
            if best:
                checkpoint.save(best_folder, model=own if averaged is None else averaged, **parts)
                self._best_written = True
            if full:
                link = best_folder if best and averaged is None else None
                checkpoint.save(step, model=own, **extras, same_model=link, **parts)
            checkpoint.prune(t.run.dir, t.settings.keep)

        self.writer.start(write)

    def poll(self) -> None:
        """Announce the save that has ended meanwhile, if any."""
        if self._folders and not self.trainer.world.gather(self.writer.busy)[0][0]:
            self.settle()

    def settle(self, *, last: bool = False) -> PealmError | None:
        """Wait for the writer and announce what is on disk; return its error. last: no save follows."""
        if not self._folders:
            return None
        error, folders, t = self.writer.join(), self._folders, self.trainer
        self._folders = []
        failed, best_written = map(bool, t.world.gather(error is not None, self._best_written)[0])
        if self._best is not None and best_written:
            self.best_on_disk = self._best
        elif t.best_loss == self._best:
            t.best_loss = self.best_on_disk  # save again if better than best/
        if error is not None and not last:
            t.display.say(f"{error}; training continues, and the next save tries again")
        for folder in folders:
            if not failed or (best_written and folder.name == "best"):
                t.observers.call("pealm_checkpoint_saved", path=folder)
        return error

    def finish(self, *, failed: bool) -> None:
        """Wait for the last save. Raises PealmError if it failed, unless training has failed already."""
        if failed:
            self.writer.join()
            return
        with self.trainer.world.together():
            if error := self.settle(last=True):
                raise error
