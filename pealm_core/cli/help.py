"""The help page of a command over components: their options, and what else can be named."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import click

from pealm_core.config.choose_components import COMPONENTS, kind_of, takes_input
from pealm_core.config.paths import printable
from pealm_core.config.toml_layers import Resolved, is_option, option_name
from pealm_core.contract.fields import settings_of
from pealm_core.plugins.host import Entry, PluginHost

Section = tuple[str, list[tuple[str, str]]]
HEADINGS = {"train": "Training", "sample": "Sampling", "eval": "Evaluation"}  # the others: their name
NAMED_BY = {"eval": "--on"}  # the others: as their table
METAVARS = {int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH", bool: "true|false"}


def sections(
    host: PluginHost, entries: Mapping[str, Entry[Any]], resolved: Resolved, tables: Iterable[str]
) -> list[Section]:
    """Return the settings of each table, then the model's presets and the components that can be named instead."""
    pages: list[Section] = []
    for table in (table for table in resolved.schema if table == kind_of(table)):  # a mixture has no options
        entry, heading = entries.get(table), HEADINGS.get(table, table.capitalize())
        title = heading if entry is None or table == "input" else f"{heading} ({entry.name})"
        pages.append((title, option_rows(table, entry, resolved)))
    if "model" in entries:
        presets = entries["model"].spec.presets.items()
        pages.append(("Presets (--preset)", [(name, _preset(values)) for name, values in presets]))
    for table in tables:
        if not {table, "model"} <= entries.keys() and (table != "input" or takes_input(entries)):
            prefix = "--input." if table == "input" else ""
            known = host.entries(COMPONENTS[table]).items()
            rows = [(prefix + name, providers[0].spec.summary) for name, providers in known]
            heading = HEADINGS.get(table, table.capitalize())
            title = f"{heading}s" if table in ("input", "model") else f"{heading}s (--{NAMED_BY.get(table, table)})"
            pages.append((title.replace("gys", "gies"), rows or [("none", "none is installed")]))
    return [(heading, rows) for heading, rows in pages if rows]


def option_rows(table: str, entry: Entry[Any] | None, resolved: Resolved) -> list[tuple[str, str]]:
    """Return the options of a table, each with its help and value; `[INT]` is a value that may be left out."""
    rows: list[tuple[str, str]] = []
    dataset = entry if table == "input" else None
    if dataset is not None and dataset.spec.value is None:
        rows.append((f"--input.{dataset.name}", dataset.spec.summary))
    for item in settings_of(resolved.schema[table]).values():
        value, origin = resolved.values[table][item.name], resolved.origins[table][item.name]
        note = "" if value in (None, MISSING, "", ()) else f"  [{_show(value)}]"
        choices = [choice for choice in getattr(item.type, "__args__", ()) if isinstance(choice, str)]
        metavar = "|".join(choices) or METAVARS.get(item.type, "A,B,...")
        if dataset is not None and item.name == dataset.spec.value:
            metavar = metavar if item.default is MISSING else f"[{metavar}]"
            rows.insert(0, (f"--input.{dataset.name} {metavar}", dataset.spec.summary + note))
        elif is_option(table, item):
            short = f"-{item.short}, " if item.short else ""
            note = note if origin == "default" or not note else f"{note[:-1]}, {origin}]"
            rows.append((f"{short}{option_name(table, item.key)} {metavar}", item.help + note))
    return rows


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _preset(values: Mapping[str, Any], table: str = "") -> str:
    """Return a preset's settings in one line: "n_layer 2, n_embd 64, train.batch_size 16"."""
    return ", ".join(
        _preset(value, f"{key}.") if isinstance(value, Mapping) else f"{table}{key} {value}"
        for key, value in values.items()
    )


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells in aligned columns."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
