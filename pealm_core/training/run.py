"""A run's folder: config, metrics, checkpoints, and the lock that keeps two processes out of one run.

runs/MODEL/2026-11-22_10-15-30/  config.toml  run.json  metrics.jsonl  samples.jsonl  checkpoints/  best/
"""

import fcntl
import itertools
import json
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import tomli_w

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.config.paths import mark
from pealm_core.contract.errors import PealmError, UserError

CONFIG = "config.toml"
FACTS = "run.json"
METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"


class Run:
    """A training run on disk. Only rank 0 writes.

    For plugins, in lifecycle hooks: `dir` (its folder), `config` (its tables, as in config.toml) and `rank`, on
    every rank; the methods are the trainer's.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], *, rank: int = 0, resuming: bool = False) -> None:
        """Take hold of a run folder, new or not. Raises UserError where it can't be written or is in use.

        resuming: a run is known to be there. Nothing of it is changed yet, but for what interrupted saves left.
        """
        self.dir, self.config, self.rank = folder, config, rank
        self._lock: Any = None
        self._logs = {name: _Log(folder / name) for name in (METRICS, SAMPLES)}
        self._facts: dict[str, Any] = {}
        if rank != 0:
            return
        try:
            new = not folder.exists() or not any(folder.iterdir())  # a folder with other things in it stays theirs
            folder.mkdir(parents=True, exist_ok=True)
            if new:
                mark(folder)
            self._lock = (folder / ".lock").open("a+")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "another process"
            self._lock.close()
            raise UserError(f"{folder} is in use by {holder}; wait for it or choose another --out") from None
        except OSError as error:
            raise UserError(f"{folder}: the run folder can't be written: {error.strerror}") from None
        if not resuming and (folder / CONFIG).exists():
            self._lock.close()
            raise UserError(f"{folder} was begun by another process just now; the same again goes on with its run")
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()} on {socket.gethostname()}{_launcher()}")
        self._lock.flush()
        checkpoint.tidy(folder)

    def keep_config(self) -> None:
        """Write config.toml. Also where the run goes on: it is that of the run as a whole, longer than it was."""
        if self.rank == 0:
            self._replace(CONFIG, tomli_w.dumps(dict(self.config)))

    def record(self, **facts: Any) -> None:
        """Add to run.json, what is known of the run beside its config. A disk that refuses it ends no run."""
        if self.rank != 0:
            return
        self._facts |= facts
        with suppress(PealmError):
            self._replace(FACTS, json.dumps(self._facts, indent=1) + "\n")

    def rewind(self, step: int) -> None:
        """Drop the metrics and samples after a step, so that a run that goes on writes each line once."""
        if self.rank != 0:
            return
        for name, log in self._logs.items():
            if log.path.exists():
                self._replace(name, log.until(step))

    def log(self, line: Mapping[str, Any], name: str = METRICS) -> None:
        """Append a line, with its `step`, to metrics.jsonl or samples.jsonl."""
        if self.rank == 0:
            self._logs[name].append(line)

    def sync(self) -> None:
        """Make the lines so far outlive a power cut, as a checkpoint that is about to be written does."""
        for log in self._logs.values():
            log.sync()

    def check(self) -> None:
        """Raise PealmError where the run's folder is gone, or another run has taken its place."""
        if self.rank != 0:
            return
        try:
            here = os.path.samestat(os.fstat(self._lock.fileno()), (self.dir / ".lock").stat())
        except OSError:
            here = False
        if not here:
            raise PealmError(f"{self.dir} has vanished while the run was training; nothing more can be saved there")

    def close(self) -> None:
        """Let go of the folder."""
        for handle in (*self._logs.values(), self._lock):
            if handle is not None:
                handle.close()

    def _replace(self, name: str, text: str) -> None:
        """Write a file at once or not at all."""
        aside = self.dir / f".{name}.tmp"
        try:
            with aside.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(self.dir / name)
        except OSError as error:
            with suppress(OSError):
                aside.unlink()
            raise PealmError(f"{self.dir / name} can't be written: {error.strerror}") from error


class _Log:
    """A file of JSON lines that only grows. While the disk is full, lines wait for the next one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None
        self._unwritten = b""

    def append(self, line: Mapping[str, Any]) -> None:
        self._unwritten += json.dumps(line).encode() + b"\n"
        try:
            if self._file is None:
                self._file = self.path.open("ab", buffering=0)
            while self._unwritten:
                self._unwritten = self._unwritten[self._file.write(self._unwritten) :]
        except OSError:
            pass

    def until(self, step: int) -> str:
        """The lines up to a step."""
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except (ValueError, KeyError, TypeError):  # the line that a kill cut short
                break
        return "".join(line + "\n" for line in kept)

    def sync(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def new_folder(model: str) -> Path:
    """Make `runs/MODEL/DATE_TIME`, with a number behind it where two runs start in one second. Raises UserError."""
    date = time.strftime("%Y-%m-%d_%H-%M-%S")
    for count in itertools.count(1):
        folder = _home(model) / (date if count == 1 else f"{date}-{count}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"{folder}: the run folder can't be written: {error.strerror}") from None
        return folder
    raise AssertionError("numbers have no end")


def restarted_folder(model: str) -> Path | None:
    """Where torchrun starts its processes again, the folder that they had before."""
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")):
        for lock in sorted(_home(model).glob("[!.]*/.lock"), reverse=True):
            if lock.read_text(errors="replace").endswith(_launcher()):
                return lock.parent
    return None


def _home(model: str) -> Path:
    return Path("runs") / model.replace("/", "-")


def _launcher() -> str:
    """Which torchrun started this process, the same after every restart."""
    run = os.environ.get("TORCHELASTIC_RUN_ID")
    return f", started by torchrun {run}/{os.getppid()}" if run else ""
