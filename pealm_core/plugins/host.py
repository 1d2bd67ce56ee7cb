"""The plugin host: find, load under guard, quarantine what is broken, resolve names.

A plugin is a module behind an entry point of the group `pealm`. Its hooks and records are all checked before one
of them counts. What fails stays in the list with its reason and is otherwise as if it were not installed.
"""

import importlib.metadata
import os
import re
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, is_dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, TypeVar

import pluggy

from pealm_core.contract import hookspecs
from pealm_core.contract.errors import PluginError, UserError
from pealm_core.contract.specs import KINDS, DatasetSpec, ModelSpec, Spec
from pealm_core.plugins.guard import HeavyImportError, light_imports

S = TypeVar("S", bound=Spec)

GROUP = "pealm"
REGISTRATION = {f"pealm_{kind}s": kind for kind in KINDS}
CORE_COMMANDS = ("train", "sample", "eval", "prepare", "clean", "convert", "new-plugin", "plugins")

# What `pip install` brings, for a name that is asked for and not installed.
PACKAGES: Mapping[tuple[str, str], str] = {
    ("model", "char-bigram"): "pealm-char-bigram",
    ("model", "char-transformer"): "pealm-char-transformer",
    ("model", "gpt2"): "pealm-gpt2",
    ("model", "gpt2-pretrained"): "pealm-gpt2",
    ("model", "sprout"): "pealm-sprout",
    ("tokenizer", "bpe"): "pealm-bpe",
    ("tokenizer", "char"): "pealm-char",
    ("tokenizer", "tiktoken"): "pealm-tiktoken",
    ("optimizer", "muon"): "pealm-muon",
    ("dataset", "fineweb"): "pealm-fineweb",
    ("dataset", "kindergarten"): "pealm-kindergarten",
    ("dataset", "npy-shards"): "pealm-npy-shards",
    ("dataset", "text"): "pealm-text",
    ("dataset", "tinyshakespeare"): "pealm-tinyshakespeare",
    ("evaluator", "hellaswag"): "pealm-hellaswag",
    ("evaluator", "kindergarten"): "pealm-kindergarten",
    ("evaluator", "perplexity"): "pealm-perplexity",
    ("format", "hf"): "pealm-gpt2",
    ("command", "report"): "pealm-report",
    ("command", "runs"): "pealm-report",
}


@dataclass
class Plugin:
    """One entry point: what it is, how loading it went, what it provides.

    status: "ok", "failed", "incompatible" (needs another pealm-core) or "disabled"; reason says why.
    """

    name: str  # of the entry point
    module: str
    dist: str
    version: str
    requires: tuple[str, ...] = ()
    location: str = ""
    status: str = "ok"
    reason: str = ""
    error: BaseException | None = None
    load_ms: float = 0.0
    records: list[Spec] = field(default_factory=list)

    @property
    def traceback(self) -> str:
        """Where loading it failed, nothing where it did not."""
        import traceback

        return "".join(traceback.format_exception(self.error)) if self.error else ""


@dataclass(frozen=True)
class Entry(Generic[S]):
    """A resolved name: the record and the plugin that it came from."""

    spec: S
    plugin: Plugin
    name: str  # as the user gave it: `gpt2`, or `pealm-gpt2/gpt2` where two provide one

    def load(self, part: str) -> Any:
        """Import a part of the record, for instance "factory". Raises PluginError."""
        ref = getattr(self.spec, part)
        module, _, attribute = ref.partition(":")
        try:
            value: Any = import_module(module)
            for name in attribute.split("."):
                value = getattr(value, name)
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"{self.plugin.dist}: {part} {ref!r} of {self.spec.kind} {self.spec.name!r} can't be loaded: "
                f"{type(error).__name__}: {error}"
            ) from error
        return value

    @cached_property
    def config(self) -> type | None:
        """The dataclass of its settings, None where it has none. Raises PluginError, also where it loads torch."""
        if not getattr(self.spec, "config", None):
            return None
        from pealm_core.contract.fields import settings_of  # not at the top: `pealm --help` needs no settings

        with light_imports():
            config = self.load("config")
        try:
            if not (isinstance(config, type) and is_dataclass(config)):
                raise TypeError("is no dataclass")
            known = settings_of(config)
            if "name" in known:
                raise TypeError("has a field 'name', which pealm keeps for the component's own name")
            if isinstance(self.spec, ModelSpec) and not {"vocab-size", "block-size"} <= set(known):
                raise TypeError("needs the fields vocab_size and block_size")
            if isinstance(self.spec, DatasetSpec) and self.spec.value and self.spec.value not in vars_of(known):
                raise TypeError(f"has no field {self.spec.value!r}, which the record calls its value")
        except TypeError as error:
            raise PluginError(f"{self.plugin.dist}: config of {self.spec.kind} {self.spec.name!r} {error}") from error
        return config


