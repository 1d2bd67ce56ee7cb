"""What every kit shares: finding the record, making the component, and the checks that hold for any plugin."""

import contextlib
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, cached_property
from importlib import import_module
from typing import Any, ClassVar
from unittest import SkipTest

import tomli_w

from pealm_core.checkpoints.build import make
from pealm_core.config.layers import Layer, resolve
from pealm_core.contract.errors import PealmError, UserError
from pealm_core.contract.fields import dump, settings_of
from pealm_core.contract.specs import Spec
from pealm_core.plugins.guard import HEAVY
from pealm_core.plugins.host import Entry, PluginHost
from pealm_core.testing.watch import watched

# What a fresh Python loads for a plugin's record and config, and what that does.
_LIGHT = """
import json, sys, time
sys.path[:], modules = json.loads(sys.argv[1])
import importlib
from pealm_core.plugins.guard import HEAVY
from pealm_core.testing.watch import watched
began = time.perf_counter()
with watched() as seen:
    for module in modules:
        importlib.import_module(module)
ms = 1000 * (time.perf_counter() - began)
print(json.dumps({"heavy": sorted(HEAVY & set(sys.modules)), "seen": seen, "ms": ms}))
"""


class Conformance:
    """A record that keeps the contract, whatever its kind.

    spec: the component's name, as users type it (`mine`, or `pealm-mine/mine`).
    config: values of its settings for these checks; what is left out has its default.
    """

    kind: ClassVar[type[Spec]]
    spec: ClassVar[str]
    config: ClassVar[Mapping[str, Any]] = {}

    @cached_property
    def entry(self) -> Entry[Any]:
        """The record and its plugin. Fails where the plugin did not load."""
        try:
            return PluginHost.installed().find(self.kind, self.spec)
        except UserError as error:
            raise AssertionError(
                f"{error}{'' if str(error).endswith('?') else '.'} Is the plugin installed (pip install -e .), with "
                f"an entry point of the group `pealm` in its pyproject.toml, and is spec the name in its record?"
            ) from error
        except PealmError as error:  # it did not load, and the error says why
            raise AssertionError(str(error)) from error

    def settings(self, **more: Any) -> Any:
        """An instance of the record's config with this class's values."""
        entry = self.entry
        return None if entry.config is None else entry.config(**{**self.config, **more})

    def make(self, **more: Any) -> Any:
        """The component, as the core makes it."""
        config = self.settings(**more)
        return make(self.entry, *([] if config is None else [config]))

    def test_its_imports_are_light_and_quiet(self) -> None:
        """Catches a plugin that slows down every `pealm --help`, or that does something by merely being installed."""
        report = light_import(self.entry)
        assert not report["heavy"], (
            f"importing the plugin's module and config loads {', '.join(report['heavy'])}: import it inside the "
            f"function that needs it, or in the module that the factory names"
        )
        assert not report["seen"], f"importing the plugin's module and config {_and(report['seen'])}"

    def test_its_parts_are_there_and_import_quietly(self) -> None:
        """Catches a misspelt "module:attribute", and code that prints, connects, seeds or configures at import."""
        entry = self.entry
        parts = [part for part in entry.spec.parts if getattr(entry.spec, part)]
        with _afresh(getattr(entry.spec, part).partition(":")[0] for part in parts), watched() as seen:
            for part in parts:
                try:
                    value = entry.load(part)
                except PealmError as error:
                    raise AssertionError(f"{error}: mend the string in the record, or the module") from error
                assert callable(value), (
                    f"{part} of {entry.name!r} is {value!r:.60}, and should be a class or function"
                )
        assert not seen, f"importing the parts of {entry.name!r} {_and(seen)}"

    def test_its_settings_survive_toml_and_options(self) -> None:
        """Catches settings that a saved config or a command line can't repeat."""
        config = self.settings()
        if config is None:
            raise SkipTest("it has no settings")
        type_: Any = type(config)
        items = settings_of(type_).values()
        fill = {s.name: getattr(config, s.name) for s in items if s.hidden or s.name == "vocab_size"}
        table = tomllib.loads(tomli_w.dumps({"it": dump(config)}))["it"]
        words = {
            s.key: ",".join(map(str, v)) if isinstance(v, tuple) else str(v).lower() if s.type is bool else str(v)
            for s in items
            if (v := getattr(config, s.name)) is not None and s.name not in fill
        }
        for text, values in ((False, table), (True, words)):
            how = "the words of a command line" if text else "a TOML table"
            try:
                layers = [Layer("saved", {"it": fill}), Layer("saved", {"it": values}, text=text)]
                again = resolve({"it": type_}, layers).build("it")
            except PealmError as error:
                raise AssertionError(f"{type_.__name__} can't be read back from {how}: {error}") from error
            different = {k: (v, getattr(again, k)) for k, v in vars(config).items() if v != getattr(again, k)}
            assert not different, (
                f"{type_.__name__} comes back from {how} with other values: {different}. Fields hold what the user "
                f"gave; compute what derives from them in a property"
            )
        assert type_.__dataclass_params__.frozen, (
            f"{type_.__name__} is not frozen: write @dataclass(frozen=True), so that a saved config stays true"
        )

    def test_every_setting_has_a_help_line(self) -> None:
        """Catches an option that `--help` lists without a word."""
        entry = self.entry
        value = getattr(entry.spec, "value", None)  # its line in --help is the record's summary
        for item in settings_of(entry.config).values():
            if not item.hidden and item.name not in ("vocab_size", value):
                assert item.help.strip(), (
                    f"{item.name} has no help line: {item.name}: {getattr(item.type, '__name__', item.type)} = "
                    f'setting({item.default!r}, "what it is")'
                )


@cache
def _light_import(path: tuple[str, ...], modules: tuple[str, ...]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", _LIGHT, json.dumps([path, modules])], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, f"importing {', '.join(modules)} in a fresh Python fails:\n{done.stderr.strip()}"
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def light_import(entry: Entry[Any]) -> dict[str, Any]:
    """What a fresh Python loads for an entry's record and config: `heavy` modules, what was `seen`, and the `ms`."""
    modules = [entry.plugin.module.partition(":")[0]]
    if getattr(entry.spec, "config", None):
        modules.append(entry.spec.config.partition(":")[0])
    return _light_import(tuple(sys.path), tuple(modules))


@contextmanager
def _afresh(modules: Iterable[str]) -> Iterator[None]:
    """The plugin's own modules as if they had not been imported yet; what they import stays loaded."""
    wanted = list(modules)
    for module in wanted:
        with contextlib.suppress(Exception, SystemExit):  # said later, where the parts are loaded
            import_module(module)
    roots = {module.partition(".")[0] for module in wanted} - {"pealm_core", *HEAVY}
    taken = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in roots}
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] in roots]:
            del sys.modules[name]
        sys.modules.update(taken)


def _and(phrases: Iterable[str]) -> str:
    return " and ".join(phrases) + ": do that in a function that the user calls, or not at all"
