"""What all kits share: the component's record and settings, and the checks for every kind of plugin."""

import contextlib
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache, cached_property
from importlib import import_module
from inspect import get_annotations
from typing import Any, ClassVar, Self
from unittest import SkipTest

import pytest
import tomli_w

from pealm_core import PealmError, UserError
from pealm_testing.core import HEAVY, Entry, Layer, Plugin, PluginHost, Resolved, Spec, dump, settings_of, word
from pealm_testing.errors import ConformanceError
from pealm_testing.watch import offline, watched

# Run in a new Python process: what do a plugin's module and config load, and what do they do?
_LIGHT = """
import json, sys, time
sys.path[:], modules = json.loads(sys.argv[1])
import importlib
from pealm_core.plugins.import_checks import HEAVY
from pealm_testing.watch import watched
start = time.perf_counter()
with watched() as effects:
    for module in modules:
        importlib.import_module(module)
ms = 1000 * (time.perf_counter() - start)
print(json.dumps({"heavy": sorted(HEAVY & set(sys.modules)), "effects": effects, "ms": ms}))
"""


class Conformance:
    """Checks for every kind of plugin.

    spec: the component's name (`mine`, or `pealm-mine/mine`), or its record if it is not installed.
    config: its settings for these checks. configs: several of them; every check runs with each.
    Instead of a value, an attribute can be a pytest fixture of that name, for example to use `tmp_path`.
    """

    kind: ClassVar[type[Spec]]
    spec: ClassVar[str | Spec]
    config: ClassVar[Any] = {}
    configs: ClassVar[Any] = ()
    slow: ClassVar[bool] = False  # set by --pealm-slow and `pealm plugins check --slow`

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run every check once for each of `configs`."""
        if self.configs:
            ids = [" ".join(f"{key}={value}" for key, value in config.items()) for config in self.configs]
            metafunc.parametrize("_from_pytest", self.configs, indirect=True, ids=ids)

    @pytest.fixture(autouse=True)
    def _from_pytest(self, request: pytest.FixtureRequest) -> None:
        """Set attributes from fixtures, from `configs` and from --pealm-slow."""
        kits = [base for base in type(self).__mro__ if base.__module__.startswith("pealm_testing.")]
        for name in {name for kit in kits for name in get_annotations(kit)} - {"kind"}:
            if callable(getattr(type(self), name, None)):
                setattr(self, name, request.getfixturevalue(name))
        self.__dict__["slow"] = self.slow or request.config.getoption("--pealm-slow", False)
        if hasattr(request, "param"):
            self.__dict__["config"] = request.param

    @cached_property
    def entry(self) -> Entry[Any]:
        """The record and its plugin. Raises ConformanceError if the plugin is not installed or failed to load."""
        if isinstance(self.spec, Spec):
            if not isinstance(self.spec, self.kind):
                raise ConformanceError(
                    f"spec is a {type(self.spec).__name__}; this kit checks a {self.kind.__name__}"
                )
            return Entry(self.spec, Plugin(self.spec.name, "", self.spec.name, "0"), self.spec.name)
        try:
            return PluginHost.installed().find(self.kind, self.spec)
        except UserError as error:
            raise ConformanceError(
                f"{error}{'' if str(error).endswith('?') else '.'} Is the plugin installed (pip install -e .), does "
                f"its pyproject.toml have an entry point in the group `pealm`, and is spec the name in its record?"
            ) from error
        except PealmError as error:  # it failed to load; the error says why
            raise ConformanceError(str(error)) from error

    def settings(self, **changes: Any) -> Any:
        """An instance of the record's config with `config` as values; None if it has no settings."""
        entry = self.entry
        return None if entry.config is None else entry.config(**{**self.config, **changes})

    def make(self, **changes: Any) -> Any:
        """Make the component as the core does."""
        config = self.settings(**changes)
        return self.entry.make(config)

    def attributes(self, *names: str) -> dict[str, Any]:
        """Attributes of this kit that make an equal one in another process (see `with_attributes`)."""
        return {name: getattr(self, name) for name in ("spec", "config", *names)}

    @classmethod
    def with_attributes(cls, attributes: dict[str, Any]) -> Self:
        """An instance of this kit with these attributes."""
        kit: Self = type(cls.__name__, (cls,), attributes)()
        return kit

    def only_slow(self) -> None:
        """Skip a slow check unless slow checks were asked for."""
        if not self.slow:
            raise SkipTest("slow: pass --pealm-slow to pytest, or --slow to pealm plugins check")

    def test_imports_are_light_and_silent(self) -> None:
        """Catches a plugin that slows down every `pealm --help`, or has side effects just because it is installed."""
        if self.entry.plugin.file is not None:
            raise SkipTest("a local plugin is only imported when it is asked for")
        report = light_import(self.entry)
        if report["heavy"]:
            raise ConformanceError(
                f"importing the plugin's module and config loads {', '.join(report['heavy'])}: import it inside the "
                f"function that needs it, or in the factory's module"
            )
        if report["effects"]:
            raise ConformanceError(f"importing the plugin's module and config {_and(report['effects'])}")

    def test_parts_exist_and_import_silently(self) -> None:
        """Catches a misspelled "module:attribute", and modules that print, connect, seed or configure on import."""
        entry = self.entry
        parts = [part for part in entry.spec.parts if getattr(entry.spec, part)]
        refs = [getattr(entry.spec, part) for part in parts if entry.plugin.file is None]
        with _reimport(ref.partition(":")[0] for ref in refs), watched() as effects:
            for part in parts:
                try:
                    value = entry.load(part)
                except PealmError as error:
                    raise ConformanceError(f"{error}: fix the string in the record, or the module") from error
                if not callable(value):
                    raise ConformanceError(f"{part} of {entry.name!r} is {value!r:.60}, not a class or function")
        if effects:
            raise ConformanceError(f"importing the parts of {entry.name!r} {_and(effects)}")

    def test_settings_round_trip(self) -> None:
        """Catches settings that can't be read back from a saved config or a command line."""
        config = self.settings()
        if config is None:
            raise SkipTest("it has no settings")
        type_: Any = type(config)
        if not type_.__dataclass_params__.frozen:
            raise ConformanceError(f"{type_.__name__} is not frozen: use @dataclass(frozen=True)")
        items = settings_of(type_).values()
        fill = {s.name: getattr(config, s.name) for s in items if s.hidden or s.name == "vocab_size"}
        table = tomllib.loads(tomli_w.dumps({"it": dump(config)}))["it"]
        words = {s.key: word(v) for s in items if (v := getattr(config, s.name)) is not None and s.name not in fill}
        for text, values in ((False, table), (True, words)):
            source = "a command line" if text else "a TOML table"
            try:
                layers = [Layer("saved", {"it": fill}), Layer("saved", {"it": values}, text=text)]
                again = Resolved({"it": type_}, {}, layers).build("it")
            except PealmError as error:
                raise ConformanceError(f"{type_.__name__} can't be read back from {source}: {error}") from error
            different = {k: (v, getattr(again, k)) for k, v in vars(config).items() if v != getattr(again, k)}
            if different:
                raise ConformanceError(
                    f"{type_.__name__}, read back from {source}, has other values: {different}. Fields hold what the "
                    f"user gave; compute derived values in a property"
                )

    def test_every_setting_has_help(self) -> None:
        """Catches an option that `--help` lists without a description."""
        value = getattr(self.entry.spec, "value", None)  # its line in --help is the record's summary
        for item in settings_of(self.entry.config).values():
            if not (item.hidden or item.name in ("vocab_size", value) or item.help.strip()):
                raise ConformanceError(
                    f"{item.name} has no help line; write {item.name}: {getattr(item.type, '__name__', item.type)} = "
                    f'setting({item.default!r}, "what it is")'
                )


