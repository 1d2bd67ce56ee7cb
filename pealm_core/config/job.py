"""A job: the components that a command works with and their settings, resolved without torch.

Each component's table (`[model]`, `[tokenizer]`, `[optimizer]`) carries its `name`; in `[input]` one key names the
dataset.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

from pealm_core.config.choice import Tables, choose
from pealm_core.config.layers import Layer, Resolved, option_name, resolve
from pealm_core.contract.errors import UserError
from pealm_core.contract.fields import dump, settings_of
from pealm_core.plugins.host import Entry, PluginHost


@dataclass(frozen=True)
class Job:
    """The entry and the config of each table, and where each setting comes from."""

    host: PluginHost
    entries: Mapping[str, Entry[Any]]
    configs: Mapping[str, Any]  # None for a component without settings
    origins: Mapping[str, Mapping[str, str]]
    disabled: tuple[str, ...] = ()

    @property
    def resolved(self) -> Resolved:
        """The settings as values by field name."""
        schema = {table: None if config is None else type(config) for table, config in self.configs.items()}
        values = {
            table: {field.name: getattr(config, field.name) for field in fields(config)} if config else {}
            for table, config in self.configs.items()
        }
        return Resolved(schema, values, self.origins)

    def with_model_config(self, config: Any) -> "Job":
        """Return the job with the model's config as it was built, with its vocab_size."""
        return replace(self, configs={**self.configs, "model": config})

    def tables(self) -> dict[str, dict[str, Any]]:
        """Return the resolved settings as TOML tables, which `--config` reads back."""
        tables: dict[str, dict[str, Any]] = {}
        for table, config in self.configs.items():
            values, entry = dump(config), self.entries.get(table)
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


def plan(
    components: Sequence[str],
    *,
    flat: Mapping[str, type] | None = None,
    host: PluginHost | None = None,
    file: Layer | None = None,
    preset: str | None = None,
    words: Tables | None = None,
) -> Job:
    """Resolve components and settings into a job. Raises UserError or PluginError.

    components: their tables, "model" first. flat: the tables without a component. words: as a config file's tables,
    from the command line.
    """
    host = host or host_for(file)
    entries, layers = choose(host, components, file, preset, words)
    resolved = settle(flat or {}, entries, layers)
    return Job(host, entries, _build(resolved, entries), resolved.origins, _disabled(file))


def settle(flat: Mapping[str, type], entries: Mapping[str, Entry[Any]], layers: Sequence[Layer]) -> Resolved:
    """Lay the chosen layers over the defaults of the tables."""
    schema: dict[str, type | None] = {**flat, **{table: entry.config for table, entry in entries.items()}}
    aliases = {}
    if "input" in entries and (value := entries["input"].spec.value):
        aliases["input"] = {entries["input"].name: value, entries["input"].spec.name: value}
    return resolve(schema, layers, aliases)


def _build(resolved: Resolved, entries: Mapping[str, Entry[Any]]) -> dict[str, Any]:
    """Build every table's config. Raises UserError with a line for every mistake."""
    configs, mistakes = {}, []
    for table, config in resolved.schema.items():
        missing = [s for s in settings_of(config).values() if resolved.values[table][s.name] is MISSING]
        for item in missing:
            bare = table == "input" and item.name == entries[table].spec.value
            name = option_name(table, entries[table].name if bare else item.key)
            mistakes.append(f"{name} needs a value" if bare else f"{name} is needed")
        if not missing:
            try:
                configs[table] = resolved.build(table)
            except UserError as error:
                mistakes.append(str(error))
    if mistakes:
        raise UserError("\n".join(mistakes))
    return configs


def host_for(file: Layer | None) -> PluginHost:
    """Return the installed plugins, without those that the file disables."""
    return PluginHost.installed(_disabled(file))


def _disabled(file: Layer | None) -> tuple[str, ...]:
    """Return the plugins that a config file disables: `[plugins] disable = ["name"]`."""
    table = file.tables.get("plugins", {}) if file else {}
    names = table.get("disable", []) if isinstance(table, Mapping) else []
    if file is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise UserError(f"{file.place('plugins', 'disable')} must be a list of names, not {names!r:.80}")
    return tuple(names)
