"""The help page of a command over components: their options, and what else can be named."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import click

from pealm_core.config.choose_components import COMPONENTS, kind_of, takes_input
from pealm_core.config.paths import printable
from pealm_core.config.toml_layers import Resolved, is_option, option_name
from pealm_core.contract.fields import word
from pealm_core.plugins.host import Entry, PluginHost

Section = tuple[str, list[tuple[str, str]]]
HEADINGS = {"train": "Training", "sample": "Sampling", "eval": "Evaluation"}  # the others: their name
NAMED_BY = {"eval": "--on", "input": "--input.NAME", "observer": "--observer.NAME.KEY"}  # the others: as their table
METAVARS = {int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH", bool: "true|false"}


def sections(
    host: PluginHost, entries: Mapping[str, Entry[Any]], resolved: Resolved, tables: Iterable[str]
) -> list[Section]:
    """Return the settings of each table, then the model's presets and the components that can be named instead."""
    pages: list[Section] = []
    for table in (table for table in resolved.schema if kind_of(table) != "input" or table == "input"):  # no mixture
        name = f" ({entries[table].name})" if table in entries and table == kind_of(table) else ""
        pages.append(
            (HEADINGS.get(table, table.capitalize()) + name, option_rows(table, entries.get(table), resolved))
        )
    if "model" in entries:
        presets = entries["model"].spec.presets.items()
        pages.append(("Presets (--preset)", [(name, _preset(values)) for name, values in presets]))
    for table in tables:
        if not {table, "model"} <= entries.keys() and (table != "input" or takes_input(entries)):
            kind, by = COMPONENTS[table], NAMED_BY.get(table, f"--{table}")
            known = [(name, providers[0].spec.summary) for name, providers in host.entries(kind).items()]
            title = kind.hook.removeprefix("pealm_").capitalize() + ("" if table == "model" else f" ({by})")
            pages.append((title, known or [("none", "none is installed")]))
    return [(heading, rows) for heading, rows in pages if rows]


def option_rows(table: str, entry: Entry[Any] | None, resolved: Resolved) -> list[tuple[str, str]]:
    """Return the options of a table, each with its help and value; `[INT]` is a value that may be left out."""
    rows: list[tuple[str, str]] = []
    dataset = entry if table == "input" else None
    if dataset is not None and dataset.spec.value is None:
        rows.append((f"--input.{dataset.name}", dataset.spec.summary))
    for key, item in resolved.settings[table].items():
        if not is_option(table, item):
            continue
        value, origin = resolved.values[table][item.name], resolved.origins[table][item.name]
        choices = [choice for choice in getattr(item.type, "__args__", ()) if isinstance(choice, str)]
        metavar, help = "|".join(choices) or METAVARS.get(item.type, "A,B,..."), item.help
        if dataset is not None and key == dataset.name:
            metavar, help = metavar if item.default is MISSING else f"[{metavar}]", dataset.spec.summary
        short = f"-{item.short}, " if item.short else ""
        source = f", {origin}" if origin != "default" else ""
        note = "" if value in (None, MISSING, "", ()) else f"  [{word(value)}{source}]"
        rows.append((f"{short}{option_name(table, key)} {metavar}", help + note))
    return rows


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