def vars_of(known: Mapping[str, Any]) -> set[str]:
    """The field names of settings."""
    return {item.name for item in known.values()}


class PluginHost:
    """Every installed plugin, loaded or quarantined, and the names that they provide."""

    def __init__(self, found: Iterable[Plugin], disabled: Iterable[str] = ()):
        """Load the plugins. disabled: entry point or distribution names to leave alone."""
        self._manager = pluggy.PluginManager("pealm")
        self._manager.add_hookspecs(hookspecs)
        self.plugins = list(found)
        self._core_version = next((p.version for p in self.plugins if p.dist == "pealm-core"), "")
        off = set(disabled)
        for plugin in self.plugins:
            if plugin.dist != "pealm-core" and off & {plugin.name, plugin.dist}:
                plugin.status, plugin.reason = (
                    "disabled",
                    "switched off by PEALM_DISABLE_PLUGINS or [plugins] disable",
                )
            else:
                self._load(plugin)

    @classmethod
    def installed(cls, disabled: Iterable[str] = ()) -> "PluginHost":
        """The plugins of this environment, less those that PEALM_DISABLE_PLUGINS (comma-separated) names."""
        names = os.environ.get("PEALM_DISABLE_PLUGINS", "").split(",")
        return cls(discover(), {name.strip() for name in names if name.strip()} | set(disabled))

    def _load(self, plugin: Plugin) -> None:
        start = time.perf_counter()
        module: Any = None
        try:
            plugin.status = "incompatible"
            self._check_core_version(plugin)
            plugin.status = "failed"
            with light_imports():
                module = importlib.metadata.EntryPoint(plugin.name, plugin.module, GROUP).load()
                self._manager.register(module, f"{plugin.dist}/{plugin.name}")
                self._check_hooks(module)
                plugin.records = list(self._records(module))
            plugin.status = "ok"
        except (Exception, SystemExit) as error:
            plain = isinstance(error, (HeavyImportError, _DefectError))
            plugin.reason = " ".join((str(error) if plain else f"{type(error).__name__}: {error}").split())
            plugin.error = error
            if module is not None and self._manager.is_registered(module):
                self._manager.unregister(module)
        plugin.load_ms = 1000 * (time.perf_counter() - start)

    def _check_core_version(self, plugin: Plugin) -> None:
        for need in plugin.requires:
            match = re.match(r"pealm[-_.]core\b(?!.*extra)\s*\(?([^;)]*)", need, re.IGNORECASE)
            if match and self._core_version and not meets(self._core_version, match[1].strip()):
                raise _DefectError(f"needs pealm-core {match[1].strip()}, and {self._core_version} is installed")

    def _check_hooks(self, module: Any) -> None:
        known = [name for name in vars(hookspecs) if name.startswith("pealm_")]
        for name in dir(module):
            marked = self._manager.parse_hookimpl_opts(module, name) is not None
            if marked and name not in known:
                from pealm_core.contract.fields import did_you_mean

                raise _DefectError(f"has a hook {name!r} that pealm does not know{did_you_mean(name, known)}")
            if name in known and not marked and callable(getattr(module, name)):
                raise _DefectError(f"has a function {name!r} that is not marked @hookimpl")

    def _records(self, module: Any) -> Iterable[Spec]:
        seen = set()
        for hook, kind in REGISTRATION.items():
            if self._manager.parse_hookimpl_opts(module, hook) is None:
                continue
            given = getattr(module, hook)()
            records = [given] if isinstance(given, Spec) else list(given if given is not None else ())
            for record in records:
                check_record(record, hook, kind)
                if (kind, record.name) in seen:
                    raise _DefectError(f"{hook} gives two records named {record.name!r}")
                seen.add((kind, record.name))
                yield record

    def entries(self, kind: type[S]) -> dict[str, list[Entry[S]]]:
        """name → who provides it (more than one: a conflict), sorted by name, then distribution."""
        table: dict[str, list[Entry[S]]] = {}
        for plugin in self.plugins:
            for record in plugin.records:
                if isinstance(record, kind):
                    table.setdefault(record.name, []).append(Entry(record, plugin, record.name))
        return dict(sorted(table.items()))

    def conflicts(self, plugin: Plugin) -> list[str]:
        """What other plugins provide under this plugin's names: `model 'gpt2' is also in pealm-other`."""
        found = []
        for record in plugin.records:
            for entry in self.entries(type(record)).get(record.name, []):
                if entry.plugin is not plugin:
                    found.append(f"{record.kind} {record.name!r} is also in {entry.plugin.dist}")
        return found

    def find(self, kind: type[S], name: str, prefer: Collection[str] = ()) -> Entry[S]:
        """Resolve `name` or `dist/name`. Raises UserError or PluginError with the way out.

        prefer: distributions that win where several provide the name: those that a checkpoint was made with.
        """
        from pealm_core.contract.fields import did_you_mean, nearest

        dist, _, bare = name.rpartition("/")
        entries = self.entries(kind)
        found = [e for e in entries.get(bare, []) if not dist or e.plugin.dist == dist]
        if len(found) > 1 and sum(e.plugin.dist in prefer for e in found) == 1:
            found = [e for e in found if e.plugin.dist in prefer]
        if len(found) == 1:
            return Entry(found[0].spec, found[0].plugin, name)
        label = f"{kind.kind} {name!r}"
        if found:
            ways = [f"{entry.plugin.dist}/{bare}" for entry in found]
            dists = " and ".join(entry.plugin.dist for entry in found)
            raise UserError(f"{label} is provided by both {dists}; say which: {' or '.join(ways)}")
        if broken := self._would_have(bare, dist):
            if broken.status == "disabled":
                raise UserError(f"{label} comes from {broken.dist}, which is {broken.reason}")
            raise PluginError(
                f"{label} comes from {broken.dist} {broken.version}, which failed to load: {broken.reason} "
                f"(see: pealm plugins show {broken.name})"
            )
        if package := PACKAGES.get((kind.kind, bare)):
            raise UserError(f"{label} is not installed; try: pip install {package}")
        packaged = [name for k, name in PACKAGES if k == kind.kind]
        close = nearest(bare, [*entries, *packaged])
        if close and close not in entries:
            raise UserError(f"unknown {label}; did you mean {close!r} (pip install {PACKAGES[kind.kind, close]})?")
        failed = sum(plugin.status not in ("ok", "disabled") for plugin in self.plugins)
        more = f" ({failed} installed plugins failed to load: pealm plugins)" if failed else ""
        raise UserError(f"unknown {label}{did_you_mean(bare, entries)}{more}")

    def _would_have(self, name: str, dist: str) -> Plugin | None:
        """The quarantined plugin that most likely provides a name: by its own names, else by its source."""
        broken = [p for p in self.plugins if p.status != "ok" and (not dist or p.dist == dist)]
        for plugin in broken:
            if name in (plugin.name, plugin.dist, plugin.dist.removeprefix("pealm-")):
                return plugin
        return next((p for p in broken if re.search(rf"""["']{re.escape(name)}["']""", _source(p))), None)

    def notify(self, hook: str, **values: Any) -> None:
        """Call a lifecycle hook of every plugin, in the order of discovery. Raises PluginError naming the plugin."""
        caller = getattr(self._manager.hook, hook)
        for impl in caller.get_hookimpls():
            try:
                impl.function(*(values[name] for name in impl.argnames))
            except Exception as error:
                step = f" at step {values['step']}" if "step" in values else ""
                raise PluginError(
                    f"{impl.plugin_name}: {hook} failed{step}: {type(error).__name__}: {error}"
                ) from error

    def blame(self, error: BaseException) -> str | None:
        """`DIST (model.py, line 12, forward)` where an exception came out of a plugin's own code, else None."""
        roots = {str(root): p.dist for p in self.plugins if p.dist != "pealm-core" for root in _roots(p)}
        blamed, trace = None, error.__traceback__
        while trace is not None:
            file = Path(trace.tb_frame.f_code.co_filename)
            for place in (file, *file.parents):
                if str(place) in roots:
                    where = f"{file.name}, line {trace.tb_lineno}, {trace.tb_frame.f_code.co_name}"
                    blamed = f"{roots[str(place)]} ({where})"
            trace = trace.tb_next
        return blamed

    def versions(self, entries: Iterable[Entry[Any]] = ()) -> dict[str, str]:
        """Distribution → version of the core and of the plugins behind these entries."""
        used = {entry.plugin.dist: entry.plugin.version for entry in entries}
        return dict(sorted({"pealm-core": self._core_version, **used}.items()))


