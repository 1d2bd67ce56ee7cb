"""Which component each table of settings means.

The last layer that names a component wins; values that a layer sets for another one are ignored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pealm_core.config.local_plugins import missing
from pealm_core.config.toml_layers import Layer, Tables
from pealm_core.contract import specs
from pealm_core.contract.errors import UserError, did_you_mean
from pealm_core.contract.fields import settings_of
from pealm_core.contract.specs import DatasetSpec, EvaluatorSpec, ObserverSpec, Spec
from pealm_core.plugins.loading import Entry, PluginHost

COMPONENTS: Mapping[str, type[Spec]] = {  # table → the kind of component that it configures
    "model": specs.ModelSpec,
    "tokenizer": specs.TokenizerSpec,
    "optimizer": specs.OptimizerSpec,
    "schedule": specs.ScheduleSpec,
    "objective": specs.ObjectiveSpec,
    "strategy": specs.StrategySpec,
    "adapter": specs.AdapterSpec,
    "input": DatasetSpec,
    "eval": EvaluatorSpec,
    "observer": ObserverSpec,  # `observer.NAME`: the names come from the tables themselves
}
DEFAULTS = {"optimizer": "adamw", "schedule": "cosine", "objective": "next-token", "strategy": "ddp"}
FILE_TABLES = ("train", "sample", *COMPONENTS, "plugins", "versions")


def choose(
    host: PluginHost,
    components: Sequence[str],
    file: Layer | None = None,
    preset: str | None = None,
    words: Tables | None = None,
    carried: Layer | None = None,
) -> tuple[dict[str, Entry[Any]], list[Layer]]:
    """Return the entry of each component, and the layers with only the values that are meant for these.

    The inputs of a mixture are components of their own: `input.1`, `input.2`, ... carried: a layer between the file
    and the command line.
    """
    line, file = _flat(Layer("command line", words or {}, text=True)), _flat(file or Layer("no file", {}))
    for table, values in file.tables.items():
        if kind_of(table) not in FILE_TABLES:
            raise UserError(f"{file.place(table, '').rstrip()}: unknown table{did_you_mean(table, FILE_TABLES)}")
        if not isinstance(values, Mapping):
            raise UserError(f"{file.place('', table)} must be a table, not {values!r:.80}")
    if wrong := [table for table, values in line.tables.items() if not isinstance(values, Mapping)]:
        raise UserError(f"--{wrong[0]}: give it a setting, as in --{wrong[0]}.KEY VALUE")
    inputs = [table for table in file.tables if kind_of(table) == "input"] or ["input"]
    if inputs[0] != "input" and (setting := next(iter(line.tables.get("input", {})), None)):
        if _named(host, line, "input") is None:
            raise UserError(f"{line.place('input', setting)}: {file.origin} has several inputs; change it there")
        inputs = ["input"]
    above = [line] if carried is None else [carried, line]
    layers = [file, *above]
    entries: dict[str, Entry[Any]] = {}
    defaults: dict[str, str | None] = {**DEFAULTS}
    named = {table: table.partition(".") for layer in layers for table in layer.tables}
    observers = {table: name for table, (kind, _, name) in named.items() if kind == "observer"}
    defaults |= observers
    tables = {"input": inputs, "observer": observers}
    for table in (table for name in components for table in tables.get(name, [name])):
        if kind_of(table) == "input" and not takes_input(entries):
            continue
        if table == "eval":
            defaults["eval"] = _default_evaluation(host, layers)
        name = next(filter(None, (_named(host, layer, table) for layer in reversed(layers))), defaults.get(table))
        if name is None and kind_of(table) == "input":  # neither a dataset nor, without one, a dataset's field
            name = next((key for layer in reversed(layers) for key in layer.tables.get(table, {})), None)
        if name is None and table != kind_of(table):
            raise UserError(f"{file.place(table, '').rstrip()} names no dataset")
        if name is None:
            continue
        entry = entries[table] = _find(host, file, table, name)
        if table == "model":
            layers = [*_model_layers(entry, file, preset), *above]
            defaults |= {"model": name, "tokenizer": entry.spec.tokenizer}
        layers = _meant(host, layers, table, entry, defaults.get(table))
    return entries, layers


def _default_evaluation(host: PluginHost, layers: Sequence[Layer]) -> str | None:
    """Return the evaluation of a model if none is named: one of its text if a layer names an input, else another."""
    known = {
        name: entry.spec.input for name, (entry, *_) in host.entries(EvaluatorSpec).items() if entry.spec.default
    }
    text = any(kind_of(table) == "input" for layer in layers for table, values in layer.tables.items() if values)
    return next((name for name, reads in known.items() if reads == text), next(iter(known), None))


def kind_of(table: str) -> str:
    """Return the key of COMPONENTS for a table: `input` for `input.1`, the first of a mixture; `observer.NAME`."""
    return table.partition(".")[0]


def _flat(layer: Layer) -> Layer:
    """Return the layer with a table for each input of a mixture (`input.1`) and for each observer."""
    tables: dict[str, Any] = {}
    for table, values in layer.tables.items():
        parts: Any = values.items() if table == "observer" and isinstance(values, Mapping) else ()
        parts = enumerate(values, 1) if table == "input" and isinstance(values, list) else parts
        several = {f"{table}.{name}": part for name, part in parts}
        tables.update(several or {table: values})
    return replace(layer, tables=tables)


def takes_input(entries: Mapping[str, Entry[Any]]) -> bool:
    """Whether a command with these components uses a dataset: not every evaluation does."""
    return "eval" not in entries or bool(entries["eval"].spec.input)


def _named(host: PluginHost, layer: Layer, table: str) -> str | None:
    """Return the component that a layer names. Raises UserError for two datasets."""
    values = layer.tables.get(table, {})
    if kind_of(table) != "input":
        return str(values["name"]) if "name" in values else None
    keys = [key for key in values if key.rpartition("/")[2] in host.entries(DatasetSpec)]
    if len(keys) > 1:  # a field of one dataset may have the name of another one
        settings = {key: settings_of(host.find(DatasetSpec, key).config) for key in keys}
        keys = [key for key in keys if not any(key in settings[other] for other in keys if other != key)]
    if len(keys) > 1:
        raise UserError(
            f"one input at a time: {' and '.join('--input.' + key for key in keys)} were given; "
            f"a mixture is a config file with several [[input]] tables"
        )
    return keys[0] if keys else None


def _find(host: PluginHost, file: Layer, table: str, name: str) -> Entry[Any]:
    """Resolve a name. A saved config's own plugins win; those that are no longer installed are named."""
    made_with = file.tables.get("versions", {})
    try:
        return host.find(COMPONENTS[kind_of(table)], name, prefer=made_with)
    except UserError as error:
        installed = {plugin.dist for plugin in host.plugins}
        values = file.tables.get(table, {})
        its_own = name in (*values, *map(str, values.values())) or (values and kind_of(table) == "observer")
        if (options := missing(file, host)) and its_own:  # not of the line
            reason = f"{str(error).partition(';')[0]}; {file.origin} was made with a local plugin"
            raise UserError(f"{reason}, whose code runs only if you name it: {options}") from None
        lost = [f"{dist} {version}" for dist, version in made_with.items() if dist not in installed]
        if not lost:
            raise
        raise UserError(f"{error}; {file.origin} was made with {', '.join(lost)}, not installed here") from None


