"""Layers of settings: defaults, recipe, preset, TOML file, command line. Later layers win; every origin is kept.

>>> from pealm_core.contract.fields import setting
>>> @dataclass(frozen=True)
... class Tiny:
...     n_layer: int = setting(4, "layers", at_least=1)
>>> layers = [Layer("tiny.toml", {"model": {"n-layer": 6}})]
>>> resolve({"model": Tiny}, layers).build("model")
Tiny(n_layer=6)
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pealm_core.contract.errors import PluginError, UserError
from pealm_core.contract.fields import Setting, did_you_mean, settings_of

LARGEST = 10**12  # for a whole number without an upper bound of its own


@dataclass(frozen=True)
class Layer:
    """Values from one place: a recipe, a preset, a file or the command line.

    text: the values are words of the command line. locate: (table, key) → the place to name in an error.
    dist: the distribution whose record sets the values; a mistake in them is the plugin's, not the user's.
    """

    origin: str
    tables: Mapping[str, Mapping[str, Any]]
    text: bool = False
    locate: Callable[[str, str], str] | None = None
    dist: str = ""

    def place(self, table: str, key: str) -> str:
        """Return where a value is set, for messages: `run.toml, line 3: [model] n-layer`."""
        if self.locate is not None:
            return self.locate(table, key)
        return f"{self.origin}: [{table}] {key}"


@dataclass(frozen=True)
class Resolved:
    """Every value of every table and where it comes from."""

    schema: Mapping[str, type | None]
    values: Mapping[str, Mapping[str, Any]]  # by table, by field name
    origins: Mapping[str, Mapping[str, str]]

    def build(self, table: str) -> Any:
        """Return the table's dataclass, None for a component without settings. Raises UserError."""
        config = self.schema[table]
        if config is None:
            return None
        try:
            return config(**self.values[table])
        except ValueError as error:
            raise UserError(f"[{table}] {error}") from error


def option_name(table: str, key: str) -> str:
    """Return the command-line option of a setting."""
    return f"--{key}" if table in ("train", "sample") else f"--{table}.{key}"


def is_option(table: str, item: Setting) -> bool:
    """Whether users set it on the command line; the core fills a model's vocab_size."""
    return not item.hidden and (table, item.name) != ("model", "vocab_size")


def resolve(
    schema: Mapping[str, type | None],
    layers: Iterable[Layer],
    aliases: Mapping[str, Mapping[str, str]] | None = None,
) -> Resolved:
    """Lay the layers over the defaults. Raises one error with a line for every mistake.

    aliases: table → another key → the field that it sets. Tables outside the schema are ignored in files.
    """
    known = {table: settings_of(config) for table, config in schema.items()}
    values = {table: {s.name: s.default for s in settings.values()} for table, settings in known.items()}
    origins = {table: dict.fromkeys(names, "default") for table, names in values.items()}
    for table, names in (aliases or {}).items():
        known[table] = {**known[table], **{key: known[table][name] for key, name in names.items()}}
    mistakes: dict[str, list[str]] = {}
    for layer in layers:
        for table in layer.tables:
            wrong = list(_apply(layer, table, known, values, origins))
            if wrong:
                mistakes.setdefault(layer.dist, []).extend(wrong)
    for dist, lines in mistakes.items():
        raise PluginError("\n".join(f"{dist}: {line}" for line in lines)) if dist else UserError("\n".join(lines))
    return Resolved(schema, values, origins)


def _apply(
    layer: Layer,
    table: str,
    known: Mapping[str, Mapping[str, Setting]],
    values: Mapping[str, dict[str, Any]],
    origins: Mapping[str, dict[str, str]],
) -> Iterator[str]:
    """Lay one table of a layer over the values. Yields a line for every mistake."""
    if table not in known and not layer.text:
        return
    places: dict[str, str] = {}
    for key, raw in layer.tables[table].items():
        place, item = layer.place(table, key), known.get(table, {}).get(key.replace("_", "-"))
        if item is None or (layer.text and not is_option(table, item)):
            yield _unknown(layer, place, table, key, known)
        elif layer.text and raw is True:  # `--input.KEY` at the end or before an option
            yield f"{place} needs a value"
        elif item.name in places:
            yield f"{place} and {places[item.name]} are the same setting: give one of them"
        elif item.excludes in places:
            yield f"{place} and {places[item.excludes]} exclude each other: give one of them"
        else:
            places[item.name] = place
            try:
                values[table][item.name] = _parse(item, raw, layer.text)
            except ValueError as error:
                yield f"{place} {error}"
            origins[table][item.name] = layer.origin
            if item.excludes:
                values[table][item.excludes], origins[table][item.excludes] = None, layer.origin


def _unknown(layer: Layer, place: str, table: str, key: str, known: Mapping[str, Mapping[str, Setting]]) -> str:
    visible = {name: [k for k, s in settings.items() if is_option(name, s)] for name, settings in known.items()}
    if not layer.text:
        return f"{place}: unknown key{did_you_mean(key.replace('_', '-'), visible[table])}"
    if key.startswith("no-"):
        return f"unknown option {place}; write {option_name(table, key[3:])} false"
    options = [option_name(name, k) for name, keys in visible.items() if name in (table, *layer.tables) for k in keys]
    return f"unknown option {place}{did_you_mean(place, options)}"


def _parse(item: Setting, raw: Any, text: bool) -> Any:
    """Convert a value and check its size. Raises ValueError."""
    try:
        value = item.parse(raw, text=text)
    except OverflowError:  # a whole number that no float can hold
        value = LARGEST + 1
    except ValueError as error:
        raise ValueError(str(error) if len(str(error)) < 400 else f"{error!s:.300}...") from None
    numbers = value if isinstance(value, tuple) else (value,)
    if item.bounds.get("<=") is None and any(isinstance(n, int) and abs(n) > LARGEST for n in numbers):
        raise ValueError(f"must be at most {LARGEST:,}")
    return value


def file_layer(path: Path) -> Layer:
    """Read a config file as a layer. Raises UserError."""
    tables, place = read_toml(path)
    return Layer(str(path), tables, locate=place)


def read_toml(path: Path) -> tuple[dict[str, Any], Callable[[str, str], str]]:
    """Return a TOML file's tables and a function that names the line of a key. Raises UserError."""
    import tomllib

    try:
        text = read_regular(path).decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: can't be read: {error}") from None
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: bad TOML: {error}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}: bad TOML: nested too deeply, or a number with too many digits") from None
    lines = _key_lines(text)

    def place(table: str, key: str) -> str:
        number = lines.get((table, key)) or lines.get((table, ""))
        return f"{path}, line {number}: [{table}] {key}" if number else f"{path}: [{table}] {key}"

    return tables, place


def read_regular(path: Path) -> bytes:
    """Read a file, but no folder, pipe or device: those may never end. Raises OSError."""
    if path.exists() and not path.is_file():
        raise OSError("not a regular file")
    return path.read_bytes()


def _key_lines(text: str) -> dict[tuple[str, str], int]:
    """Map (table, key) to its line and (table, "") to the table's header; enough for pealm's flat tables."""
    table, lines = "", {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line):
            table = header[1].strip("\"' ")
            lines[table, ""] = number
        elif key := re.match(r"""\s*(["']?)([\w.-]+)\1\s*=""", line):
            lines[table, key[2]] = number
    return lines
