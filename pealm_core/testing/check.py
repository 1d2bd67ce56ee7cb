"""The kit without pytest: `pealm plugins check` runs it on what is installed.

Where only a plugin's own tests could say what is meant (how much a model sees, which rate suits an optimizer), the
checks are lenient here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING
from typing import Any
from unittest import SkipTest

from pealm_core.contract.errors import UserError
from pealm_core.contract.fields import settings_of
from pealm_core.contract.specs import ModelSpec, Spec
from pealm_core.plugins.host import Entry, Plugin, PluginHost
from pealm_core.testing.base import Conformance, light_import
from pealm_core.testing.command import CommandConformance
from pealm_core.testing.dataset import DatasetConformance
from pealm_core.testing.evaluator import EvaluatorConformance
from pealm_core.testing.format import FormatConformance
from pealm_core.testing.model import ModelConformance
from pealm_core.testing.optimizer import OptimizerConformance
from pealm_core.testing.tokenizer import TokenizerConformance

KITS: Mapping[str, type[Conformance]] = {
    kit.kind.kind: kit
    for kit in (
        ModelConformance,
        TokenizerConformance,
        DatasetConformance,
        EvaluatorConformance,
        OptimizerConformance,
        FormatConformance,
        CommandConformance,
    )
}
LENIENT: Mapping[str, Mapping[str, Any]] = {
    "model": {"start_loss": 1.5, "context": 1, "fit_lr": 0.03, "fit_steps": 1000},
    "tokenizer": {"lossy": True},
    "optimizer": {"steps": 1000},
}
# Sizes under the field's usual names: any model that has them is small with these.
SMALL = {"block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 32, "dropout": 0.0}


def run(plugin: Plugin, record: Spec, *, slow: bool = False) -> Iterator[tuple[str, str, str]]:
    """The checks of a record as they end: name, "ok", "skipped" or "failed", and the message."""
    entry: Entry[Any] = Entry(record, plugin, f"{plugin.dist}/{record.name}")
    missing = [s.key for s in settings_of(entry.config).values() if s.default is MISSING]
    kit = kit_of(entry, slow=slow)
    for name in (name for name in dir(kit) if name.startswith("test_")):
        label = name.removeprefix("test_").replace("_", " ")
        if missing and name not in ALWAYS:
            yield label, "skipped", f"needs {', '.join(missing)}: a test can give it, config = {{...}}"
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


# What can be checked of a component without making it.
ALWAYS = (
    "test_its_imports_are_light_and_quiet",
    "test_its_parts_are_there_and_import_quietly",
    "test_every_setting_has_a_help_line",
)


def kit_of(entry: Entry[Any], *, slow: bool = False) -> type[Conformance]:
    """The kit for a record, with small sizes where it has fields of the usual names."""
    kind = entry.spec.kind
    values: dict[str, Any] = {"spec": entry.name, "slow": slow, **LENIENT.get(kind, {})}
    if kind == "model":
        values["config"] = _small(entry)
    if kind == "format":
        own = (r for r in entry.plugin.records if isinstance(r, ModelSpec) and r.pretrained is None)
        if model := next(own, None):
            values["model"] = f"{entry.plugin.dist}/{model.name}"
            values["sizes"] = _small(PluginHost.installed().find(ModelSpec, values["model"]))
    return type("Installed", (KITS[kind],), values)


def _small(entry: Entry[Any]) -> dict[str, Any]:
    known = {item.name for item in settings_of(entry.config).values()}
    return {name: value for name, value in SMALL.items() if name in known}


def import_ms(plugin: Plugin) -> float:
    """Milliseconds that a plugin's module and configs take in a fresh Python."""
    return max((float(light_import(Entry(r, plugin, r.name))["ms"]) for r in plugin.records), default=0.0)
