"""A run's folder as numbers: settings, facts, a column for each metric, samples, evaluations. Nothing is written.

What a kill cut short, or what is not there yet, is left out: a run may be read while it is training.
"""

import json
import math
import os
import socket
import tomllib
from array import array
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

from pealm_core import UserError

UNREADABLE = (OSError, ValueError, RecursionError)  # what reading a file and parsing it may raise
LARGEST = 1e300
LONGEST = 2**24  # bytes of a line, and of a file of facts
JOURNAL = "study.journal"  # what `pealm sweep` has in a study's folder
COLUMNS = ("step", "tokens", "loss", "lr", "grad_norm", "tokens_per_second", "seconds")
MORE = 24  # other metrics that are read, of names of at most 80 characters


@dataclass(frozen=True)
class Metrics:
    """metrics.jsonl: a column of numbers for each metric (NaN where a line lacks it), and the validations.

    Its first line is the validation before training, step 0.
    """

    columns: Mapping[str, "array[float]"] = field(default_factory=lambda: {name: array("d") for name in COLUMNS})
    val: list[tuple[int, float]] = field(default_factory=list)  # (line, loss in nats per token)
    more: dict[str, list[tuple[int, float]]] = field(default_factory=dict)  # other metrics, as val

    def __len__(self) -> int:
        return len(self.columns["step"])

    def at(self, column: str, line: int) -> float:
        """A metric of a line; -1 is the last one, NaN where there is none."""
        return self.columns[column][line] if len(self) else math.nan

    @property
    def best(self) -> tuple[int, float] | None:
        """The line and the loss of the best validation, of those after the first step, whose weights are kept."""
        trained = [pair for pair in self.val if self.at("step", pair[0]) > 0]
        return min(trained, key=lambda pair: pair[1], default=None)


@dataclass(frozen=True)
class Run:
    """A run as its folder tells it. state: "running", "running on HOST", "done", "interrupted", "pruned" (stopped by
    `pealm sweep`), "failed", "killed" or "stopped"."""

    dir: Path
    config: Mapping[str, Mapping[str, Any]]
    facts: Mapping[str, Any]

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self.config.get("model", {}).get("name", "unknown"))

    @property
    def data(self) -> str:
        """The dataset's name, which is the first key of [input], or those of a mixture."""
        tables = [table for name, table in self.config.items() if name.partition(".")[0] == "input"]
        return " + ".join(next(iter(table), "unknown") for table in tables) or "unknown"

    @property
    def drawn(self) -> str | None:
        """The fraction of the samples that each input of a mixture had, when the run ended; None: not known."""
        drawn = self.facts.get("drawn")
        if not isinstance(drawn, dict) or not all(map(is_number, drawn.values())) or not sum(drawn.values()):
            return None
        return ", ".join(f"{name} {count / sum(drawn.values()):.2%}" for name, count in drawn.items())

    @property
    def steps(self) -> int | None:
        """How many steps it was to make; None where it was to end by time."""
        steps = self.config.get("train", {}).get("steps")
        return steps if isinstance(steps, int) else None

    def number(self, name: str) -> float | None:
        """A fact of run.json if it is a number."""
        value = self.facts.get(name)
        return value if is_number(value) else None

    @property
    def floor(self) -> float | None:
        """The entropy floor in nats per token, where the dataset knows one."""
        return self.number("entropy_floor")

    @property
    def before(self) -> float | None:
        """The validation loss before the first step."""
        return self.number("first_val_loss")

    @cached_property
    def metrics(self) -> Metrics:
        """Every line of metrics.jsonl."""
        metrics = Metrics()
        columns = [(metrics.columns[name], name) for name in COLUMNS]
        for line in _lines(self.dir / "metrics.jsonl"):
            if not all(is_number(line.get(name)) for name in ("step", "tokens")):
                continue
            if is_number(line.get("val_loss")):
                metrics.val.append((len(metrics), float(line["val_loss"])))
            for name, value in line.items():
                if name in COLUMNS or name == "val_loss" or not is_number(value) or len(name) > 80:
                    continue
                if name in metrics.more or len(metrics.more) < MORE:
                    metrics.more.setdefault(name, []).append((len(metrics), float(value)))
            for column, name in columns:
                value = line.get(name)
                column.append(value if is_number(value) else math.nan)
        return metrics

    @cached_property
    def samples(self) -> list[Mapping[str, Any]]:
        """The lines of samples.jsonl: step, tokens, prompt, text."""
        lines = _lines(self.dir / "samples.jsonl")
        return [line for line in lines if is_number(line.get("step")) and isinstance(line.get("text"), str)]

    @cached_property
    def evaluations(self) -> list[tuple[str, Mapping[str, Any]]]:
        """(file name, results) of every evaluation whose results are in the folder or its `evals`."""
        found: list[tuple[str, Mapping[str, Any]]] = []
        for path in sorted([*self.dir.glob("*.json"), *self.dir.glob("evals/*.json")]):
            try:
                result = json.loads(_text(path))
            except UNREADABLE:
                continue
            if isinstance(result, dict) and "evaluation" in result and isinstance(result.get("metrics"), dict):
                found.append((path.relative_to(self.dir).as_posix(), result))
        return found

    @property
    def last_evaluations(self) -> dict[str, Mapping[str, Any]]:
        """The results of each evaluation at its last step."""
        last: dict[str, Mapping[str, Any]] = {}
        for _, result in self.evaluations:
            name, step = str(result["evaluation"]), result.get("step")
            before = last.get(name, {}).get("step")
            if name not in last or not is_number(before) or (is_number(step) and step >= before):
                last[name] = result
        return last

    @cached_property
    def summary(self) -> "Summary":
        """The last step and the best validation, of which only the lines that matter are parsed."""
        best, last, size = math.inf, b"", 0
        path = self.dir / "metrics.jsonl"
        for raw in _raw_lines(path):
            if raw.endswith(b"\n"):
                last = raw
            if b'"val_loss"' in raw and is_number(loss := (line := _parsed(raw)).get("val_loss")):
                best = best if line.get("step") == 0 else min(best, loss)
        for folder, _, files in os.walk(self.dir):
            for name in files:
                try:
                    size += (Path(folder) / name).lstat().st_size
                except OSError:  # a checkpoint that was just replaced
                    continue
        line = _parsed(last)
        step, tokens = (int(line[key]) if is_number(line.get(key)) else 0 for key in ("step", "tokens"))
        return Summary(step, tokens, best if math.isfinite(best) else None, size)

    @property
    def study(self) -> Path | None:
        """The folder of the study of `pealm sweep` to which the run belongs."""
        folder = self.dir.absolute().parent
        return folder if (folder / JOURNAL).is_file() else None

    @cached_property
    def state(self) -> str:
        """How it ended, if it has: "stopped" is what runs are that were made before run.json was kept."""
        status, locked = self.facts.get("status"), _is_locked(self.dir)
        if locked:
            return "running"
        if status in ("done", "interrupted", "pruned", "failed"):
            return str(status)
        if status is not None:  # it says that it is running
            host, pid = self.facts.get("host"), self.facts.get("pid")
            if isinstance(host, str) and host != socket.gethostname():  # whose locks may not be seen here
                return f"running on {host}"
            return "running" if locked is None and _is_alive(pid) else "killed"
        return "done" if self.steps and self.summary.step >= self.steps else "stopped"


