"""The help page of a command over components: their options, and what else can be named."""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from pealm_core.config.choice import COMPONENTS, takes_input
from pealm_core.config.layers import Resolved, is_option, option_name
from pealm_core.contract.fields import Setting, settings_of
from pealm_core.plugins.host import Entry, PluginHost

Section = tuple[str, list[tuple[str, str]]]

HEADINGS = {
    "train": "Training",
    "sample": "Sampling",
    "model": "Model",
    "tokenizer": "Tokenizer",
    "optimizer": "Optimizer",
    "input": "Input",
    "eval": "Evaluation",
}
LISTS = {
    "model": "Models",
    "input": "Inputs",
    "eval": "Evaluations (--on)",
    "tokenizer": "Tokenizers (--tokenizer)",
    "optimizer": "Optimizers (--optimizer)",
}


def sections(
    host: PluginHost, entries: Mapping[str, Entry[Any]], resolved: Resolved, tables: Iterable[str]
) -> list[Section]:
    """Return the settings of each table, then the model's presets and the components that can be named instead."""
    pages: list[Section] = []
    for table, config in resolved.schema.items():
        entry = entries.get(table)
        heading = HEADINGS[table] if entry is None or table == "input" else f"{HEADINGS[table]} ({entry.name})"
        rows = [] if entry is None or table != "input" else [_dataset(entry, resolved)]
        for item in settings_of(config).values():
            bare = table == "input" and entry is not None and item.name == entry.spec.value
            if is_option(table, item) and not bare:
                short = f"-{item.short}, " if item.short else ""
                option = f"{short}{option_name(table, item.key)} {_metavar(item.type)}"
                rows.append((option, item.help + _note(item, table, resolved)))
        if rows:
            pages.append((heading, rows))
    if "model" in entries and entries["model"].spec.presets:
        presets = entries["model"].spec.presets.items()
        pages.append(("Presets (--preset)", [(name, _preset(values)) for name, values in presets]))
    for table in tables:
        named = table in entries and (table not in ("tokenizer", "optimizer") or "model" in entries)
        if not named and (table != "input" or takes_input(entries)):
            prefix = "--input." if table == "input" else ""
            known = host.entries(COMPONENTS[table]).items()
            rows = [(prefix + name, providers[0].spec.summary) for name, providers in known]
            pages.append((LISTS[table], rows or [("none", "none is installed")]))
    return pages


def _dataset(entry: Entry[Any], resolved: Resolved) -> tuple[str, str]:
    """Return the row of `--input.NAME`: `[INT]` if the value has a default, nothing if there is no value."""
    item = next((s for s in settings_of(entry.config).values() if s.name == entry.spec.value), None)
    if item is None:
        return f"--input.{entry.name}", entry.spec.summary
    metavar = _metavar(item.type)
    value = resolved.values["input"][item.name]
    note = "" if value is None or value is MISSING else f"  [{_show(value)}]"
    return f"--input.{entry.name} {metavar if item.default is MISSING else f'[{metavar}]'}", entry.spec.summary + note


def _metavar(type_: Any) -> str:
    choices = getattr(type_, "__args__", ())
    if choices and all(isinstance(choice, str) for choice in choices):
        return "|".join(choices)
    return {int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH", bool: "true|false"}.get(type_, "A,B,...")


def _note(item: Setting, table: str, resolved: Resolved) -> str:
    value, origin = resolved.values[table][item.name], resolved.origins[table][item.name]
    if value is None or value is MISSING or value in ("", ()):
        return ""
    return f"  [{_show(value)}]" if origin == "default" else f"  [{_show(value)}, {origin}]"


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