def _model_layers(model: Entry[Any], file: Layer, preset: str | None) -> list[Layer]:
    """Return the layers below the command line, the lowest first. A run's own config replaces the recipe."""
    presets, dist = model.spec.presets, model.plugin.dist
    if preset is not None and preset.startswith("depth-") and preset not in presets:
        presets = {preset: _depth(model, preset.removeprefix("depth-"))}
    if preset is not None and preset not in presets:
        raise UserError(f"model {model.name!r} has no preset {preset!r}{did_you_mean(preset, presets)}")
    recipe = Layer("recipe", model.spec.recipe, dist=dist)
    chosen = Layer(f"preset {preset}", preset_tables(presets.get(preset, {})), dist=dist)
    return [file, chosen] if "versions" in file.tables else [recipe, chosen, file]


def _depth(model: Entry[Any], text: str) -> Mapping[str, Any]:
    """Return the preset of `--depth N`. Raises UserError."""
    if not model.spec.depth:
        raise UserError(f"--depth {text}: model {model.name!r} has no such preset; set its sizes one by one")
    try:
        return dict(model.load("depth")(int(text)))
    except ValueError as error:
        problem = error if text.isdecimal() else "not a number of layers"
        raise UserError(f"--depth {text}: {problem}") from None


def preset_tables(values: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return a preset as tables: the model's own values, and its tables `train`, `optimizer` and `input`."""
    tables = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    return {"model": {key: value for key, value in values.items() if key not in tables}, **tables}


def _meant(host: PluginHost, layers: list[Layer], table: str, entry: Entry[Any], below: str | None) -> list[Layer]:
    """Return the layers without a table's names and without its values for other components.

    Without a name, a recipe's or preset's values are for the component named below it, a file's for the chosen one.
    """
    kept = []
    for layer in layers:
        values, name = dict(layer.tables.get(table, {})), _named(host, layer, table)
        below = name or below
        dist, _, bare = ((below if layer.dist else name or entry.name) or "").rpartition("/")
        if bare != entry.spec.name or dist not in ("", entry.plugin.dist):
            values = {}
        elif name is not None:
            value = values.pop(name if kind_of(table) == "input" else "name")
            if kind_of(table) == "input" and value is not True:  # its value, a setting that is called as the dataset
                if entry.spec.value is None:
                    raise UserError(f"{layer.place(table, name)} takes no value")
                values[entry.name] = value
        kept.append(replace(layer, tables={**layer.tables, table: values}))
    return kept