@dataclass(frozen=True)
class Summary:
    """How far a run is. best_loss: of its validations, in nats per token; size: of its folder in bytes."""

    step: int
    tokens: int
    best_loss: float | None
    size: int


def read(folder: Path) -> Run:
    """Open a run's folder. Raises UserError where it is none."""
    try:
        config = tomllib.loads(_text(folder / "config.toml"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} is not a run: it has no config.toml (pealm runs lists what is there)") from None
    except UNREADABLE as error:
        raise UserError(f"{folder / 'config.toml'}: can't be read: {error}") from None
    try:
        facts = json.loads(_text(folder / "run.json"))
    except UNREADABLE:
        facts = {}
    several = {
        f"{name}.{i}": t for name, some in config.items() if isinstance(some, list) for i, t in enumerate(some, 1)
    }
    tables = {name: table for name, table in {**config, **several}.items() if isinstance(table, dict)}
    return Run(folder, tables, facts if isinstance(facts, dict) else {})


def find(root: Path) -> Iterator[Path]:
    """The folders of runs at or below a folder, in order of their names."""
    for name, folders, files in os.walk(root):
        folders.sort()
        if "config.toml" in files and ("metrics.jsonl" in files or ".lock" in files):
            folders[:] = [folder for folder in folders if folder not in ("checkpoints", "best")]
            yield Path(name)


def _text(path: Path) -> str:
    """Return a file's text. Raises OSError, also for a pipe or device, which could be endless, and ValueError."""
    if path.exists() and not path.is_file():
        raise OSError("not a regular file")
    with path.open("rb") as file:
        data = file.read(LONGEST)
    if len(data) == LONGEST:
        raise OSError("larger than what pealm writes there")
    return data.decode()


def _raw_lines(path: Path) -> Iterator[bytes]:
    """Yield a regular file's lines, up to one that is longer than pealm writes; none if it can't be read."""
    with suppress(OSError):
        if path.is_file():
            with path.open("rb") as file:
                while (line := file.readline(LONGEST)) and (len(line) < LONGEST or line.endswith(b"\n")):
                    yield line


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of JSON lines."""
    return map(_parsed, _raw_lines(path))


def _parsed(raw: bytes) -> dict[str, Any]:
    """A line's object; {} for one that was cut short."""
    try:
        line = json.loads(raw)
    except UNREADABLE:
        return {}
    return line if isinstance(line, dict) else {}


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value from a file is a number that can be computed with: finite, and differences of two as well."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def _is_locked(folder: Path) -> bool | None:
    """Whether a process is training in the folder; None if that can't be seen: Windows, some network file systems."""
    try:
        handle = os.open(folder / ".lock", os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # it may be a pipe
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        return None
    finally:
        os.close(handle)
    return False


def _is_alive(pid: object) -> bool:
    """Whether this host has a process of this number, as far as can be seen."""
    if not isinstance(pid, int) or pid <= 0:
        return False
    if os.name == "nt":  # os.kill would send it a Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True