class ComponentConformance(Conformance):
    """A component whose factory is called with its settings alone."""

    def test_construction_is_silent(self) -> None:
        """Catches a component that prints, downloads, seeds or changes settings of the process when it is made."""
        with offline(), watched(draws=self.kind.kind == "model") as effects:
            try:
                self.make()
            except (PealmError, OSError) as error:
                raise ConformanceError(
                    f"making it fails without a network: {error}; download on first use"
                ) from error
        if effects:
            raise ConformanceError(f"making it {_and(effects)}")


@cache
def _light_import(path: tuple[str, ...], modules: tuple[str, ...]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", _LIGHT, json.dumps([path, modules])], capture_output=True, text=True, timeout=120
    )
    if done.returncode:
        raise ConformanceError(f"importing {', '.join(modules)} in a new Python fails:\n{done.stderr.strip()}")
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def light_import(entry: Entry[Any]) -> dict[str, Any]:
    """Import an entry's record and config in a new Python: `heavy` modules, side `effects` and the time in `ms`."""
    parts = [entry.plugin.module, getattr(entry.spec, "config", None)]
    return _light_import(tuple(sys.path), tuple(part.partition(":")[0] for part in parts if part))


@contextlib.contextmanager
def _reimport(modules: Iterable[str]) -> Iterator[None]:
    """Import the plugin's own modules again inside the block; modules of others stay loaded."""
    names = list(modules)
    for name in names:
        with contextlib.suppress(Exception, SystemExit):  # reported when the parts are loaded
            import_module(name)
    roots = {name.partition(".")[0] for name in names} - {"pealm_core", "pealm_testing", *HEAVY}
    removed = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in roots}
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] in roots]:
            del sys.modules[name]
        sys.modules.update(removed)


def _and(effects: Iterable[str]) -> str:
    return f"{' and '.join(effects)}: do that in a function that is called later, or not at all"