def meets(version: str, specifier: str) -> bool:
    """Whether a version satisfies a specifier such as ">=0.1,<0.2".

    Plain bounds on plain versions are compared here; anything else is for `packaging`, whose import costs as much
    time as all of `pealm --help`.
    """
    number = r"\d+(?:\.\d+)*"
    bounds = [re.fullmatch(rf"(>=|<)\s*({number})", part.strip()) for part in specifier.split(",") if part.strip()]
    if not re.fullmatch(number, version) or not all(bounds):
        from packaging.specifiers import SpecifierSet

        return SpecifierSet(specifier).contains(version, prereleases=True)

    def release(text: str) -> list[int]:
        parts = [int(part) for part in text.split(".")]
        return parts + [0] * (8 - len(parts))

    return all((release(version) >= release(bound[2])) == (bound[1] == ">=") for bound in bounds if bound is not None)


class _DefectError(Exception):
    """What is wrong with a plugin, in words that need no exception name."""


def check_record(record: Any, hook: str, kind: str) -> None:
    """Raise _DefectError where a record is not what its hook promises."""
    if not isinstance(record, KINDS[kind]):
        raise _DefectError(f"{hook} must give {KINDS[kind].__name__} records, not {record!r}")
    label = f"{type(record).__name__} {record.name!r}"
    if not isinstance(record.name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", record.name):
        raise _DefectError(f"{label}: a name is made of a-z, 0-9, '-' and '.'")
    if not isinstance(record.summary, str) or not record.summary.strip() or "\n" in record.summary:
        raise _DefectError(f"{label}: summary must be one line of text")
    for part in record.parts:
        ref = getattr(record, part)
        optional = type(record).__dataclass_fields__[part].default is None
        if not (ref is None and optional) and not (isinstance(ref, str) and re.fullmatch(r"[\w.]+:[\w.]+", ref)):
            raise _DefectError(f"{label}: {part} must be a string 'module:attribute', not {ref!r}")
    if kind == "command" and record.name in CORE_COMMANDS:
        raise _DefectError(f"{label}: pealm has a command of that name, which a plugin can't replace")
    if isinstance(record, ModelSpec):
        for table, values in {**record.presets, **record.recipe}.items():
            if not isinstance(values, Mapping):
                raise _DefectError(f"{label}: {table!r} in presets or recipe must be a mapping, not {values!r}")
        in_presets = {key for preset in record.presets.values() for key in preset if isinstance(preset[key], Mapping)}
        for what, tables in (("recipe", set(record.recipe)), ("a preset", in_presets)):
            if surplus := tables - {"train", "optimizer", "input"}:
                raise _DefectError(f"{label}: {what} has tables train, optimizer and input, not {sorted(surplus)}")


def discover() -> list[Plugin]:
    """Every installed entry point of the group, sorted by distribution, then name; the first on the path wins."""
    found: dict[str, list[Plugin]] = {}
    for dist in importlib.metadata.distributions():
        if f"[{GROUP}]" not in (dist.read_text("entry_points.txt") or ""):
            continue
        head = _headers(dist)
        name = re.sub(r"[-_.]+", "-", head["Name"][0]).lower()
        if name not in found:
            location = str(dist.locate_file(""))
            requires = tuple(head.get("Requires-Dist", ()))
            found[name] = [
                Plugin(point.name, point.value, name, head["Version"][0], requires, location)
                for point in dist.entry_points.select(group=GROUP)
            ]
    return sorted((p for group in found.values() for p in group), key=lambda p: (p.dist, p.name))


def _headers(dist: importlib.metadata.Distribution) -> dict[str, list[str]]:
    """The metadata's headers; `dist.metadata` would load the email parser, a sixth of the time of a `--help`."""
    text = dist.read_text("METADATA") or dist.read_text("PKG-INFO") or ""
    found: dict[str, list[str]] = {"Name": ["?"], "Version": ["?"]}
    for line in reversed(text.partition("\n\n")[0].splitlines()):
        key, colon, value = line.partition(": ")
        if colon:
            found.setdefault(key, []).insert(0, value.strip())
    return found


def _origin(module: str) -> Path | None:
    """The file of a module, where it can be found."""
    try:
        spec = find_spec(module.partition(":")[0])
    except Exception:  # importing the parent package may raise anything
        return None
    return Path(spec.origin) if spec and spec.origin else None


def _roots(plugin: Plugin) -> Iterable[Path]:
    """The folders and files of a plugin's code: those of its own module and of its records' parts."""
    refs = [getattr(record, part) for record in plugin.records for part in record.parts]
    for root in {ref.partition(":")[0].partition(".")[0] for ref in [plugin.module, *refs] if ref}:
        origin = _origin(root)
        if origin is not None:
            yield origin.parent if origin.name == "__init__.py" else origin


def _source(plugin: Plugin) -> str:
    """The text of the plugin's module, or nothing where it can't be read."""
    origin = _origin(plugin.module)
    try:
        return origin.read_text(encoding="utf-8") if origin else ""
    except (OSError, UnicodeDecodeError):
        return ""
