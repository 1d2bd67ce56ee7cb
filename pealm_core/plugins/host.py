"""The plugin host: load every installed plugin or quarantine it with a reason, and resolve the names of components.

A plugin is a module behind an entry point of the group `pealm`. It counts only if all of its hooks and records are
valid; otherwise it stays in the list with its reason, and everything else works as if it were not installed.
"""

import os
import re
import sys
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from threading import Timer
from types import ModuleType
from typing import Any, Generic, TypeVar

import pluggy
from packaging.specifiers import SpecifierSet

from pealm_core.contract import hookspecs
from pealm_core.contract.errors import PluginError, UserError, describe
from pealm_core.contract.fields import did_you_mean, settings_of
from pealm_core.contract.specs import Spec
from pealm_core.plugins.discovery import Plugin as Plugin
from pealm_core.plugins.discovery import discover
from pealm_core.plugins.heavy_imports import DefectError, light_imports
from pealm_core.plugins.no_exit import no_exit
from pealm_core.plugins.records import CORE_COMMANDS as CORE_COMMANDS
from pealm_core.plugins.records import REGISTRATION, hooks_of, records_of
from pealm_core.plugins.run_hooks import collecting

S = TypeVar("S", bound=Spec)
PATIENCE = 5.0  # seconds until a plugin that still loads is named


@dataclass(frozen=True)
class Entry(Generic[S]):
    """A resolved name: the record and the plugin that it comes from."""

    spec: S
    plugin: Plugin
    name: str  # as the user gave it: `gpt2`, or `pealm-gpt2/gpt2` where two plugins provide one

    def load(self, part: str) -> Any:
        """Import a part of the record, for instance "factory". Raises PluginError."""
        ref = getattr(self.spec, part)
        try:
            with _prints_to_stderr(), no_exit():
                return resolve_name(ref)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise self._defect(f"{part} {ref!r}", f"can't be loaded: {describe(error)}") from error

    @cached_property
    def config(self) -> type | None:
        """The dataclass of its settings, or None. Raises PluginError, also if importing it loads a heavy package."""
        ref = getattr(self.spec, "config", None)
        if not ref:
            return None
        try:
            with light_imports(ref.partition(":")[0]):
                config: type = self.load("config")
            names = {setting.name for setting in settings_of(config).values()}
            if "name" in names:
                raise DefectError("has a field 'name', which is reserved for the component's own name")
            value = getattr(self.spec, "value", None)  # a dataset's field that `--input.NAME VALUE` sets
            needed: set[Any] = {"vocab_size", "block_size"} if self.spec.kind == "model" else {value} - {None}
            if missing := needed - names:
                raise DefectError(f"needs the fields {', '.join(sorted(missing))}")
        except (TypeError, NameError, DefectError) as error:  # the first two: not a dataclass, or wrong annotations
            raise self._defect("config", str(error)) from error
        return config

    def _defect(self, part: str, reason: str) -> PluginError:
        return PluginError(f"{self.plugin.dist}: {part} of {self.spec.kind} {self.spec.name!r} {reason}")


@contextmanager
def _prints_to_stderr() -> Iterator[None]:
    """Send what is printed in the body to stderr, also by native code and processes: stdout is for results."""
    own = -1
    with suppress(OSError):  # one of them is closed
        own = os.dup(1)
        os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if own >= 0:
            os.dup2(own, 1)
            os.close(own)


