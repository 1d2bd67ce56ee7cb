"""A run's folder as numbers: settings, facts, a column for each metric, samples, evaluations. Nothing is written.

What a kill cut short, or what is not there yet, is left out: a run may be read while it is training.
"""

import fcntl
import json
import math
import os
import tomllib
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

from pealm_core import UserError

COLUMNS = ("step", "tokens", "loss", "lr", "grad_norm", "tokens_per_second", "seconds")


@dataclass(frozen=True)
class Metrics:
    """metrics.jsonl: a column of numbers for each metric (NaN where a line lacks it), and the validations."""

    columns: Mapping[str, "array[float]"] = field(default_factory=lambda: {name: array("d") for name in COLUMNS})
    val: list[tuple[int, float]] = field(default_factory=list)  # (line, loss in nats per token)

    def __len__(self) -> int:
        return len(self.columns["step"])

    def at(self, column: str, line: int) -> float:
        """A metric of a line; -1 is the last one, NaN where there is none."""
        return self.columns[column][line] if len(self) else math.nan

    @property
    def best(self) -> tuple[int, float] | None:
        """The line and the loss of the best validation."""
        return min(self.val, key=lambda pair: pair[1], default=None)


@dataclass(frozen=True)
class Run:
    """A run as its folder tells it. state: "running", "done", "interrupted", "failed", "killed" or "stopped"."""

    dir: Path
    config: Mapping[str, Mapping[str, Any]]
    facts: Mapping[str, Any]

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self.config.get("model", {}).get("name", "unknown"))

    @property
    def data(self) -> str:
        """The dataset's name, which is the first key of [input]."""
        return next(iter(self.config.get("input", {})), "unknown")

    @property
    def steps(self) -> int | None:
        """How many steps it was to make; None where it was to end by time."""
        steps = self.config.get("train", {}).get("steps")
        return steps if isinstance(steps, int) else None

    @property
    def floor(self) -> float | None:
        """The entropy floor in nats per token, where the dataset knows one."""
        floor = self.facts.get("entropy_floor")
        return float(floor) if is_number(floor) else None

    @property
    def before(self) -> float | None:
        """The validation loss before the first step."""
        before = self.facts.get("first_val_loss")
        return float(before) if is_number(before) else None

    @cached_property
    def metrics(self) -> Metrics:
        """Every line of metrics.jsonl."""
        metrics = Metrics()
        columns = [(metrics.columns[name], name) for name in COLUMNS]
        for line in _lines(self.dir / "metrics.jsonl"):
            if not (is_number(line.get("step")) and is_number(line.get("loss"))):
                continue
            if is_number(line.get("val_loss")):
                metrics.val.append((len(metrics), float(line["val_loss"])))
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
        """(file name, results) of every `pealm eval --output FILE` that lies in the folder."""
        found: list[tuple[str, Mapping[str, Any]]] = []
        for path in sorted(self.dir.glob("*.json")):
            try:
                result = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if isinstance(result, dict) and "evaluation" in result and isinstance(result.get("metrics"), dict):
                found.append((path.name, result))
        return found

    @cached_property
    def summary(self) -> "Summary":
        """The last step and the best validation, of which only the lines that matter are parsed."""
        best, last, size = math.inf, b"", 0
        path = self.dir / "metrics.jsonl"
        if path.exists():
            with path.open("rb") as file:
                for raw in file:
                    if raw.endswith(b"\n"):
                        last = raw
                    if b'"val_loss"' in raw and is_number(loss := _parsed(raw).get("val_loss")):
                        best = min(best, loss)
        for folder, _, files in os.walk(self.dir):
            for name in files:
                try:
                    size += (Path(folder) / name).lstat().st_size
                except FileNotFoundError:  # a checkpoint that was just replaced
                    continue
        line = _parsed(last)
        step, tokens = (int(line[key]) if is_number(line.get(key)) else 0 for key in ("step", "tokens"))
        return Summary(step, tokens, best if math.isfinite(best) else None, size)

    @cached_property
    def state(self) -> str:
        """How it ended, if it has: "stopped" is what runs are that were made before run.json was kept."""
        if _held(self.dir):
            return "running"
        status = self.facts.get("status")
        if status in ("done", "interrupted", "failed"):
            return str(status)
        if status is not None:  # it says that it is running, and nobody holds it
            return "killed"
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
        config = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} is no run: it has no config.toml (pealm runs lists what is there)") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'config.toml'}: can't be read: {error}") from None
    try:
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        facts = {}
    tables = {name: table for name, table in config.items() if isinstance(table, dict)}
    return Run(folder, tables, facts if isinstance(facts, dict) else {})


def find(root: Path) -> Iterator[Path]:
    """The folders of runs at or below a folder, in order of their names."""
    for name, folders, files in os.walk(root):
        folders.sort()
        if "config.toml" in files and ("metrics.jsonl" in files or ".lock" in files):
            folders[:] = [folder for folder in folders if folder not in ("checkpoints", "best")]
            yield Path(name)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines, in the order they stand; nothing where there is none."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for raw in file:
            yield _parsed(raw)


def _parsed(raw: bytes) -> dict[str, Any]:
    """A line's object; {} for one that was cut short."""
    try:
        line = json.loads(raw)
    except ValueError:
        return {}
    return line if isinstance(line, dict) else {}


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value from a file is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _held(folder: Path) -> bool:
    """Whether a process is training in the folder."""
    try:
        handle = os.open(folder / ".lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False
