"""A study on disk: Optuna's journal, which several processes and machines share, and who works on which trial."""

import fcntl
import json
import os
import socket
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from pealm_core import UserError
from pealm_sweep.plan import Choices, Plan, Range

WARM_UP = 3  # completed trials before one is pruned


class _Lock:
    """The journal's lock. The system releases it when a process is killed; Optuna's own would last for 30 seconds."""

    def __init__(self, file: Path) -> None:
        self.file = file.open("w")

    def acquire(self) -> bool:
        """Wait for the lock."""
        fcntl.flock(self.file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Release it."""
        fcntl.flock(self.file, fcntl.LOCK_UN)


class Study:
    """The trials of a folder. While it is open, it holds a lock by which others see that its process lives."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        """Open the study, or start it. Raises UserError if the folder has another one."""
        self.plan, self.folder = plan, folder
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        (folder / "workers").mkdir(parents=True, exist_ok=True)
        self.worker = f"{socket.gethostname()}-{os.getpid()}"
        self._journal_lock: Any = _Lock(folder / ".journal.lock")
        self._alive = (folder / "workers" / self.worker).open("w")
        fcntl.flock(self._alive, fcntl.LOCK_EX)
        self.distributions = {name: _distribution(option) for name, option in plan.options.items()}
        try:
            with self.locked():
                self.study = self._open()
                self._check()
                self._restart()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from starting trials."""
        with (self.folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def trials(self) -> list[FrozenTrial]:
        """Return the trials by number, without those that were killed and are repeated."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if not _was_killed(trial)]

    def best(self) -> FrozenTrial | None:
        """Return the completed trial with the lowest loss."""
        done = [trial for trial in self.trials() if trial.state == TrialState.COMPLETE]
        return min(done, key=lambda trial: trial.value or 0.0, default=None)

    def ask(self) -> Trial | None:
        """Start a trial; None if all are started."""
        with self.locked():
            trials = self.trials()
            if not any(trial.state == TrialState.WAITING for trial in trials):
                if len(trials) >= self.plan.trials:
                    return None
                if self.plan.sampler == "grid":
                    tried = [trial.params for trial in trials]
                    values = next((values for values in self.plan.grid() if values not in tried), None)
                    if values is None:
                        return None
                    self.study.enqueue_trial(values)
            self.study.sampler = self._sampler(len(trials))
            trial: Trial = self.study.ask(self.distributions)
            trial.set_user_attr("worker", self.worker)
            if "run" not in trial.user_attrs:
                trial.set_user_attr("run", f"trial-{trial.number:04d}")
            return trial

    def tell(self, trial: Trial, value: float | None, reason: str = "", *, pruned: bool = False) -> None:
        """End a trial: with its value, as pruned, or as failed, with the reason."""
        state = TrialState.PRUNED if pruned else TrialState.COMPLETE if value is not None else TrialState.FAIL
        if state == TrialState.FAIL:
            trial.set_user_attr("reason", reason)
        self.study.tell(trial, value if state == TrialState.COMPLETE else None, state=state)

    def repeat(self, trial: Trial | FrozenTrial) -> None:
        """End a trial that was cut short, and queue it again, to resume in the same run folder."""
        run = trial.user_attrs.get("run")
        self.study.tell(trial.number, state=TrialState.FAIL)
        self.study.enqueue_trial(trial.params, user_attrs={"run": run} if run else {})

    def close(self) -> None:
        """Release the lock of this process."""
        with suppress(OSError):
            (self.folder / "workers" / self.worker).unlink()
        self._alive.close()
        self._journal_lock.file.close()

    def _open(self) -> optuna.Study:
        plan, journal = self.plan, self.folder / "study.journal"
        pruner = optuna.pruners.MedianPruner(n_startup_trials=WARM_UP, n_warmup_steps=1)
        try:
            return optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(journal), self._journal_lock)),
                study_name="sweep",
                pruner=pruner if plan.pruning else optuna.pruners.NopPruner(),
                load_if_exists=True,
            )
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{journal} is not a study, or damaged: {error}") from error

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """Return the sampler of a new trial: its seed is of that trial alone, on any machine and after a resume."""
        seed = zlib.crc32(f"{self.plan.seed} {number}".encode())
        if self.plan.sampler == "tpe":
            return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        return optuna.samplers.RandomSampler(seed=seed)  # of a grid, each trial's values are set

    def _check(self) -> None:
        """Raise UserError unless the study has these options and the same config."""
        mine = json.loads(json.dumps(_definition(self.plan), default=str))
        saved = self.study.user_attrs.get("definition")
        if saved is None:
            self.study.set_user_attr("definition", mine)
            return
        for part in mine:
            for key in sorted(mine[part].keys() | saved[part].keys()):
                if mine[part].get(key) != saved[part].get(key):
                    table = "[sweep.options] " if part == "options" else "[sweep] " if part == "sweep" else ""
                    raise UserError(
                        f"{self.folder} is a study with another {table}{key}; undo the change in the file, or choose "
                        f"another --out"
                    )

    def _restart(self) -> None:
        """Repeat the trials whose process was killed."""
        for trial in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            worker = trial.user_attrs.get("worker", "")
            if not worker or (worker.startswith(f"{socket.gethostname()}-") and not self._lives(worker)):
                self.repeat(trial)

    def _lives(self, worker: str) -> bool:
        file = self.folder / "workers" / worker
        return worker == self.worker or is_locked(file)


def is_locked(file: Path) -> bool:
    """Whether another process holds a lock on a file."""
    try:
        with file.open() as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False


def _was_killed(trial: FrozenTrial) -> bool:
    """Whether a trial failed without a reason: only `repeat` ends trials so."""
    return trial.state == TrialState.FAIL and "reason" not in trial.user_attrs


def _distribution(option: Choices | Range) -> BaseDistribution:
    if isinstance(option, Choices):
        return CategoricalDistribution(option.values)
    if option.whole:
        return IntDistribution(int(option.low), int(option.high), log=option.log, step=int(option.step or 1))
    return FloatDistribution(option.low, option.high, log=option.log, step=option.step)


def _definition(plan: Plan) -> dict[str, Mapping[str, Any]]:
    return {
        "sweep": {"sampler": plan.sampler},
        "options": {name: asdict(option) for name, option in plan.options.items()},
        "config": plan.base,
    }
