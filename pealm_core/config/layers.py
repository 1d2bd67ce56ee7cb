"""Layers of settings: defaults, recipe, preset, TOML file, command line. Later ones win; every origin is kept.

>>> @dataclass(frozen=True)
... class Tiny:
...     n_layer: int = setting(4, "layers", at_least=1)
>>> layers = [Layer("tiny.toml", {"model": {"n-layer": 6}})]
>>> resolve({"model": Tiny}, layers).build("model")
Tiny(n_layer=6)
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pealm_core.contract.errors import UserError
from pealm_core.contract.fields import did_you_mean, settings_of


@dataclass(frozen=True)
class Layer:
    """Values from one place: a recipe, a preset, a file, the command line. Later layers win.

    text: the values are words of the command line. line: (table, key) → the place to name in an error.
    """

    origin: str
    tables: Mapping[str, Mapping[str, Any]]
    text: bool = False
    line: Callable[[str, str], str] | None = None

    def place(self, table: str, key: str) -> str:
        """Where a value stands, for messages: `run.toml, line 3: [model] n-layer`."""
        if self.line is not None:
            return self.line(table, key)
        return f"{self.origin}: [{table}] {key}"


@dataclass(frozen=True)
class Resolved:
    """Every value of every table and where it came from."""

    schema: Mapping[str, type | None]
    values: Mapping[str, Mapping[str, Any]]  # by table, by field name
    origins: Mapping[str, Mapping[str, str]]

    def build(self, table: str) -> Any:
        """The table's dataclass (None where a component has no settings). Raises UserError."""
        config = self.schema[table]
        if config is None:
            return None
        try:
            return config(**self.values[table])
        except ValueError as error:
            raise UserError(f"[{table}] {error}") from error


def resolve(schema: Mapping[str, type | None], layers: Iterable[Layer]) -> Resolved:
    """Lay the layers over the defaults. Raises UserError with a line for every mistake in them."""
    values: dict[str, dict[str, Any]] = {}
    origins: dict[str, dict[str, str]] = {}
    for table, config in schema.items():
        values[table] = {s.name: s.default for s in settings_of(config).values()}
        origins[table] = dict.fromkeys(values[table], "default")
    mistakes = []
    for layer in layers:
        for table, entries in layer.tables.items():
            known = settings_of(schema[table])
            seen: dict[str, str] = {}
            for raw_key, raw in entries.items():
                key = raw_key.replace("_", "-")
                place = layer.place(table, raw_key)
                if key not in known:
                    mistakes.append(
                        f"{place}: unknown key{did_you_mean(key, [k for k in known if not known[k].hidden])}"
                    )
                    continue
                item = known[key]
                try:
                    values[table][item.name] = item.parse(raw, text=layer.text)
                except ValueError as error:
                    mistakes.append(f"{place} {error}")
                    continue
                origins[table][item.name] = layer.origin
                seen[item.name] = place
                if item.excludes:
                    if item.excludes in seen:
                        mistakes.append(f"{place} and {seen[item.excludes]} exclude each other: give one of them")
                    else:
                        values[table][item.excludes] = None
                        origins[table][item.excludes] = layer.origin
    if mistakes:
        raise UserError("\n".join(mistakes))
    return Resolved(schema, values, origins)


def read_toml(path: Path) -> tuple[dict[str, Any], Callable[[str, str], str]]:
    """A TOML file and a function that tells on which of its lines a key stands. Raises UserError."""
    import tomllib

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read: {error}") from None
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: bad TOML: {error}") from None
    lines = _key_lines(text)

    def place(table: str, key: str) -> str:
        number = lines.get((table, key)) or lines.get((table, ""))
        return f"{path}, line {number}: [{table}] {key}" if number else f"{path}: [{table}] {key}"

    return tables, place


def _key_lines(text: str) -> dict[tuple[str, str], int]:
    """(table, key) → line number; (table, "") is the table's header. Enough for pealm's flat tables."""
    table, lines = "", {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line):
            table = header[1].strip("\"' ")
            lines[table, ""] = number
        elif key := re.match(r"""\s*(["']?)([\w.-]+)\1\s*=""", line):
            lines[table, key[2]] = number
    return lines
