"""A job: the components that a command works with and all of its settings, resolved without torch.

Names come from the command line, else from the config file, else from the model's record. Each component's table
(`[model]`, `[tokenizer]`, `[optimizer]`) carries its `name`; in `[input]` one key names the dataset.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pealm_core.config.layers import Layer, Resolved, resolve
from pealm_core.config.settings import RESUMABLE
from pealm_core.contract.errors import PealmError, PluginError, UserError
from pealm_core.contract.fields import did_you_mean, dump, settings_of
from pealm_core.contract.specs import DatasetSpec, EvaluatorSpec, ModelSpec, OptimizerSpec, Spec, TokenizerSpec
from pealm_core.plugins.host import Entry, PluginHost

# table → the kind of component that it configures
COMPONENTS: Mapping[str, type[Spec]] = {
    "model": ModelSpec,
    "tokenizer": TokenizerSpec,
    "optimizer": OptimizerSpec,
    "input": DatasetSpec,
    "eval": EvaluatorSpec,
}
# tables that every config file may have and that no command's settings come from
NOTES = ("plugins", "versions")
DEFAULT_OPTIMIZER = "adamw"
FILE_TABLES = ("train", "sample", *COMPONENTS, *NOTES)


@dataclass(frozen=True)
class Request:
    """What a command line asks for, before any component is known.

    names: table → component name; file: the config file; words: table → key → word of the command line.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    file: Layer | None = None
    preset: str | None = None
    words: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """Components by table, and every setting with its origin."""

    host: PluginHost
    entries: Mapping[str, Entry[Any]]
    resolved: Resolved
    disabled: tuple[str, ...] = ()

    @cached_property
    def configs(self) -> dict[str, Any]:
        """The dataclass of each table. Raises UserError with all of their mistakes at once."""
        built, mistakes = {}, []
        for table, config in self.resolved.schema.items():
            missing = [s for s in settings_of(config).values() if self.resolved.values[table][s.name] is MISSING]
            for item in missing:
                bare = table == "input" and item.name == self.entries[table].spec.value
                name = option_name(table, self.entries[table].name if bare else item.key)
                mistakes.append(f"{name} needs a value" if bare else f"{name} is needed")
            if missing:
                continue
            try:
                built[table] = self.resolved.build(table)
            except UserError as error:
                mistakes.append(str(error))
        if mistakes:
            raise UserError("\n".join(mistakes))
        return built

    def with_model_config(self, config: Any) -> "Job":
        """The same job with the model's config as it was built (its vocab_size filled in)."""
        values = {**self.resolved.values, "model": {name: getattr(config, name) for name in vars(config)}}
        return replace(self, resolved=replace(self.resolved, values=values))

    def tables(self) -> dict[str, dict[str, Any]]:
        """The resolved config as TOML tables: what `--config` reads back."""
        tables: dict[str, dict[str, Any]] = {}
        for table in self.resolved.schema:
            values = dump(self.configs[table])
            entry = self.entries.get(table)
            if table == "input" and entry is not None:
                value = values.pop(entry.spec.value.replace("_", "-"), True) if entry.spec.value else True
                values = {entry.name: value, **values}
            elif entry is not None:
                values = {"name": entry.name, **values}
            tables[table] = values
        if self.disabled:
            tables["plugins"] = {"disable": list(self.disabled)}
        tables["versions"] = dict(self.host.versions(self.entries.values()))
        return tables

    def explain(self) -> str:
        """Every value and where it came from, as TOML with comments (`--print-config`)."""
        lines = []
        for table, config in self.resolved.schema.items():
            lines.append(f"[{table}]")
            entry = self.entries.get(table)
            rows = []
            skip = None
            if entry is not None and table == "input":
                skip = entry.spec.value
                value = self.resolved.values[table].get(skip) if skip else True
                origin = self.resolved.origins[table].get(skip, "") if skip else ""
                rows.append((f"{_toml_key(entry.name)} = {_toml(True if value is None else value)}", origin))
            elif entry is not None:
                rows.append((f"name = {_toml(entry.name)}", f"{entry.plugin.dist} {entry.plugin.version}"))
            for item in settings_of(config).values():
                if item.name == skip or item.hidden:
                    continue
                value = self.resolved.values[table][item.name]
                if value is None or value is MISSING:
                    text = f"# {item.key} is {'not set' if value is None else 'needed'}"
                else:
                    text = f"{item.key} = {_toml(value)}"
                rows.append((text, self.resolved.origins[table][item.name]))
            width = max((len(text) for text, _ in rows), default=0)
            lines += [f"{text:<{width}}  # {origin}".rstrip(" #") for text, origin in rows] + [""]
        return "\n".join(lines).rstrip()


def plan(host: PluginHost, request: Request, flat: Mapping[str, type], components: Sequence[str]) -> Job:
    """Resolve a request into a job. flat: tables without a component. Raises UserError or PluginError."""
    entries = choose(host, request, components)
    resolved = settle(host, request, flat, entries)
    if _is_whole(request.file):
        _check_preset(host, resolved.schema, entries, request)
    return Job(host, entries, resolved, _disabled(request.file))


