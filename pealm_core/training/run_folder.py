"""A run's folder: config, metrics, checkpoints, and a lock that keeps two processes out of one run.

runs/MODEL/2026-11-22_10-15-30/  config.toml  run.json  metrics.jsonl  samples.jsonl  checkpoints/  best/
"""

import errno
import json
import os
import socket
import stat
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

import tomli_w

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.config.paths import mark, sync, temporary, try_lock
from pealm_core.contract.errors import PealmError, UserError

CONFIG = "config.toml"
FACTS = "run.json"
METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
FILES = (CONFIG, FACTS, METRICS, SAMPLES)
LONGEST = 2**24  # characters of a line in the last two


class Run:
    """A training run on disk. Only rank 0 writes.

    Plugins may use, on every rank: `dir` (its folder), `config` (its tables, as in config.toml) and `rank`.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], *, rank: int = 0, resuming: bool = False) -> None:
        """Lock a run folder, new or not. Raises UserError if it can't be written or is in use.

        resuming: the folder holds a run. Nothing of it changes yet, except that leftovers of interrupted saves go.
        """
        self.dir, self.config, self.rank = folder, config, rank
        self._facts: dict[str, Any] = {}
        self._files: dict[str, FileIO] = {}  # that are open, among them the lock
        self._unwritten: dict[str, bytes] = defaultdict(bytes)  # lines, while the disk is full
        if rank != 0:
            return
        try:
            new = not folder.exists() or not any(folder.iterdir())  # a folder with other files stays the user's
            folder.mkdir(parents=True, exist_ok=True)
            if new:
                mark(folder)
            lock = self._files[".lock"] = FileIO(folder / ".lock", "a+", opener=_no_links)
            locked = try_lock(lock)
        except OSError as error:
            raise UserError(f"{folder}: the run folder can't be written: {error.strerror}") from None
        if problem := self._problem(resuming, busy=locked == "busy"):
            self.close()
            raise UserError(f"{folder} {problem}")
        if locked == "unsupported":
            print(f"pealm: {folder} can't be locked here; don't train in it twice at the same time", file=sys.stderr)
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}{_launcher()}".encode())
        checkpoint.tidy(folder)
        for name in FILES:
            for path in folder.glob(f".{name}.{'[0-9a-f]' * 12}.tmp"):
                path.unlink()  # left by a kill

    def _problem(self, resuming: bool, busy: bool) -> str:
        """Return why this process can't train in the folder, "" if it can."""
        if busy:
            self._files[".lock"].seek(0)
            holder = self._files[".lock"].read().decode(errors="replace").strip() or "another process"
            return f"is in use by {holder}; wait for it or choose another --out"
        if resuming:
            return ""
        if (self.dir / CONFIG).exists():
            return "was just started by another process; run the same command again to resume it"
        others = [self.dir / name for name in FILES if os.path.lexists(self.dir / name)]
        others += [*self.dir.glob("best/*"), *self.dir.glob("checkpoints/step-*/*")]
        return f"has no {CONFIG} of a run, and {others[0]} is there; choose another --out" if others else ""

    def keep_config(self) -> None:
        """Write config.toml; on resuming, the run's new one, with a larger --steps for instance."""
        if self.rank == 0:
            self._replace(CONFIG, tomli_w.dumps(dict(self.config)))

    def record(self, **facts: Any) -> None:
        """Add to run.json: facts beside the config. A disk that refuses it doesn't end the run."""
        self._facts |= facts
        if self.rank == 0:
            with suppress(PealmError):
                self._replace(FACTS, json.dumps(self._facts, indent=1) + "\n")

    def rewind(self, step: int) -> None:
        """Drop the metrics and samples after a step, so that a resumed run writes each line once."""
        for name in (METRICS, SAMPLES) if self.rank == 0 else ():
            if (self.dir / name).is_file():
                self._replace(name, _until(self.dir / name, step))

    def log(self, line: Mapping[str, Any], name: str = METRICS) -> None:
        """Append a line, with its `step`, to metrics.jsonl or samples.jsonl. A full disk gets it later."""
        if self.rank != 0:
            return
        self._unwritten[name] += json.dumps(line).encode() + b"\n"
        with suppress(OSError):
            if name not in self._files:
                self._files[name] = FileIO(self.dir / name, "a", opener=_no_links)
            while self._unwritten[name]:
                self._unwritten[name] = self._unwritten[name][self._files[name].write(self._unwritten[name]) or 0 :]

    def sync(self) -> None:
        """Make the lines so far survive a power cut, as the checkpoint that is written next does."""
        for file in tuple(self._files.values()):  # a thread calls this
            with suppress(OSError):
                os.fsync(file.fileno())

    def check(self) -> None:
        """Raise PealmError if the run's folder is gone, or another run has taken its place."""
        if self.rank != 0:
            return
        with suppress(OSError):
            if os.path.samestat(os.fstat(self._files[".lock"].fileno()), (self.dir / ".lock").stat()):
                return
        raise PealmError(f"{self.dir} has vanished while the run was training; nothing more can be saved there")

    def close(self) -> None:
        """Release the folder."""
        for file in self._files.values():
            file.close()

    def _replace(self, name: str, text: str) -> None:
        """Write a file completely or not at all."""
        aside = temporary(self.dir / name, "tmp")
        try:
            aside.write_text(text, encoding="utf-8")
            sync(aside)
            aside.replace(self.dir / name)
        except OSError as error:
            with suppress(OSError):
                aside.unlink()
            raise PealmError(f"{self.dir / name} can't be written: {error.strerror}") from error


def _until(path: Path, step: int) -> str:
    """Return the lines of a file up to a step."""
    kept = ""
    with (
        suppress(ValueError, KeyError, TypeError, RecursionError),  # at a line that is damaged
        path.open(encoding="utf-8", errors="replace") as file,
    ):
        while (line := file.readline(LONGEST)).endswith("\n"):  # a kill cuts the last line short
            if json.loads(line)["step"] <= step:
                kept += line
    return kept


def _no_links(path: str, flags: int) -> int:
    """Open a file of a run. Links, which could lead anywhere, and pipes, which could wait for ever, are refused."""
    for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK"):
        flags |= getattr(os, name, 0)
    handle = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return handle


def new_folder(model: str) -> Path:
    """Make `runs/MODEL/DATE_TIME`, with a number appended if two runs start in one second. Raises UserError."""
    date, count = time.strftime("%Y-%m-%d_%H-%M-%S"), 1
    while True:
        folder = _home(model) / (date if count == 1 else f"{date}-{count}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            count += 1
        except OSError as error:
            raise UserError(f"{folder}: the run folder can't be written: {error.strerror}") from None


def restarted_folder(model: str) -> Path | None:
    """Return the folder that this torchrun's processes had before a restart, None if this is their first start."""
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0").strip("0").isdecimal():
        for path in sorted(_home(model).glob("[!.]*/.lock"), reverse=True):
            if path.read_text(errors="replace").endswith(_launcher()):
                return path.parent
    return None


def _home(model: str) -> Path:
    return Path("runs") / model.replace("/", "-")


def _launcher() -> str:
    """Return which torchrun started this process, the same after every restart."""
    launcher = os.environ.get("TORCHELASTIC_RUN_ID")
    return f", started by torchrun {launcher}/{os.getppid()}" if launcher else ""
