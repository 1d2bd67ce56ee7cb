"""Checkpoints of a running training: copied, then written by a thread while training continues."""

import copy
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread
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


# Of the trainer, in state.json.
STATE = ("step", "sample", "seconds", "lr", "val_loss", "first_val_loss", "eval_seconds", "stale")


class Saver:
    """Saves the checkpoints of a run: `checkpoints/step-00000500` to resume from, and `best/`.

    Every method is called on every rank; rank 0 writes.
    """

    def __init__(self, trainer: "Trainer") -> None:
        self.trainer = trainer
        self.best_on_disk = math.inf  # the loss of the weights in best/
        self._thread: Thread | None = None  # which writes; nothing waits for it when the process ends
        self._error: PealmError | None = None  # that ended it
        self._best_loss = math.inf  # of the weights that are being written
        self._folders: list[Path] = []  # being written
        self._written: list[Path] = []  # those of them that are on disk
        self._memory: list[Tensor] = []  # the last copies, which the next ones overwrite

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
        step_folder, best_folder = t.run.dir / "checkpoints" / f"step-{t.step:08d}", t.run.dir / "best"
        self._folders, self._best_loss = [best_folder] * best + [step_folder] * full, t.best_loss
        sharded: bool = full and getattr(t.strategy, "sharded", False)
        weights, optimizer = t.strategy.full_state(t.model, t.optimizer) if best or not sharded else ({}, {})
        kept = trainable_state(t.model).keys()
        weights = {name: tensor for name, tensor in weights.items() if name in kept}
        averaged = None  # the weights to keep in best/, if they are not the model's own
        if best:
            with t.observers.evaluating() as model:
                if model is not t.model or has(t.optimizer, "eval"):
                    averaged, _ = copied(trainable_state(model), t.device)
        shards, problem = step_folder.with_name(f".{step_folder.name}.tmp"), None
        if sharded:  # written now, by all processes
            try:
                t.strategy.save_shards(shards, t.model, t.optimizer, kept)  # type: ignore[attr-defined]
            except PealmError as error:
                problem = error
        if not t.world.main:
            return
        weights = weights if (full and not sharded) or (best and averaged is None) else {}
        extras = {"extra": t.observers.state() or None, "optimizer": None if sharded else optimizer} if full else {}
        (weights, extras), used = copied((weights, extras), t.device, self._memory)
        self._memory = used if full else [*self._memory, *used]
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
                checkpoint.save(best_folder, model=weights if averaged is None else averaged, **parts)
                self._written.append(best_folder)
            if problem is not None:
                raise problem
            if full:
                same = best_folder if best and averaged is None and not sharded else None
                checkpoint.save(step_folder, model=shards if sharded else weights, same_model=same, **extras, **parts)
                self._written.append(step_folder)
            checkpoint.prune(t.run.dir, t.settings.keep)

        self._start(write)

    def _start(self, write: Callable[[], None]) -> None:
        """Write in a thread, or at once if the system has no more threads."""

        def work() -> None:
            try:
                write()
            except BaseException as error:  # a plugin's (also SystemExit), a checkpoint that can't be removed
                text = f"the checkpoint could not be written: {describe(error)}"
                self._error = error if isinstance(error, PealmError) else PealmError(text)

        self._error, self._written = None, []
        self._thread = Thread(target=work, name="pealm-checkpoint", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None
            work()

    @property
    def busy(self) -> bool:
        """Whether a save is being written by this process."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> None:
        """Wait until the save is written or has failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def poll(self) -> None:
        """Announce the save that has ended meanwhile, if any."""
        if self._folders and not self.trainer.world.gather(self.busy)[0][0]:
            self.settle()

    def settle(self, *, last: bool = False) -> None:
        """Wait for the save and announce what is on disk. Raises its error if it is the last one of the run."""
        if not self._folders:
            return
        self.wait()
        t, folders, self._folders = self.trainer, self._folders, []
        on_disk = t.world.gather(*(folder in self._written for folder in folders))[0]
        for folder, written in zip(folders, on_disk, strict=True):
            if folder.name == "best" and written:
                self.best_on_disk = self._best_loss
            elif folder.name == "best" and t.best_loss == self._best_loss:
                t.best_loss = self.best_on_disk  # save again if better than best/
            if written:
                t.observers.call("pealm_checkpoint_saved", path=folder)
        if last:
            with t.world.together():
                if self._error is not None:
                    raise self._error
        elif self._error is not None:
            t.display.say(f"{self._error}; training continues, and the next save tries again")


def copied(tree: Any, device: torch.device, memory: list[Tensor] | None = None) -> tuple[Any, list[Tensor]]:
    """Return nested state of a device with its tensors copied to host memory, where training can't change them.

    Tensors that share memory share the copy. memory: copies of earlier states to overwrite, since pages of new memory
    take several times as long as the copying; those used are taken out. The second result: the copies of this state.
    """
    free: dict[Any, list[Tensor]] = {}
    for tensor in [] if memory is None else memory:
        free.setdefault((tensor.shape, tensor.dtype), []).append(tensor)
    copies: dict[Any, Tensor] = {}

    def copy_of(tree: Any) -> Any:
        if isinstance(tree, Mapping):
            return {key: copy_of(value) for key, value in tree.items()}
        if isinstance(tree, list | tuple):
            return type(tree)(copy_of(value) for value in tree)
        if not isinstance(tree, Tensor):
            return copy.deepcopy(tree)
        if (key := identity(tree)) not in copies:
            old = free.get((tree.shape, tree.dtype))
            to = old.pop() if old else torch.empty(tree.shape, dtype=tree.dtype, pin_memory=tree.is_cuda)
            copies[key] = to.copy_(tree.detach(), non_blocking=tree.is_cuda)
        return copies[key]

    result = copy_of(tree)
    synchronize(device)
    if memory is not None:
        memory[:] = [tensor for tensors in free.values() for tensor in tensors]
    return result, [*copies.values()]