class PluginHost:
    """Every installed plugin, loaded or quarantined, the names that they provide, and their hooks."""

    def __init__(self, plugins: Iterable[Plugin], disabled: Iterable[str] = ()):
        """Load the plugins. disabled: names of entry points or distributions not to load."""
        self.plugins = list(plugins)
        self._manager = pluggy.PluginManager("pealm")
        self._manager.add_hookspecs(hookspecs)
        self._failures: dict[str, BaseException] = {}  # of the current call of a hook, by plugin
        self._core_version = next((p.version for p in self.plugins if p.dist == "pealm-core"), "0")
        disabled = set(disabled)
        self._loading, slow = "", Timer(PATIENCE, self._say_slow)
        slow.daemon = True
        slow.start()
        try:
            for plugin in reversed(self.plugins):  # pluggy calls the last one first
                if plugin.dist != "pealm-core" and disabled & {plugin.name, plugin.dist}:
                    plugin.status = "disabled"
                    plugin.reason = "switched off by PEALM_DISABLE_PLUGINS"
                else:
                    self._loading = plugin.name
                    self._load(plugin)
        finally:
            slow.cancel()

    def _say_slow(self) -> None:
        line = f"pealm: loading the plugin {self._loading} takes long; PEALM_DISABLE_PLUGINS={self._loading} skips it"
        print(line, file=sys.stderr, flush=True)

    @classmethod
    def installed(cls, disabled: Iterable[str] = ()) -> "PluginHost":
        """Load the plugins of this environment except those named by PEALM_DISABLE_PLUGINS (comma-separated)."""
        names = os.environ.get("PEALM_DISABLE_PLUGINS", "").split(",")
        return cls(discover(), {name.strip() for name in names} | set(disabled))

    def _load(self, plugin: Plugin) -> None:
        name, start = f"{plugin.dist}/{plugin.name}", time.perf_counter()
        observer = ModuleType(name)
        try:
            if not SpecifierSet(plugin.requires).contains(self._core_version, prereleases=True):
                raise DefectError(f"needs pealm-core {plugin.requires}, and {self._core_version} is installed")
            with _prints_to_stderr(), no_exit(), light_imports(plugin.module):
                hooks = hooks_of(import_module(plugin.module))
                records = list(records_of(hooks))
            for hook in hooks.keys() - REGISTRATION.keys():
                setattr(observer, hook, collecting(hooks[hook], partial(self._failures.__setitem__, name)))
            self._manager.register(observer, name)  # checks the arguments of its hooks
            plugin.records = records
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also SystemExit, and a panic in Rust
            self._manager.unregister(name=name)  # before version 1.7, pluggy keeps the hooks before the wrong one
            text = str(error) if isinstance(error, DefectError) else describe(error)
            plugin.status, plugin.reason, plugin.error = "failed", " ".join(text.split()), error
        plugin.load_ms = 1000 * (time.perf_counter() - start)

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
        matches = [entry for entry in entries.get(bare, []) if dist in ("", entry.plugin.dist)]
        matches = [entry for entry in matches if entry.plugin.dist in prefer] or matches
        if len(matches) > 1:
            ways = " or ".join(f"{entry.plugin.dist}/{bare}" for entry in matches)
            raise UserError(f"{kind.kind} {name!r} is provided by {len(matches)} plugins; say which: {ways}")
        if matches:
            return replace(matches[0], name=name)
        own = [plugin for plugin in self.plugins if plugin.status != "ok" and plugin.name == bare]
        hint = "" if own else did_you_mean(bare, entries)
        if not own and "did you mean" not in hint:
            hint += "; is its plugin installed? (pip install pealm installs every first-party plugin)"
        for plugin in own or [plugin for plugin in self.plugins if plugin.status == "failed"]:
            hint += f"; {plugin.dist} {plugin.version} is not loaded: {plugin.reason}"
        error = PluginError if any(plugin.status == "failed" for plugin in own) else UserError
        raise error(f"unknown {kind.kind} {name!r}{hint}")

    def notify(self, hook: str, **values: Any) -> None:
        """Call a hook of a run in every plugin, in the order of discovery unless they ask for another one.

        A plugin that fails loses all of its hooks. Raises PluginError for those that failed, after all were called.
        """
        self._failures.clear()
        getattr(self._manager.hook, hook)(**values)
        step = f" at step {values['step']}" if "step" in values else ""
        reasons = [f"{name}: {hook} failed{step}: {describe(e)}" for name, e in self._failures.items()]
        for name in self._failures:
            self._manager.unregister(name=name)
        if reasons:
            raise PluginError("; ".join(reasons)) from next(iter(self._failures.values()))

    def blame(self, error: BaseException) -> str | None:
        """Return `DIST (model.py, line 12, forward)` if an exception comes out of a plugin's own code, else None."""
        from traceback import walk_tb

        records = [(plugin.dist, record) for plugin in self.plugins for record in plugin.records]
        dists = {re.split("[.:]", str(getattr(r, part)))[0]: dist for dist, r in records for part in r.parts}
        blamed = None
        for frame, line in walk_tb(error.__traceback__):
            code, module = frame.f_code, str(frame.f_globals.get("__name__"))
            if (dist := dists.get(module.partition(".")[0], "pealm-core")) != "pealm-core":
                blamed = f"{dist} ({Path(code.co_filename).name}, line {line}, {code.co_name})"
        return blamed

    def versions(self, entries: Iterable[Entry[Any]] = ()) -> dict[str, str]:
        """Return distribution → version of the core and of the plugins behind these entries."""
        used = {entry.plugin.dist: entry.plugin.version for entry in entries}
        return dict(sorted({"pealm-core": self._core_version, **used}.items()))
