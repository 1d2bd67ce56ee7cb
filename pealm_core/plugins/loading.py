"""The plugin host: load every installed plugin or quarantine it with a reason, and resolve the names of components.

A plugin is a module behind an entry point of the group `pealm`. It counts only if all of its hooks and records are
valid; otherwise it stays in the list with its reason, and everything else works as if it were not installed.
"""

import os
import re
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Set
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from importlib import import_module
from inspect import isgeneratorfunction
from threading import Timer
from types import ModuleType
from typing import Any

import pluggy

from pealm_core.contract import hookspecs
from pealm_core.contract.errors import PluginError, UserError, did_you_mean
from pealm_core.plugins.discovery import Plugin as Plugin
from pealm_core.plugins.discovery import discover, import_file, local_plugins
from pealm_core.plugins.import_checks import ClosedFilesError, DefectError, guarded
from pealm_core.plugins.make_component import Entry as Entry
from pealm_core.plugins.make_component import S
from pealm_core.plugins.plugin_errors import HINT, ROOTS, explain
from pealm_core.plugins.validate_records import REGISTRATION, hooks_of, records_of

PATIENCE = 5.0  # seconds until a plugin that still loads is named
NOT_IN_UMBRELLA = "pealm-hf-datasets, pealm-lm-eval, pealm-tensorboard, pealm-wandb"
OURS = "<0.2,>=0.1"  # what our own plugins require of the core, so that `packaging` is imported for others only


