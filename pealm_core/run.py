"""A run's folder: config, metrics, checkpoints, and the lock that keeps two processes out of one run.

runs/MODEL/2026-11-22_10-15-30/  config.toml  metrics.jsonl  checkpoints/  best/
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import tomli_w

from pealm_core import checkpoint
from pealm_core.errors import PealmError, UserError
from pealm_core.paths import mark

CONFIG = "config.toml"
METRICS = "metrics.jsonl"


class Run:
    """A training run on disk. Only rank 0 writes.

    For plugins, in lifecycle hooks: `dir` (its folder), `config` (its tables, as in config.toml) and `rank`, on
    every rank; the methods are the trainer's.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], *, rank: int = 0) -> None:
        """Take hold of a run folder, new or not. Raises UserError where it can't be written or is in use."""
        self.dir, self.config, self.rank = folder, config, rank
        self._lock: Any = None
        self._metrics: Any = None
        self._unwritten = b""
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
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()} on {socket.gethostname()}{_launcher()}")
        self._lock.flush()
        checkpoint.tidy(folder)
        # Also where the run goes on: its config is that of the run as a whole, longer than it was.
        self._replace(CONFIG, tomli_w.dumps(dict(config)))

    def rewind(self, step: int) -> None:
        """Drop the metrics after a step, so that a run that goes on writes each line once."""
        if self.rank != 0 or not (self.dir / METRICS).exists():
            return
        kept = []
        for line in (self.dir / METRICS).read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except (ValueError, KeyError, TypeError):  # the line that a kill cut short
                break
        self._replace(METRICS, "".join(line + "\n" for line in kept))

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl. While the disk is full, lines wait for the next call."""
        if self.rank != 0:
            return
        self._unwritten += json.dumps(metrics).encode() + b"\n"
        try:
            if self._metrics is None:
                self._metrics = (self.dir / METRICS).open("ab", buffering=0)
            while self._unwritten:
                self._unwritten = self._unwritten[self._metrics.write(self._unwritten) :]
        except OSError:
            pass

    def sync(self) -> None:
        """Make the lines so far outlive a power cut, as a checkpoint that is about to be written does."""
        if self._metrics is not None:
            with suppress(OSError):
                os.fsync(self._metrics.fileno())

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
        for handle in (self._metrics, self._lock):
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


def new_folder(model: str) -> Path:
    """`runs/MODEL/DATE_TIME`, with a number behind it where two runs start in one second.

    Where torchrun starts its processes again, it is the folder that they had before.
    """
    home = Path("runs") / model.replace("/", "-")
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")):
        for lock in sorted(home.glob("[!.]*/.lock"), reverse=True):
            if lock.read_text(errors="replace").endswith(_launcher()):
                return lock.parent
    base = home / time.strftime("%Y-%m-%d_%H-%M-%S")
    folder, count = base, 1
    while folder.exists():
        count += 1
        folder = base.with_name(f"{base.name}-{count}")
    return folder


def _launcher() -> str:
    """Which torchrun started this process, the same after every restart."""
    run = os.environ.get("TORCHELASTIC_RUN_ID")
    return f", started by torchrun {run}/{os.getppid()}" if run else ""
