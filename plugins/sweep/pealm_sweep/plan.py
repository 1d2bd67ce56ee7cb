"""FILE.toml of `pealm sweep`: a config of `pealm train`, and in [sweep] which of its options to vary and how."""

import difflib
import itertools
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from pealm_core import UserError

SAMPLERS, PRUNING = ("tpe", "random", "grid"), ("median", "none")
DEFAULTS: dict[str, Any] = {"sampler": "tpe", "trials": None, "pruning": "median", "seed": 0, "options": None}
TAKEN = ("out", "config", "print-config", "help")  # options that the sweep sets itself, or that train nothing
LARGEST = 2**20  # bytes of the file
MOST = 10_000  # trials

Value = bool | int | float | str


@dataclass(frozen=True)
class Choices:
    """A list of values."""

    values: tuple[Value, ...]


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included; whole ones if both are."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def whole(self) -> bool:
        """Whether the numbers are integers."""
        return all(isinstance(number, int) for number in (self.low, self.high, self.step or 1))

    @property
    def values(self) -> tuple[Value, ...]:
        """The ends; with a step, all numbers.

        >>> Range(1, 7, step=3).values, Range(0.1, 0.3, step=0.1).values
        ((1, 4, 7), (0.1, 0.2, 0.3))
        """
        if self.step is None:
            return self.low, self.high
        count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        numbers = (self.low + i * self.step for i in range(count))
        return tuple(numbers) if self.whole else tuple(float(f"{number:.12g}") for number in numbers)


@dataclass(frozen=True)
class Plan:
    """What a study is. options: of `pealm train`, without dashes → their values."""

    base: Mapping[str, Any]
    options: Mapping[str, Choices | Range]
    sampler: str
    trials: int
    pruning: bool
    seed: int

    def config(self) -> str:
        """Return what all trials have, as a file for `--config`."""
        return tomli_w.dumps(dict(self.base))

    def words(self, values: Mapping[str, Value]) -> list[str]:
        """Return the command line of a trial's values.

        >>> Plan({}, {}, "tpe", 1, True, 0).words({"lr": 0.01, "model.bias": False})
        ['--lr', '0.01', '--model.bias', 'false']
        """
        texts = {name: str(v).lower() if isinstance(v, bool) else str(v) for name, v in values.items()}
        return [word for name, text in texts.items() for word in (f"--{name}", text)]

    def grid(self) -> Iterator[dict[str, Value]]:
        """Yield every combination of the values."""
        for values in itertools.product(*(option.values for option in self.options.values())):
            yield dict(zip(self.options, values, strict=True))


def read(path: Path) -> Plan:
    """Read a file. Raises UserError."""
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path}: larger than {LARGEST >> 20} MiB")
        tables = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: bad TOML: {error}") from None
    try:
        return _plan(tables, path.parent.resolve())
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _plan(tables: dict[str, Any], folder: Path) -> Plan:
    """Return the plan. folder: where the file's relative paths of plugins start."""
    sweep = tables.pop("sweep", None)
    if not isinstance(sweep, dict) or not isinstance(sweep.get("options"), dict) or not sweep["options"]:
        raise ValueError("needs a table [sweep.options] with the values to try, such as lr = [0.001, 0.01]")
    for key in sweep.keys() - DEFAULTS.keys():
        close = difflib.get_close_matches(key, DEFAULTS)
        hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(DEFAULTS)}"
        raise ValueError(f"[sweep] {key}: unknown key{hint}")
    given = DEFAULTS | sweep
    _one_of("sampler", given["sampler"], SAMPLERS)
    _one_of("pruning", given["pruning"], PRUNING)
    _whole("seed", given["seed"], 0)
    options = dict(_options(sweep["options"]))
    if isinstance(plugins := tables.get("plugins"), dict) and isinstance(plugins.get("files"), list):
        tables["plugins"] = plugins | {"files": [str(folder / str(file)) for file in plugins["files"]]}
    if given["sampler"] == "grid":
        for name, option in options.items():
            if isinstance(option, Range) and option.step is None:
                raise ValueError(f"[sweep.options] {name}: a grid needs a list of values, or a step of the range")
        size = math.prod(len(option.values) for option in options.values())
        given["trials"] = size if given["trials"] is None else given["trials"]
        if size > MOST:
            raise ValueError(f"[sweep.options] a grid of {size:,} combinations is too large; {MOST:,} are the most")
    given["trials"] = 20 if given["trials"] is None else given["trials"]
    _whole("trials", given["trials"], 1)
    if given["trials"] > MOST:
        raise ValueError(f"[sweep] trials {given['trials']:,} is too large; {MOST:,} are the most")
    return Plan(tables, options, given["sampler"], given["trials"], given["pruning"] == "median", given["seed"])


def _options(table: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Choices | Range]]:
    """Yield the options of a table, also of nested ones: `model.n-embd = [64, 128]`."""
    for key, value in table.items():
        name = f"{place}{key}".replace("_", "-")
        if name in TAKEN:
            raise ValueError(f"[sweep.options] {name} is set by the sweep; leave it out")
        if isinstance(value, list):
            if not value or not all(isinstance(item, bool | int | float | str) for item in value):
                raise ValueError(f"[sweep.options] {name} must be a list of numbers, texts or true and false")
            yield name, Choices(tuple(dict.fromkeys(value)))
        elif isinstance(value, dict) and not {"low", "high"} & value.keys():
            yield from _options(value, f"{name}.")
        elif isinstance(value, dict):
            yield name, _range(name, value)
        else:
            raise ValueError(f"[sweep.options] {name} = {value!r}: give a list, or {{low = ..., high = ...}}")


def _range(name: str, table: Mapping[str, Any]) -> Range:
    place = f"[sweep.options] {name}"
    if extra := table.keys() - {"low", "high", "log", "step"}:
        raise ValueError(f"{place}: unknown key {min(extra)!r}; a range has low, high, log and step")
    low, high, log, step = (table.get(key) for key in ("low", "high", "log", "step"))
    numbers = [low, high] if step is None else [low, high, step]
    if not all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in numbers):
        raise ValueError(f"{place}: low, high and step must be finite numbers")
    if not isinstance(log, bool | None):
        raise ValueError(f"{place}: log must be true or false")
    assert low is not None and high is not None
    if low >= high or (step is not None and step <= 0):
        raise ValueError(f"{place}: low {low:g} must be below high {high:g}, and a step above 0")
    if log and (low <= 0 or step is not None):
        raise ValueError(f"{place}: with log, low must be above 0, and there is no step")
    if step is not None and (high - low) / step > MOST:
        raise ValueError(f"{place}: step {step:g} is too small for {low:g} to {high:g}")
    return Range(low, high, bool(log), step)


def _one_of(key: str, value: Any, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"[sweep] {key} must be {', '.join(known[:-1])} or {known[-1]}, not {value!r}")


def _whole(key: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"[sweep] {key} must be a whole number from {least} on, not {value!r}")
