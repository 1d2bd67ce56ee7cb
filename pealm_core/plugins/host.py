"""The plugin host: load every installed plugin or quarantine it with a reason, and resolve the names of components.

A plugin is a module behind an entry point of the group `pealm`. It counts only if all of its hooks and records are
valid; otherwise it stays in the list with its reason, and everything else works as if it were not installed.
"""

import os
import re
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, is_dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

import pluggy

from pealm_core.contract import hookspecs
from pealm_core.contract.errors import PluginError, UserError
from pealm_core.contract.fields import did_you_mean, settings_of
from pealm_core.contract.specs import DatasetSpec, ModelSpec, Spec
from pealm_core.plugins.discovery import Plugin as Plugin
from pealm_core.plugins.discovery import discover
from pealm_core.plugins.guard import HeavyImportError, light_imports
from pealm_core.plugins.hooks import collecting
from pealm_core.plugins.records import CORE_COMMANDS as CORE_COMMANDS
from pealm_core.plugins.records import REGISTRATION, DefectError, hooks_of, records_of

S = TypeVar("S", bound=Spec)


@dataclass(frozen=True)
class Entry(Generic[S]):
    """A resolved name: the record and the plugin that it comes from."""

    spec: S
    plugin: Plugin
    name: str  # as the user gave it: `gpt2`, or `pealm-gpt2/gpt2` where two plugins provide one

    def load(self, part: str) -> Any:
        """Import a part of the record, for instance "factory". Raises PluginError."""
        ref = getattr(self.spec, part)
        module, _, attribute = ref.partition(":")
        try:
            with redirect_stdout(sys.stderr):  # stdout is for results
                value: Any = import_module(module)
            for name in attribute.split("."):
                value = getattr(value, name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise self._defect(f"{part} {ref!r}", f"can't be loaded: {type(error).__name__}: {error}") from error
        return value

    @cached_property
    def config(self) -> type | None:
        """The dataclass of its settings, or None. Raises PluginError, also if importing it loads a heavy package."""
        ref = getattr(self.spec, "config", None)
        if not ref:
            return None
        try:
            with light_imports(ref.partition(":")[0]):
                config = self.load("config")
            if not (isinstance(config, type) and is_dataclass(config)):
                raise TypeError("is not a dataclass")
            settings = settings_of(config)
            names = {setting.name for setting in settings.values()}
            if "name" in names:
                raise TypeError("has a field 'name', which is reserved for the component's own name")
            if isinstance(self.spec, ModelSpec) and not {"vocab_size", "block_size"} <= names:
                raise TypeError("needs the fields vocab_size and block_size")
            if isinstance(self.spec, DatasetSpec) and self.spec.value and self.spec.value not in names:
                raise TypeError(f"has no field {self.spec.value!r}, which the record names as its value")
        except (TypeError, HeavyImportError) as error:
            raise self._defect("config", str(error)) from error
        return config

    def _defect(self, part: str, reason: str) -> PluginError:
        return PluginError(f"{self.plugin.dist}: {part} of {self.spec.kind} {self.spec.name!r} {reason}")


class PluginHost:
    """Every installed plugin, loaded or quarantined, the names that they provide, and their hooks."""

    def __init__(self, plugins: Iterable[Plugin], disabled: Iterable[str] = ()):
        """Load the plugins. disabled: names of entry points or distributions not to load."""
        self.plugins = list(plugins)
        self._manager = pluggy.PluginManager("pealm")
        self._manager.add_hookspecs(hookspecs)
        self._failures: list[tuple[str, BaseException]] = []
        self._core_version = next((p.version for p in self.plugins if p.dist == "pealm-core"), "")
        disabled = set(disabled)
        for plugin in reversed(self.plugins):  # pluggy calls the last one first
            if plugin.dist != "pealm-core" and disabled & {plugin.name, plugin.dist}:
                plugin.status = "disabled"
                plugin.reason = "switched off by PEALM_DISABLE_PLUGINS"
            elif plugin.status == "ok":
                self._load(plugin)

    @classmethod
    def installed(cls, disabled: Iterable[str] = ()) -> "PluginHost":
        """Load the plugins of this environment except those named by PEALM_DISABLE_PLUGINS (comma-separated)."""
        names = os.environ.get("PEALM_DISABLE_PLUGINS", "").split(",")
        return cls(discover(), {name.strip() for name in names if name.strip()} | set(disabled))

    def _load(self, plugin: Plugin) -> None:
        try:
            plugin.status = "incompatible"
            self._check_core_version(plugin.requires)
            plugin.status = "failed"
            start = time.perf_counter()
            try:
                with redirect_stdout(sys.stderr), light_imports(plugin.module):
                    hooks = hooks_of(import_module(plugin.module))
                    records = list(records_of(hooks))
            finally:
                plugin.load_ms = 1000 * (time.perf_counter() - start)
            self._register(f"{plugin.dist}/{plugin.name}", hooks)
            plugin.status, plugin.records = "ok", records
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also SystemExit, and a panic in Rust
            plain = isinstance(error, (HeavyImportError, DefectError))
            plugin.reason = " ".join((str(error) if plain else f"{type(error).__name__}: {error}").split())
            plugin.error = error

    def _register(self, name: str, hooks: Mapping[str, Callable[..., Any]]) -> None:
        """Give a plugin's hooks of a run to pluggy, which checks them."""
        observer = ModuleType(name)
        for hook in hooks.keys() - REGISTRATION.keys():
            setattr(observer, hook, collecting(hooks[hook], lambda error: self._failures.append((name, error))))
        self._manager.register(observer, name)

    def _check_core_version(self, requires: str) -> None:
        if requires and self._core_version:
            from packaging.specifiers import SpecifierSet

            if not SpecifierSet(requires).contains(self._core_version, prereleases=True):
                raise DefectError(f"needs pealm-core {requires}, and {self._core_version} is installed")

    def entries(self, kind: type[S]) -> dict[str, list[Entry[S]]]:
        """Return who provides each name (several: a conflict), sorted by name, then distribution."""
        table: dict[str, list[Entry[S]]] = {}
        for plugin in self.plugins:
            for record in plugin.records:
                if isinstance(record, kind):
                    table.setdefault(record.name, []).append(Entry(record, plugin, record.name))
        return dict(sorted(table.items()))

    def conflicts(self, plugin: Plugin) -> list[str]:
        """Return this plugin's names that others provide as well: `model 'gpt2' is also in pealm-other`."""
        return [
            f"{record.kind} {record.name!r} is also in {entry.plugin.dist}"
            for record in plugin.records
            for entry in self.entries(type(record))[record.name]
            if entry.plugin is not plugin
        ]

    def find(self, kind: type[S], name: str, prefer: Collection[str] = ()) -> Entry[S]:
        """Resolve `name` or `dist/name`. Raises UserError or PluginError with the fix.

        prefer: distributions that win where several provide the name, for instance those that wrote a checkpoint.
        """
        dist, _, bare = name.rpartition("/")
        entries = self.entries(kind)
        matches = [e for e in entries.get(bare, []) if not dist or e.plugin.dist == dist]
        preferred = [e for e in matches if e.plugin.dist in prefer]
        for choice in (matches, preferred):
            if len(choice) == 1:
                return replace(choice[0], name=name)
        if matches:
            ways = " or ".join(f"{entry.plugin.dist}/{bare}" for entry in matches)
            dists = " and ".join(entry.plugin.dist for entry in matches)
            raise UserError(f"{kind.kind} {name!r} is provided by both {dists}; say which: {ways}")
        raise self._unknown(f"{kind.kind} {name!r}", bare, dist, entries)

    def _unknown(self, label: str, name: str, dist: str, known: Iterable[str]) -> UserError | PluginError:
        """Explain why a name is unknown: its plugin is disabled or failed, it is misspelt, or it is not installed."""
        inactive = [p for p in self.plugins if p.status != "ok" and (not dist or p.dist == dist)]
        for plugin in inactive:
            if name in (plugin.name, plugin.dist, plugin.dist.removeprefix("pealm-")):
                if plugin.status == "disabled":
                    return UserError(f"{label} comes from {plugin.dist}, which is {plugin.reason}")
                return PluginError(
                    f"{label} comes from {plugin.dist} {plugin.version}, which failed to load: {plugin.reason} "
                    f"(see: pealm plugins show {plugin.name})"
                )
        hint = did_you_mean(name, known)
        if "did you mean" not in hint:
            hint += "; is its plugin installed? (pip install pealm installs every first-party plugin)"
        failed = [f"{p.dist} ({p.reason})" for p in self.plugins if p.status not in ("ok", "disabled")]
        if failed:
            hint += f"; failed to load: {', '.join(failed)}; see: pealm plugins"
        return UserError(f"unknown {label}{hint}")

    def notify(self, hook: str, **values: Any) -> None:
        """Call a hook of a run in every plugin, in the order of discovery unless they ask for another one.

        Raises PluginError for the first plugin that failed, after all of them were called.
        """
        self._failures.clear()
        getattr(self._manager.hook, hook)(**values)
        for name, error in self._failures:
            step = f" at step {values['step']}" if "step" in values else ""
            raise PluginError(f"{name}: {hook} failed{step}: {type(error).__name__}: {error}") from error

    def blame(self, error: BaseException) -> str | None:
        """Return `DIST (model.py, line 12, forward)` if an exception comes out of a plugin's own code, else None."""
        dists: dict[str, str] = {}
        for plugin in self.plugins:
            if plugin.dist != "pealm-core":
                parts = [getattr(record, part) or "" for record in plugin.records for part in record.parts]
                dists |= {re.split("[.:]", ref)[0]: plugin.dist for ref in [plugin.module, *parts]}
        blamed, trace = None, error.__traceback__
        while trace is not None:
            code, module = trace.tb_frame.f_code, trace.tb_frame.f_globals.get("__name__") or "?"
            if dist := dists.get(module.partition(".")[0]):
                blamed = f"{dist} ({Path(code.co_filename).name}, line {trace.tb_lineno}, {code.co_name})"
            trace = trace.tb_next
        return blamed

    def versions(self, entries: Iterable[Entry[Any]] = ()) -> dict[str, str]:
        """Return distribution → version of the core and of the plugins behind these entries."""
        used = {entry.plugin.dist: entry.plugin.version for entry in entries}
        return dict(sorted({"pealm-core": self._core_version, **used}.items()))
