"""A job: the components that a command works with and their settings, resolved without torch.

A component's table carries its `name`; in `[input]`, one key names the dataset. A mixture is a list, `[[input]]`,
each with a `weight`; its inputs are the tables `input.1`, `input.2`, ... of a job.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pealm_core.config.choose_components import choose, kind_of
from pealm_core.config.settings import TrainSettings
from pealm_core.config.toml_layers import BASE, Layer, Resolved, Tables
from pealm_core.contract.errors import UserError
from pealm_core.contract.fields import dump
from pealm_core.contract.protocols import has
from pealm_core.contract.specs import ObserverSpec
from pealm_core.plugins.loading import Entry, PluginHost
from pealm_core.plugins.plugin_errors import Returns, check

TRAINING = ("model", "input", "tokenizer", "optimizer", "schedule", "objective", "strategy", "adapter", "observer")
METHODS = {"tokenizer": "encode decode", "evaluator": "evaluate", "schedule": "__call__", "objective": "loss"}


@dataclass(frozen=True)
class Job:
    """The entry and the config of each table, and where each setting comes from.

    base: of an adapter, where its base is (`base`) and the SHA-256 of the base's weights (`base-hash`). weights: of
    the inputs of a mixture, by table. vocabulary: the folder of the tokenizer's saved files, None: there is none yet.
    other_tokens: whether the base was trained with another tokenizer.
    """

    host: PluginHost
    entries: Mapping[str, Entry[Any]]
    configs: Mapping[str, Any]  # None for a component without settings
    origins: Mapping[str, Mapping[str, str]]
    base: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    vocabulary: Path | None = None
    other_tokens: bool = False

    @property
    def inputs(self) -> list[str]:
        """The tables of the datasets: `input`, or those of a mixture."""
        return [table for table in self.entries if kind_of(table) == "input"]

    @property
    def labels(self) -> list[str]:
        """The names of the inputs; several of one name are numbered."""
        names = [self.entries[table].name for table in self.inputs]
        return [f"{n}-{names[: i + 1].count(n)}" if names.count(n) > 1 else n for i, n in enumerate(names)]

    def make(self, table: str, *args: Any, **kwargs: Any) -> Any:
        """Make a component; its factory gets the config, if it has one, and the arguments. Raises PealmError."""
        if table not in self.entries:
            raise UserError(f"the config does not name a {table}: [{table}] name is missing")
        entry = self.entries[table]
        made = entry.make(self.configs[table], *args, **kwargs)
        names = METHODS.get(entry.spec.kind, "").split()
        returns: Returns = (lambda r: all(has(r, name) for name in names), f"an object with {' and '.join(names)}")
        return check(f"{entry.plugin.dist}: the factory of {entry.spec.kind} {entry.name!r}", returns, made)

    def with_model_config(self, config: Any) -> "Job":
        """Return the job with the model's config as it was built, with its vocab_size."""
        return replace(self, configs={**self.configs, "model": config})

    def with_base(self, place: object) -> "Job":
        """Return the job of an adapter's checkpoint with the base in another place. Raises UserError for others."""
        if not self.base:
            raise UserError(f"--base {place}: only a checkpoint with an adapter has a base; leave it out")
        return replace(self, base={**self.base, "base": str(place)})

    def observer(self, name: str) -> Any:
        """Return the settings of an observer, the defaults if the job has none. Raises PealmError."""
        table = f"observer.{name}"
        if table in self.configs:
            return self.configs[table]
        return Resolved({}, {table: self.host.find(ObserverSpec, name)}).build(table)

    @property
    def files(self) -> list[str]:
        """The loaded local plugins."""
        return [str(plugin.file) for plugin in self.host.plugins if plugin.file and plugin.status == "ok"]

    def rows(self, table: str) -> dict[str, tuple[Any, str]]:
        """Return the keys of a table as `--config` reads them, each with its value and where that comes from."""
        entry, origins = self.entries.get(table), self.origins.get(table, {})
        rows = {key: (value, origins[key.replace("-", "_")]) for key, value in dump(self.configs[table]).items()}
        if entry is None or kind_of(table) == "observer":
            return rows
        provider = f"{entry.plugin.dist} {entry.plugin.version}"
        if kind_of(table) != "input":
            base = self.base if table == "adapter" else {}
            return {"name": (entry.name, provider), **rows, **{key: (value, "") for key, value in base.items()}}
        value = rows.pop((entry.spec.value or "").replace("_", "-"), (True, provider))
        weight = {"weight": (self.weights[table], origins["weight"])} if table in self.weights else {}
        return {entry.name: value, **rows, **weight}

    def tables(self) -> dict[str, Any]:
        """Return the resolved settings as TOML tables, which `--config` reads back; a mixture as a list of tables."""
        tables: dict[str, Any] = {}
        for table in self.configs:
            values = {key: value for key, (value, _) in self.rows(table).items()}
            if table in self.weights:
                tables.setdefault("input", []).append(values)
            elif kind_of(table) == "observer":
                tables.setdefault("observer", {})[table.partition(".")[2]] = values
            else:
                tables[table] = values
        plugins = {"plugins": {"files": self.files}} if self.files else {}
        return {**tables, **plugins, "versions": dict(self.host.versions(self.entries.values()))}


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
    resolved = Resolved(flat or {}, entries, layers)
    configs = {table: resolved.build(table) for table in resolved.configs}
    adapter = resolved.values.get("adapter", {})
    base = {key: adapter[item.name] for key, item in BASE.items() if adapter.get(item.name) is not None}
    weights = {table: resolved.values[table]["weight"] for table in entries if table.startswith("input.")}
    return Job(host, entries, configs, resolved.origins, base, weights)


def plan_evaluation(config: Tables, words: Tables) -> Job:
    """Return the job of an evaluation for a run's tables. words: tables of text, as from the command line."""
    return plan(("model", "tokenizer", "eval", "input"), file=Layer("the run's config", config), words=words)


def check_training(job: Job, world_size: int) -> None:
    """Raise UserError if a component is missing, can't be trained, or the batch is not divisible."""
    if "model" not in job.entries:
        raise UserError("train needs a model: pealm train MODEL; pealm train --help lists the models")
    if not job.inputs:
        raise UserError("train needs an input: --input.NAME, see --help")
    entry = job.entries["model"]
    if entry.spec.pretrained is not None:
        family = entry.spec.family or "its family"
        raise UserError(f"{entry.name} is trained as {family}: pealm train {family} --init {entry.name}")
    s: TrainSettings = job.configs["train"]
    if s.batch_size % world_size:
        below = max(s.batch_size // world_size, 1) * world_size
        raise UserError(f"--batch-size {s.batch_size} is not divisible by {world_size} processes; try {below}")
    local, micro = s.batch_size // world_size, s.micro_batch_size
    if micro is not None and micro < local and local % micro:
        below = next(n for n in range(min(micro, 1_000_000), 0, -1) if local % n == 0)
        each = f" ({local} for each of {world_size} processes)" if world_size > 1 else ""
        raise UserError(f"--micro-batch-size {micro} does not divide --batch-size {s.batch_size}{each}; try {below}")
