"""A job: the components that a command works with and their settings, resolved without torch.

A component's table carries its `name`; in `[input]`, one key names the dataset. A mixture is a list, `[[input]]`,
each with a `weight`; its inputs are the tables `input.1`, `input.2`, ... of a job.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pealm_core.config.choose_components import BASE, WEIGHT, choose, kind_of, weights_of
from pealm_core.config.toml_layers import Layer, Resolved, Tables, resolve
from pealm_core.contract.errors import UserError
from pealm_core.contract.fields import dump
from pealm_core.plugins.host import Entry, PluginHost


@dataclass(frozen=True)
class Job:
    """The entry and the config of each table, and where each setting comes from.

    base: of an adapter, where its base is (`base`) and the SHA-256 of the base's weights (`base-hash`). weights: of
    the inputs of a mixture, by table. vocabulary: the folder of the tokenizer's saved files, None: there is none yet.
    """

    host: PluginHost
    entries: Mapping[str, Entry[Any]]
    configs: Mapping[str, Any]  # None for a component without settings
    origins: Mapping[str, Mapping[str, str]]
    base: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    vocabulary: Path | None = None

    @property
    def inputs(self) -> list[str]:
        """The tables of the datasets: `input`, or those of a mixture."""
        return [table for table in self.entries if kind_of(table) == "input"]

    def with_model_config(self, config: Any) -> "Job":
        """Return the job with the model's config as it was built, with its vocab_size."""
        return replace(self, configs={**self.configs, "model": config})

    def with_base(self, place: object) -> "Job":
        """Return the job of an adapter's checkpoint with the base in another place. Raises UserError for others."""
        if not self.base:
            raise UserError(f"--base {place}: only a checkpoint with an adapter has a base; leave it out")
        return replace(self, base={**self.base, "base": str(place)})

    def tables(self) -> dict[str, Any]:
        """Return the resolved settings as TOML tables, which `--config` reads back; a mixture as a list of tables."""
        tables: dict[str, Any] = {}
        for table, config in self.configs.items():
            values, entry = dump(config), self.entries.get(table)
            if kind_of(table) == "input" and entry is not None:
                values = {entry.name: values.pop((entry.spec.value or "").replace("_", "-"), True), **values}
                if table in self.weights:
                    tables.setdefault("input", []).append({**values, WEIGHT: self.weights[table]})
                    continue
            elif entry is not None:
                values = {"name": entry.name, **values, **(self.base if table == "adapter" else {})}
            tables[table] = values
        if files := [str(plugin.file) for plugin in self.host.plugins if plugin.file and plugin.status == "ok"]:
            tables["plugins"] = {"files": files}
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
    carried: Layer | None = None,
) -> Job:
    """Resolve components and settings into a job. Raises UserError or PluginError.

    components: their tables, "model" first. flat: the tables without a component. words: as a config file's tables,
    from the command line. carried: a layer between file and words.
    """
    host = host or PluginHost.installed()
    entries, layers = choose(host, components, file, preset, words, carried)
    resolved = settle(flat or {}, entries, layers)
    saved = file.tables.get("adapter", {}) if file and "adapter" in entries else {}
    base = {key: str(saved[key]) for key in BASE if key in saved}
    configs = {table: resolved.build(table) for table in resolved.schema}
    return Job(host, entries, configs, resolved.origins, base, weights_of(file, entries))


def settle(flat: Mapping[str, type], entries: Mapping[str, Entry[Any]], layers: Sequence[Layer]) -> Resolved:
    """Lay the chosen layers over the defaults of the tables."""
    keys = {(table, entry.spec.value): entry.name for table, entry in entries.items() if kind_of(table) == "input"}
    return resolve({**flat, **{table: entry.config for table, entry in entries.items()}}, layers, keys)
