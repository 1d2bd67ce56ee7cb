"""A run's folder: config, metrics, checkpoints, and the lock that keeps two processes out of one run.

runs/MODEL/2026-11-22_10-15-30/  config.toml  metrics.jsonl  checkpoints/  best/
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from pealm_core import checkpoint
from pealm_core.errors import InvalidCheckpointError, UserError

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
        if rank != 0:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
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
        self._lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._lock.flush()
        # Also where the run goes on: its config is that of the run as a whole, longer than it was.
        aside = folder / f".{CONFIG}.tmp"
        aside.write_text(tomli_w.dumps(dict(config)), encoding="utf-8")
        aside.replace(folder / CONFIG)

    def newest(self) -> tuple[Path, dict[str, Any], list[str]] | None:
        """The newest valid checkpoint, its state, and what was wrong with newer ones; None where there is none."""
        wrong: list[str] = []
        for folder in reversed(checkpoint.steps(self.dir)):
            try:
                return folder, checkpoint.verify(folder), wrong
            except InvalidCheckpointError as error:
                wrong.append(str(error))
        return None

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
        aside = self.dir / f".{METRICS}.tmp"
        aside.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        aside.replace(self.dir / METRICS)

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        if self.rank != 0:
            return
        if self._metrics is None:
            self._metrics = (self.dir / METRICS).open("a", encoding="utf-8", buffering=1)
        self._metrics.write(json.dumps(metrics) + "\n")

    def close(self) -> None:
        """Let go of the folder."""
        for handle in (self._metrics, self._lock):
            if handle is not None:
                handle.close()


def new_folder(model: str) -> Path:
    """`runs/MODEL/DATE_TIME`, with a number behind it where two runs start in one second."""
    base = Path("runs") / model.replace("/", "-") / time.strftime("%Y-%m-%d_%H-%M-%S")
    folder, count = base, 1
    while folder.exists():
        count += 1
        folder = base.with_name(f"{base.name}-{count}")
    return folder
