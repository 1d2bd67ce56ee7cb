"""Read a plugin's module: its hooks, and the records that its registration hooks return. Both are checked whole."""

import re
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

from pealm_core.contract import hookspecs
from pealm_core.contract.fields import did_you_mean
from pealm_core.contract.specs import KINDS, ModelSpec, Spec

REGISTRATION = {f"pealm_{kind}s": kind for kind in KINDS}
CORE_COMMANDS = ("train", "sample", "eval", "prepare", "clean", "convert", "new-plugin", "plugins")


class DefectError(Exception):
    """A plugin's defect, described by a message that needs no exception name."""


def hooks_of(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """Return a module's functions that are marked `@hookimpl`, by hook. Raises DefectError."""
    known = [*REGISTRATION, *(name for name in vars(hookspecs) if name.startswith("pealm_"))]
    hooks = {}
    for name, function in vars(module).items():
        options = getattr(function, "pealm_impl", None) if isinstance(function, FunctionType) else None
        if options is None:
            if name in known and callable(function):
                raise DefectError(f"has a function {name!r} that is not marked @hookimpl")
            continue
        hook = options.get("specname") or name
        if hook not in known and not options.get("optionalhook"):
            raise DefectError(f"has a hook {hook!r} that pealm does not know{did_you_mean(hook, known)}")
        ignored = [key for key in ("wrapper", "hookwrapper", "tryfirst", "trylast") if options.get(key)]
        if hook in REGISTRATION and ignored:
            raise DefectError(f"{hook}: {ignored[0]}=True has no effect here: pealm calls it for each plugin alone")
        hooks[hook] = function
    return hooks


def records_of(hooks: Mapping[str, Callable[..., Any]]) -> Iterator[Spec]:
    """Call the registration hooks and yield their records. Raises DefectError."""
    names = set()
    for hook in filter(hooks.__contains__, REGISTRATION):
        given = hooks[hook]()
        for record in [given] if isinstance(given, Spec) else given or ():
            check_record(record, hook)
            if (record.kind, record.name) in names:
                raise DefectError(f"{hook} gives two records named {record.name!r}")
            names.add((record.kind, record.name))
            yield record


def check_record(record: Any, hook: str) -> None:
    """Raise DefectError if a record is not what its hook promises."""
    kind = KINDS[REGISTRATION[hook]]
    if not isinstance(record, kind):
        raise DefectError(f"{hook} must give {kind.__name__} records, not {record!r}")
    label = f"{kind.__name__} {record.name!r}"
    if not isinstance(record.name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", record.name):
        raise DefectError(f"{label}: a name is made of a-z, 0-9, '-' and '.'")
    if not isinstance(record.summary, str) or not record.summary.strip() or "\n" in record.summary:
        raise DefectError(f"{label}: summary must be one line of text")
    for part in record.parts:
        ref = getattr(record, part)
        optional = kind.__dataclass_fields__[part].default is None
        if not (ref is None and optional) and not (isinstance(ref, str) and re.fullmatch(r"[\w.]+:[\w.]+", ref)):
            raise DefectError(f"{label}: {part} must be a string 'module:attribute', not {ref!r}")
    if record.kind == "command" and record.name in CORE_COMMANDS:
        raise DefectError(f"{label}: pealm has a command of that name, which a plugin can't replace")
    if isinstance(record, ModelSpec):
        _check_defaults(record, label)


def _check_defaults(record: ModelSpec, label: str) -> None:
    for name, values in {**record.presets, **record.recipe}.items():
        if not isinstance(values, Mapping):
            raise DefectError(f"{label}: {name!r} in presets or recipe must be a mapping, not {values!r}")
    in_presets = {key for preset in record.presets.values() for key in preset if isinstance(preset[key], Mapping)}
    for what, tables in (("recipe", set(record.recipe)), ("a preset", in_presets)):
        if unknown := tables - {"train", "optimizer", "input"}:
            raise DefectError(f"{label}: {what} has tables train, optimizer and input, not {sorted(unknown)}")
