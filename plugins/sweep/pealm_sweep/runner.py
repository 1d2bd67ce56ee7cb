"""A trial: `pealm train` in a process of its own, whose validation losses are read from its run folder."""

import fcntl
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from optuna.trial import Trial

from pealm_core import PealmError
from pealm_sweep.page import replace
from pealm_sweep.study import is_locked

LONGEST = 2**24  # bytes of a line of metrics.jsonl
ASKED = (128 + signal.SIGTERM, -signal.SIGTERM)  # exit codes of a process that `end` has ended


@dataclass(frozen=True)
class Outcome:
    """How a trial ended. value: its lowest validation loss in nats per token; None: it failed, for this reason."""

    value: float | None
    reason: str = ""
    pruned: bool = False


@dataclass
class Running:
    """A trial that trains. Its process starts when no other one works on the trial."""

    trial: Trial
    run: Path
    words: Sequence[str]  # of `pealm train`
    environment: Mapping[str, str]
    slot: int
    process: "subprocess.Popen[bytes] | None" = None
    pruned: bool = False
    losses: list[float] = field(default_factory=list)
    _size: int = -1  # of metrics.jsonl, when it was read

    @property
    def log(self) -> Path:
        """The file with what the process prints."""
        return self.run.with_suffix(".log")

    def poll(self) -> Outcome | None:
        """Start the process if it may, report new losses, end it if the trial is pruned; return how it ended."""
        if self.process is None:
            if not is_locked(self.log):  # by a process that a killed sweep has left
                self._start()
            return None
        code = self.process.poll()  # before the losses are read, so that none is missed
        self._report()
        if code is None:
            return None
        best = min(filter(math.isfinite, self.losses), default=None)
        if self.pruned and code in (0, *ASKED):
            self._note_pruned()
            return Outcome(best, pruned=True)
        if code == 0 and best is not None:
            return Outcome(best)
        return Outcome(None, self._reason(code))

    def end(self) -> None:
        """Ask the process to save a checkpoint and end."""
        if self.process is not None and self.process.poll() is None:
            with suppress(ProcessLookupError):
                self.process.terminate()

    def wait(self) -> Outcome | None:
        """Wait until the process has ended. Returns how the trial ended, None if it was cut short."""
        if self.process is None or (self.process.wait() in ASKED and not self.pruned):
            return None
        return self.poll()

    def _start(self) -> None:
        command = [sys.executable, "-m", "pealm", "train", *self.words, "--out", str(self.run)]
        with self.log.open("ab") as log:
            fcntl.flock(log, fcntl.LOCK_EX)  # which the process keeps until it ends: the file is its output
            # A session of its own: Ctrl-C is for the sweep, which asks its trials to end once.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(self.environment),
                start_new_session=True,
            )

    def _report(self) -> None:
        """Give new validation losses to Optuna, numbered from 1, and end the process if they are too high."""
        path, known = self.run / "metrics.jsonl", len(self.losses)
        with suppress(OSError):
            if (size := path.stat().st_size) != self._size:
                self._size, self.losses = size, losses(path)
        for number in range(known + 1, len(self.losses) + 1):
            if math.isfinite(loss := self.losses[number - 1]):
                self.trial.report(loss, number)
                if not self.pruned and self.trial.should_prune():
                    self.pruned = True
                    self.end()

    def _note_pruned(self) -> None:
        """Record in run.json that the sweep ended the run; for `pealm train`, SIGTERM is an interruption."""
        path = self.run / "run.json"
        with suppress(OSError, ValueError, TypeError, LookupError, RecursionError, PealmError):
            facts = json.loads(path.read_bytes())
            if facts["status"] == "interrupted":
                replace(path, json.dumps(facts | {"status": "pruned"}, indent=1) + "\n")

    def _reason(self, code: int) -> str:
        """Return the line in which the process said why it failed."""
        with suppress(OSError):
            lines = self.log.read_bytes()[-65536:].decode(errors="replace").splitlines()
            said = [line.removeprefix("pealm: ") for line in lines if line.startswith("pealm: ")]
            if code > 0 and (said or lines):
                return (said or lines)[-1]
        if code == 0:
            return "it has no finite validation loss after its first step"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"it ended with exit code {code}"


def losses(path: Path) -> list[float]:
    """Return the validation losses after the first step."""
    found = []
    with path.open("rb") as file:
        while line := file.readline(LONGEST):
            if b'"val_loss"' not in line or not line.endswith(b"\n"):
                continue
            with suppress(ValueError, TypeError, KeyError, RecursionError):
                row = json.loads(line)
                if row["step"] > 0:
                    found.append(float(row["val_loss"]))
    return found


def environment(slot: int, jobs: int) -> dict[str, str]:
    """Return the environment of a trial's process: one of the GPUs in turn, and its part of the CPUs' threads."""
    env = dict(os.environ)
    if jobs > 1:
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        env.setdefault("OMP_NUM_THREADS", str(max(1, cpus // jobs)))
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
        if gpus := gpus if visible is None else [gpu for gpu in visible.split(",") if gpu.strip()]:
            env["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    return env
