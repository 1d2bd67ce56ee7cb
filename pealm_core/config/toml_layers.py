"""Layers of settings: defaults, recipe, preset, TOML file, command line. Later layers win; every origin is kept."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from pealm_core.contract.errors import PluginError, UserError, did_you_mean
from pealm_core.contract.fields import Setting, settings_of
from pealm_core.plugins.loading import Entry

LARGEST = 2**26  # bytes of a file that is read at once
Tables = Mapping[str, Any]  # name → table, or for [[input]] a list of tables
# Keys of a component's table that are the core's own: of the weights below an adapter, of an input in a mixture.
BASE = {key: Setting(key.replace("-", "_"), str, True, None, hidden=True) for key in ("base", "base-hash")}
WEIGHT = {"weight": Setting("weight", float, False, 1.0, "relative to the others", {"above": 0}, hidden=True)}


@dataclass(frozen=True)
class Layer:
    """Values from one place: a recipe, a preset, a file or the command line.

    text: the values are words of the command line. lines: where a file sets (table, key), or starts (table, "").
    dist: the distribution whose record sets the values; a mistake in them is the plugin's, not the user's.
    """

    origin: str
    tables: Tables
    text: bool = False
    lines: Mapping[tuple[str, str], int] = field(default_factory=dict)
    dist: str = ""

    def place(self, table: str, key: str) -> str:
        """Return where a value is set, for messages: `run.toml, line 3: [model] n-layer` or `--model.n-layer`."""
        if self.text:
            return option_name(table, key)
        number = self.lines.get((table, key)) or self.lines.get((table, ""))
        return f"{self.origin}, line {number}: [{table}] {key}" if number else f"{self.origin}: [{table}] {key}"


def option_name(table: str, key: str) -> str:
    """Return the command-line option of a setting."""
    return f"--{key}" if table in ("train", "sample") else f"--{table}.{key}"


class Resolved:
    """Every value of every table and where it comes from."""

    def __init__(
        self, flat: Mapping[str, type], entries: Mapping[str, Entry[Any]], layers: Iterable[Layer] = ()
    ) -> None:
        """Lay the layers over the defaults of the tables without and with a component.

        Raises one error with all mistakes of a layer. A file's other tables are ignored.
        """
        self.configs: dict[str, type | None] = {**flat, **{table: entry.config for table, entry in entries.items()}}
        self.settings = {table: settings_of(config) for table, config in flat.items()}  # by table, by key
        self.settings |= {table: _settings(table, entry) for table, entry in entries.items()}
        # By table, by field name; MISSING if it is required.
        self.values = {table: {i.name: i.default for i in items.values()} for table, items in self.settings.items()}
        self.origins = {table: dict.fromkeys(names, "default") for table, names in self.values.items()}
        for layer in layers:
            if mistakes := list(self._apply(layer)):
                if layer.dist:
                    raise PluginError("\n".join(f"{layer.dist}: {line}" for line in mistakes))
                raise UserError("\n".join(mistakes))

    def build(self, table: str) -> Any:
        """Return the table's dataclass, None for a component without settings. Raises UserError."""
        config, values = self.configs[table], self.values[table]
        if config is None:
            return None
        missing = [key for key, item in self.settings[table].items() if values[item.name] is MISSING]
        if missing:
            raise UserError("\n".join(f"{option_name(table, key)} needs a value" for key in missing))
        try:
            return config(**{item.name: values[item.name] for item in settings_of(config).values()})
        except ValueError as error:
            raise UserError(f"[{table}] {error}") from error

    def _apply(self, layer: Layer) -> Iterator[str]:
        """Lay a layer over the values. Yields a line for every mistake."""
        places: dict[tuple[str, str | None], str] = {}
        tables = [table for table in layer.tables if table in self.settings or layer.text]
        for table, key, raw in ((name, *row) for name in tables for row in layer.tables[name].items()):
            place, item = layer.place(table, key), self.settings.get(table, {}).get(key.replace("_", "-"))
            if item is None or (layer.text and item.hidden):
                yield self._unknown(layer, table, key)
            elif layer.text and raw is True:  # `--input.KEY` at the end or before an option
                yield f"{place} needs a value"
            elif other := places.get((table, item.name)):
                yield f"{place} and {other} exclude each other: give one of them"
            else:
                places |= {(table, name): place for name in (item.name, *item.excludes)}
                try:
                    self.values[table][item.name] = item.parse(raw, text=layer.text)
                except ValueError as error:
                    yield f"{place} {error}"
                self.origins[table][item.name] = layer.origin
                for name in item.excludes:
                    self.values[table][name], self.origins[table][name] = None, layer.origin

    def _unknown(self, layer: Layer, table: str, key: str) -> str:
        place = layer.place(table, key)
        if not layer.text:
            return f"{place}: unknown key{did_you_mean(key, self.settings[table])}"
        options = [option_name(t, k) for t, known in self.settings.items() for k in known if not known[k].hidden]
        return f"unknown option {place}{did_you_mean(place, options)}"


def _settings(table: str, entry: Entry[Any]) -> dict[str, Setting]:
    """Return the settings of a component's table by key: a dataset's value is under its name."""
    value = getattr(entry.spec, "value", None)
    settings = {entry.name if item.name == value else key: item for key, item in settings_of(entry.config).items()}
    if table == "model":  # the core fills it, and a tokenizer's is an option
        settings["vocab-size"] = replace(settings["vocab-size"], hidden=True)
    own = BASE if table == "adapter" else WEIGHT if table.startswith("input.") else {}
    return settings | own


def file_layer(path: Path) -> Layer:
    """Read a config file as a layer. Raises UserError."""
    import tomllib

    try:
        text = read_regular(path).decode()
        tables = tomllib.loads(text)
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # also text that isn't UTF-8 and numbers with too many digits
        raise UserError(f"{path}: bad TOML: {error}") from None
    return Layer(str(path), tables, lines=_key_lines(text))


def read_regular(path: Path) -> bytes:
    """Read a file of settings or facts. Raises OSError, also for pipes, devices and files that may never end."""
    if path.exists() and not path.is_file():
        raise OSError("not a regular file")
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise OSError(f"larger than {LARGEST >> 20} MiB")
    return content


def _key_lines(text: str) -> dict[tuple[str, str], int]:
    """Map (table, key) to its line and (table, "") to the table's header; enough for pealm's flat tables.

    The tables of a list, `[[input]]`, are `input.1`, `input.2`, ...
    """
    table, lines = "", {}
    for number, line in enumerate(text.splitlines(), 1):
        if match := re.match(r"""\s*(\[\[?)?\s*["']?([\w./-]+)["']?\s*(?(1)\]|=)""", line):  # `[table]` or `key =`
            table, key = (match[2], "") if match[1] else (table, match[2])
            if match[1] == "[[":
                table = next(f"{table}.{i}" for i in count(1) if (f"{table}.{i}", "") not in lines)
            lines[table, key] = number
    return lines
