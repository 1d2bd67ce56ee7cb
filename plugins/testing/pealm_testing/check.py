"""`pealm plugins check`: run the kit on installed plugins, without pytest.

Checks whose answer only the author knows (how many tokens a model sees, which learning rate suits an optimizer) are
lenient here.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import MISSING
from typing import Any
from unittest import SkipTest

import click

from pealm_core import ModelSpec, PluginError, UserError
from pealm_core.cli.plugins import conflicts
from pealm_testing.adapter import AdapterConformance
from pealm_testing.base import Conformance, light_import
from pealm_testing.command import CommandConformance
from pealm_testing.core import Entry, Plugin, PluginHost, Spec, settings_of
from pealm_testing.dataset import DatasetConformance
from pealm_testing.evaluator import EvaluatorConformance
from pealm_testing.format import FormatConformance
from pealm_testing.model import ModelConformance
from pealm_testing.objective import ObjectiveConformance
from pealm_testing.observer import ObserverConformance
from pealm_testing.optimizer import OptimizerConformance
from pealm_testing.schedule import ScheduleConformance
from pealm_testing.show import named
from pealm_testing.strategy import StrategyConformance
from pealm_testing.tokenizer import TokenizerConformance

KITS: Mapping[str, type[Conformance]] = {
    kit.kind.kind: kit
    for kit in (
        ModelConformance,
        TokenizerConformance,
        DatasetConformance,
        EvaluatorConformance,
        OptimizerConformance,
        ScheduleConformance,
        ObjectiveConformance,
        StrategyConformance,
        AdapterConformance,
        ObserverConformance,
        FormatConformance,
        CommandConformance,
    )
}
LENIENT: Mapping[str, Mapping[str, Any]] = {
    "model": {"start_loss": 1.5, "context": 1, "fit_lr": 0.03, "fit_steps": 1000},
    "tokenizer": {"lossy": True},
    "optimizer": {"steps": 1000},
    "schedule": {"largest": 1e6},
}
# Small sizes, for models whose settings have these usual names.
SMALL = {"block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 32, "dropout": 0.0}
# Checks that don't make the component, so they need no settings.
WITHOUT_SETTINGS = (
    "test_imports_are_light_and_silent",
    "test_parts_exist_and_import_silently",
    "test_every_setting_has_help",
)
SLOW_MS = 50  # import time of a plugin, which every `pealm --help` pays


def check(name: str, *, slow: bool) -> None:
    """Check the plugins with this name and print the results. Raises PluginError if a check fails, or UserError."""
    totals: Counter[str] = Counter()
    host = PluginHost.installed()
    for plugin in named(host, name):
        if plugin.status != "ok":
            raise PluginError(f"{plugin.dist} is {plugin.status}: {plugin.reason}")
        for line in conflicts(plugin, host):
            click.echo(f"note: {line}; users write {plugin.dist}/NAME")
        for record in plugin.records:
            click.echo(f"{record.kind} {record.name}")
            skipped = dict[str, list[str]]()
            for label, outcome, message in run(plugin, record, slow=slow):
                totals[outcome] += 1
                if outcome == "skipped":
                    skipped.setdefault(message, []).append(label)
                else:
                    click.echo(f"  {outcome:<8}{label}" + (f": {message}" if message else ""))
            for reason, labels in skipped.items():
                click.echo(f"  skipped {len(labels)}: {reason} ({', '.join(labels)})")
        if plugin.file is not None:
            continue
        times = [float(light_import(Entry(record, plugin, record.name))["ms"]) for record in plugin.records]
        if (ms := max(times, default=0.0)) > SLOW_MS:
            click.echo(f"note: importing {plugin.module} takes {ms:.0f} ms, at every `pealm --help`")
    counts = ", ".join(f"{totals[outcome]} {outcome}" for outcome in ("ok", "skipped", "failed") if totals[outcome])
    if totals["failed"]:
        raise PluginError(f"{name} does not pass: {counts}")
    click.echo(f"{name} passes: {counts or 'it has nothing to check'}")


def run(plugin: Plugin, record: Spec, *, slow: bool = False) -> Iterator[tuple[str, str, str]]:
    """Run the checks of a record; yields the name, "ok", "skipped" or "failed", and the message of each."""
    entry: Entry[Any] = Entry(record, plugin, f"{plugin.dist}/{record.name}")
    required = [s.key for s in settings_of(entry.config).values() if s.default is MISSING]
    kit = kit_for(entry, slow=slow)
    for name in (name for name in dir(kit) if name.startswith("test_")):
        label = name.removeprefix("test_").replace("_", " ")
        if required and name not in WITHOUT_SETTINGS:
            yield label, "skipped", f"needs {', '.join(required)}: write a test class with config = {{...}}"
            continue
        try:
            getattr(kit(), name)()
        except (SkipTest, UserError) as reason:
            yield label, "skipped", str(reason)
        except AssertionError as failure:
            yield label, "failed", str(failure)
        except Exception as error:
            yield label, "failed", f"{type(error).__name__}: {error}"
        else:
            yield label, "ok", ""


def kit_for(entry: Entry[Any], *, slow: bool = False) -> type[Conformance]:
    """The kit for a record, with small sizes if its settings have the usual names."""
    kind = entry.spec.kind
    values: dict[str, Any] = {"spec": entry.name, "slow": slow, **LENIENT.get(kind, {})}
    if kind == "model":
        values["config"] = _small(entry)
    if kind == "format":
        models = [r for r in entry.plugin.records if isinstance(r, ModelSpec) and r.pretrained is None]
        if models:
            values["model"] = f"{entry.plugin.dist}/{models[0].name}"
            values["sizes"] = _small(Entry(models[0], entry.plugin, models[0].name))
    return type("Installed", (KITS[kind],), values)


def _small(entry: Entry[Any]) -> dict[str, Any]:
    names = {item.name for item in settings_of(entry.config).values()}
    return {name: value for name, value in SMALL.items() if name in names}