def choose(host: PluginHost, request: Request, components: Sequence[str]) -> dict[str, Entry[Any]]:
    """The entry of each component that the request names, or that its model's record names for it."""
    entries: dict[str, Entry[Any]] = {}
    defaults = {"optimizer": DEFAULT_OPTIMIZER}
    if "eval" in components:
        claims = [name for name, found in host.entries(EvaluatorSpec).items() if found[0].spec.default]
        defaults |= {"eval": claims[0]} if claims else {}
    recipe: Mapping[str, Mapping[str, Any]] = {}
    for table in components:
        if table == "input" and not takes_input(entries):
            continue
        if table == "input":
            name = _dataset_name(
                host, [request.words.get("input", {}), _of(request.file, "input"), recipe.get("input", {})]
            )
        else:
            name = request.names.get(table) or _of(request.file, table).get("name") or _of_recipe(recipe, table)
            name = name or defaults.get(table)
        if name is None:
            continue
        if not isinstance(name, str):
            raise UserError(f"{_place(request.file, table, 'name')} must be text, not {name!r}")
        entries[table] = _find(host, request.file, table, name)
        if table == "model":
            recipe = entries["model"].spec.recipe
            defaults["tokenizer"] = entries["model"].spec.tokenizer
    return entries


def takes_input(entries: Mapping[str, Entry[Any]]) -> bool:
    """Whether a dataset has a part in it: not in every evaluation."""
    return "eval" not in entries or bool(entries["eval"].spec.input)


def _find(host: PluginHost, file: Layer | None, table: str, name: str) -> Entry[Any]:
    """Resolve a component; a saved config's own plugins win, and one that is gone is named."""
    made_with = _of(file, "versions")
    try:
        return host.find(COMPONENTS[table], name, prefer=made_with)
    except UserError as error:
        here = {plugin.dist for plugin in host.plugins}
        gone = [f"{dist} {version}" for dist, version in made_with.items() if dist not in here]
        if not gone or host.entries(COMPONENTS[table]).get(name.rpartition("/")[2]):
            raise
        assert file is not None
        raise UserError(f"{error}; {file.origin} was made with {', '.join(gone)}, not installed here") from None


def settle(
    host: PluginHost, request: Request, flat: Mapping[str, type], entries: Mapping[str, Entry[Any]]
) -> Resolved:
    """Lay recipe, preset, file and command line over the defaults."""
    schema: dict[str, type | None] = {**flat, **{table: entry.config for table, entry in entries.items()}}
    layers = _model_layers(request, entries.get("model"))
    _check_model_layers(host, schema, entries, layers)
    if request.file is not None:
        check_tables(request.file)
        layers.append(request.file)
    layers.append(Layer("command line", request.words, text=True, line=option_name))
    return resolve(schema, [_fit(host, schema, entries, layer) for layer in layers])


def _model_layers(request: Request, model: Entry[Any] | None) -> list[Layer]:
    """What the model's record sets: its recipe and the preset. A run's own config is whole and takes neither."""
    whole = _is_whole(request.file)
    layers = [] if model is None or whole else [Layer("recipe", model.spec.recipe)]
    if request.preset is not None:
        if model is None:
            raise UserError("--preset needs a model")
        if request.preset not in model.spec.presets:
            raise UserError(
                f"model {model.name!r} has no preset {request.preset!r}"
                + (did_you_mean(request.preset, model.spec.presets) or "; it has none")
            )
        if not whole:
            layers.append(Layer(f"preset {request.preset}", preset_tables(model.spec.presets[request.preset])))
    return layers


def _is_whole(file: Layer | None) -> bool:
    """Whether it is a run's own config, which sets everything."""
    return file is not None and "versions" in file.tables


def _check_preset(
    host: PluginHost, schema: Mapping[str, type | None], entries: Mapping[str, Entry[Any]], request: Request
) -> None:
    """Raise UserError where a preset is not the one that the whole config was made with."""
    if request.preset is None or request.file is None:
        return
    layer = Layer(f"preset {request.preset}", preset_tables(entries["model"].spec.presets[request.preset]))
    preset = resolve(schema, [_fit(host, schema, entries, layer)])
    file = resolve(schema, [_fit(host, schema, entries, request.file)])
    for table, origins in preset.origins.items():
        given = {key.replace("-", "_") for key in request.words.get(table, {})}
        free = given | RESUMABLE if table == "train" else given
        for name, origin in origins.items():
            new, old = preset.values[table][name], file.values[table][name]
            if origin == layer.origin and name not in free and new != old:
                raise UserError(
                    f"--preset {request.preset} sets [{table}] {name.replace('_', '-')} = {new!r}, and "
                    f"{request.file.origin} has {old!r}; leave --preset out, or start a new run with another --out"
                )