class PluginHost:
    """Every installed plugin, loaded or quarantined, the names that they provide, and their hooks."""

    def __init__(self, plugins: Iterable[Plugin], disabled: Set[str] = frozenset()):
        """Load the plugins. disabled: names of entry points or distributions not to load."""
        self.plugins = list(plugins)
        self._manager = pluggy.PluginManager("pealm")
        self._manager.add_hookspecs(hookspecs)
        self.current: str | None = None  # the plugin whose hook of a run is being called
        self.failed: dict[str, str] = {}  # plugins that failed in a hook of a run → what happened
        self._errors: dict[str, BaseException] = {}  # in the current call of a hook
        self._core_version = next((p.version for p in self.plugins if p.dist == "pealm-core"), "0")
        self._loading, slow = "", Timer(PATIENCE, self._say_slow)
        slow.daemon = True
        slow.start()
        try:
            for plugin in reversed(self.plugins):  # pluggy calls the last one first
                if plugin.dist != "pealm-core" and disabled & {plugin.name, plugin.dist}:
                    plugin.status = "disabled"
                    plugin.reason = "switched off by PEALM_DISABLE_PLUGINS"
                else:
                    self._loading = "" if plugin.file else plugin.name  # a file was asked for, and may import torch
                    self._load(plugin)
        finally:
            slow.cancel()

    def _say_slow(self) -> None:
        name = self._loading
        if name:
            line = f"pealm: loading the plugin {name} takes long; PEALM_DISABLE_PLUGINS={name} skips it"
            print(line, file=sys.stderr, flush=True)

    @classmethod
    def installed(cls) -> "PluginHost":
        """Load the plugins of this environment except those named by PEALM_DISABLE_PLUGINS (comma-separated).

        Raises UserError or PluginError for a local plugin that can't be loaded.
        """
        disabled = os.environ.get("PEALM_DISABLE_PLUGINS", "").split(",")
        host = cls([*discover(), *local_plugins()], {name.strip() for name in disabled})
        for plugin in host.plugins:
            if plugin.file and plugin.status == "failed":
                error = UserError if isinstance(plugin.error, UserError) else PluginError
                raise error(f"--plugin {plugin.file}: {plugin.reason}") from plugin.error
        return host

    def _load(self, plugin: Plugin) -> None:
        name, start = f"{plugin.dist}/{plugin.name}", time.perf_counter()
        ROOTS[plugin.module.partition(".")[0]] = plugin.dist
        try:
            self._check_version(plugin.requires)
            with guarded(plugin.module, light=not plugin.file):
                hooks = hooks_of(import_file(plugin) if plugin.file else import_module(plugin.module))
                records = list(records_of(hooks, objects=bool(plugin.file)))
            if plugin.file and not hooks:
                raise DefectError("has no function marked @hookimpl")
            parts = (str(getattr(record, part)) for record in records for part in record.parts)
            ROOTS.update({re.split("[.:]", ref)[0]: plugin.dist for ref in parts})
            if of_runs := hooks.keys() - REGISTRATION.keys():
                observer = ModuleType(name)
                vars(observer).update({hook: self._attempting(name, hooks[hook]) for hook in of_runs})
                self._manager.register(observer, name)  # checks the arguments of its hooks
            plugin.records = records
        except (KeyboardInterrupt, ClosedFilesError):
            raise
        except BaseException as error:  # also SystemExit, and a panic in Rust
            self._manager.unregister(name=name)  # before version 1.7, pluggy keeps the hooks before the wrong one
            text = str(error) if isinstance(error, (DefectError, UserError)) else explain(error)
            plugin.status, plugin.reason, plugin.error = "failed", " ".join(text.split()), error
        plugin.load_ms = 1000 * (time.perf_counter() - start)

    def _check_version(self, requires: str) -> None:
        if requires not in ("", OURS):
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

    def matches(self, kind: type[S], name: str) -> list[Entry[S]]:
        """Return who provides `name` or `dist/name`."""
        dist, _, bare = name.rpartition("/")
        return [replace(e, name=name) for e in self.entries(kind).get(bare, []) if dist in ("", e.plugin.dist)]

    def find(self, kind: type[S], name: str, prefer: Collection[str] = ()) -> Entry[S]:
        """Resolve `name` or `dist/name`. Raises UserError or PluginError with the fix.

        prefer: distributions that win where several provide the name, for instance those that wrote a checkpoint.
        """
        bare, matches = name.rpartition("/")[2], self.matches(kind, name)
        matches = [entry for entry in matches if entry.plugin.dist in prefer] or matches
        if len(matches) > 1:
            ways = " or ".join(f"{entry.plugin.dist}/{bare}" for entry in matches)
            raise UserError(f"{kind.kind} {name!r} is provided by {len(matches)} plugins; say which: {ways}")
        if matches:
            return matches[0]
        own = [plugin for plugin in self.plugins if plugin.status != "ok" and plugin.name == bare]
        hint = "" if own else did_you_mean(bare, self.entries(kind))
        if not own and "did you mean" not in hint:
            hint += f"; is its plugin installed? (pip install pealm leaves out {NOT_IN_UMBRELLA})"
        for plugin in own or [plugin for plugin in self.plugins if plugin.status == "failed"]:
            hint += f"; {plugin.dist} {plugin.version} is not loaded: {plugin.reason}"
        error = PluginError if any(plugin.status == "failed" for plugin in own) else UserError
        raise error(f"unknown {kind.kind} {name!r}{hint}")

    def call(self, hook: str, **values: Any) -> list[tuple[str, Any]]:
        """Call a hook of a run in every plugin, in the order of discovery unless they ask for another one.

        Returns (plugin, result) of those that returned something. A plugin is named by `dist/entry point`. One that
        fails is switched off and added to `failed`. Raises PluginError for those that failed, after all were called,
        UserError if one of them refuses to start the run.
        """
        self._errors = {}
        results: list[tuple[str, Any]] = getattr(self._manager.hook, hook)(**values) or []
        step = values.get("step", getattr(values.get("trainer"), "step", None))
        when = "" if step is None else f" at step {step}"
        reasons = {name: f"{name}: {hook} failed{when}: {explain(e)}" for name, e in self._errors.items()}
        for name, error in self._errors.items():
            self.switch_off(name)
            if isinstance(error, UserError) and hook == "pealm_run_start":
                raise UserError(f"{name}: {error}") from error
            if os.environ.get("PEALM_DEBUG"):
                sys.__excepthook__(type(error), error, error.__traceback__)
        self.failed |= reasons
        if reasons:
            raise PluginError("; ".join(reasons.values()) + HINT) from next(iter(self._errors.values()))
        return results

    def with_hook(self, hook: str) -> set[str]:
        """Return the plugins that have a hook of a run."""
        return {impl.plugin_name for impl in getattr(self._manager.hook, hook).get_hookimpls()}

    def switch_off(self, name: str) -> None:
        """Don't call the hooks of a plugin (`dist/entry point`) again, for instance as it failed on another rank."""
        self._manager.unregister(name=name)

    def _attempting(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a plugin's function or pluggy wrapper for a hook of a run with its body run by `_attempt`.

        A wrapper's `yield` gives None: the hooks that may have one have no results.
        """

        @wraps(function)
        def call(*args: Any) -> Any:
            return self._attempt(name, function, *args)

        @wraps(function)
        def wrapper(*args: Any) -> Iterator[None]:
            context = contextmanager(function)(*args)
            self._attempt(name, context.__enter__)
            yield
            self._attempt(name, context.__exit__, None, None, None)

        return wrapper if isgeneratorfunction(function) else call

    def _attempt(self, name: str, function: Callable[..., Any], *args: Any) -> tuple[str, Any] | None:
        """Call a part of a plugin's hook; return the plugin and the result, if there is one, or note the error."""
        before, self.current = self.current, name
        try:
            result = function(*args)
            return None if result is None else (name, result)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also SystemExit, and a panic in Rust
            self._errors[name] = error
            return None
        finally:
            self.current = before

    def versions(self, entries: Iterable[Entry[Any]] = ()) -> dict[str, str]:
        """Return distribution → version of the core, of the plugins behind these entries, and of local plugins."""
        plugins = [*(entry.plugin for entry in entries), *(p for p in self.plugins if p.file and p.status == "ok")]
        used = {plugin.dist: plugin.version for plugin in plugins}
        return dict(sorted({"pealm-core": self._core_version, **used}.items()))