def preset_tables(values: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """A preset as tables: the model's own values, and what it sets of `train`, `optimizer` and `input`."""
    tables = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    return {"model": {key: value for key, value in values.items() if key not in tables}, **tables}


def _check_model_layers(
    host: PluginHost, schema: Mapping[str, type | None], entries: Mapping[str, Entry[Any]], layers: list[Layer]
) -> None:
    """Raise PluginError where a recipe or preset is wrong in itself: no user can mend it."""
    try:
        resolve(schema, [_fit(host, schema, entries, layer) for layer in layers])
    except UserError as error:
        raise PluginError(f"{entries['model'].plugin.dist}: {error}") from error


def _fit(
    host: PluginHost, schema: Mapping[str, type | None], entries: Mapping[str, Entry[Any]], layer: Layer
) -> Layer:
    """The layer's values for the chosen components, and places that name the dataset's option, not its field."""
    tables = {table: _own(host, layer, table, entries.get(table)) for table in layer.tables if table in schema}
    dataset = entries.get("input")

    def place(table: str, key: str) -> str:
        if table == "input" and dataset is not None and key == dataset.spec.value:
            key = dataset.name
        return layer.place(table, key)

    return replace(layer, tables=tables, line=place)


def option_name(table: str, key: str) -> str:
    """How a setting is written on the command line."""
    return f"--{key}" if table in ("train", "sample") else f"--{table}.{key}"


def check_tables(file: Layer) -> None:
    """Raise UserError for what is no table of pealm's."""
    for table, values in file.tables.items():
        if table not in FILE_TABLES:
            raise UserError(f"{file.place(table, '').rstrip()}: unknown table{did_you_mean(table, FILE_TABLES)}")
        if not isinstance(values, Mapping):
            raise UserError(f"{file.place('', table)} must be a table, not {values!r}")


def _own(host: PluginHost, layer: Layer, table: str, entry: Entry[Any] | None) -> Mapping[str, Any]:
    """The values of a layer's table that are meant for the chosen component."""
    values = dict(layer.tables[table])
    if entry is None:
        return values
    of_model = layer.origin == "recipe" or layer.origin.startswith("preset ")
    if table == "input":
        named = _named(host, values)
        if of_model and not named:
            return {}  # its dataset is not installed, and another one was chosen
        if named and named not in (entry.name, entry.spec.name):
            return {}
        if named:
            value = values.pop(named)
            if entry.spec.value is not None and value is not True:
                values[entry.spec.value] = value
            elif entry.spec.value is None and value is not True:
                raise UserError(f"{layer.place(table, named)} takes no value")
        return values
    # A recipe that names no optimizer was written for the default one.
    unnamed = DEFAULT_OPTIMIZER if table == "optimizer" and of_model else entry.name
    named = values.pop("name", unnamed)
    return values if named in (entry.name, entry.spec.name) else {}


def _named(host: PluginHost, values: Mapping[str, Any]) -> str | None:
    """The key of an [input] table that names the dataset. Raises UserError for two."""
    datasets = host.entries(DatasetSpec)
    found = [key for key in values if key.rpartition("/")[2] in datasets]
    if len(found) > 1:  # a field of one dataset may be another one's name
        fields = {key: _fields(host, key) for key in found}
        found = [key for key in found if not any(key in fields[other] for other in found if other != key)]
    if len(found) > 1:
        raise UserError(f"one input at a time: {' and '.join('--input.' + key for key in found)} were given")
    return found[0] if found else None


def _fields(host: PluginHost, dataset: str) -> Mapping[str, Any]:
    try:
        return settings_of(host.find(DatasetSpec, dataset).config)
    except PealmError:  # another one's defect is not this command's business
        return {}


def _dataset_name(host: PluginHost, tables: list[Mapping[str, Any]]) -> str | None:
    """The dataset that the first table to name one names. Raises UserError for a key that can't be placed."""
    for values in tables:
        if named := _named(host, values):
            return named
    unknown = next((key for values in tables for key in values), None)
    if unknown is not None:
        host.find(DatasetSpec, unknown)  # raises: no dataset, and no dataset's field either
    return None


def _of(file: Layer | None, table: str) -> Mapping[str, Any]:
    values = file.tables.get(table, {}) if file else {}
    return values if isinstance(values, Mapping) else {}


def _of_recipe(recipe: Mapping[str, Mapping[str, Any]], table: str) -> Any:
    return recipe.get(table, {}).get("name")


def _place(file: Layer | None, table: str, key: str) -> str:
    return file.place(table, key) if file else f"[{table}] {key}"


def _disabled(file: Layer | None) -> tuple[str, ...]:
    """The plugins that a config file switches off: `[plugins] disable = ["name"]`."""
    names = _of(file, "plugins").get("disable", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{_place(file, 'plugins', 'disable')} must be a list of names, not {names!r}")
    return tuple(names)


def host_for(file: Layer | None) -> PluginHost:
    """The installed plugins, less those that the file switches off."""
    return PluginHost.installed(_disabled(file))


def file_layer(path: Path) -> Layer:
    """A config file as a layer."""
    from pealm_core.config.layers import read_toml

    tables, place = read_toml(path)
    return Layer(str(path), tables, line=place)


def _toml_key(key: str) -> str:
    return key if key.replace("-", "").replace("_", "").isalnum() else json.dumps(key)


def _toml(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, (bool, int, float)):
        return str(value).lower()
    return json.dumps(str(value), ensure_ascii=False)
