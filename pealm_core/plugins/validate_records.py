"""Read a plugin's module: its hooks, and the records that its registration hooks return. Both are checked whole."""

import re
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

from pealm_core.contract import hookspecs
from pealm_core.contract.errors import did_you_mean
from pealm_core.contract.specs import KINDS, Spec
from pealm_core.plugins.builtin import COMMANDS
from pealm_core.plugins.import_checks import DefectError

REGISTRATION = {spec.hook: spec for spec in KINDS.values()}
TABLES = {"train", "optimizer", "schedule", "objective", "strategy", "adapter", "input"}  # of a recipe or preset
MOST = 10_000  # records of a plugin: one that never stops ends


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
        hook = options["specname"] or name
        if hook not in known and not options["optionalhook"]:
            raise DefectError(f"has a hook {hook!r} that pealm does not know{did_you_mean(hook, known)}")
        for option in ("wrapper", "hookwrapper", "tryfirst", "trylast"):
            alone = hook in REGISTRATION or (hook == "pealm_eval_model" and "wrapper" in option)
            if alone and options[option]:
                raise DefectError(f"{hook}: {option}=True has no effect here: pealm calls it for each plugin alone")
        hooks[hook] = function
    return hooks


def records_of(hooks: Mapping[str, Callable[..., Any]], *, objects: bool = False) -> Iterator[Spec]:
    """Call the registration hooks and yield their records. Raises DefectError.

    objects: parts may be objects instead of strings that name them.
    """
    names = set()
    for hook, kind in REGISTRATION.items():
        given = hooks[hook]() if hook in hooks else None
        for record in [given] if isinstance(given, Spec) else given or ():
            if not isinstance(record, kind):
                raise DefectError(f"{hook} must give {kind.__name__} records, not {record!r}")
            for correct, problem in _checks(record, objects):
                if not correct:
                    raise DefectError(f"{kind.__name__} {record.name!r}: {problem}")
            if (hook, record.name) in names:
                raise DefectError(f"{hook} gives two records named {record.name!r}")
            names.add((hook, record.name))
            if len(names) > MOST:
                raise DefectError(f"{hook}: a plugin may give {MOST:,} records, and this one gives more")
            yield record


def _checks(record: Spec, objects: bool) -> Iterator[tuple[Any, str]]:
    """Yield what must be true of a record, and what to say if it is not."""
    yield type(record.name) is type(record.summary) is str, "name and summary must be strings"
    yield re.fullmatch(r"[a-z0-9][a-z0-9.-]*", record.name), "a name is made of a-z, 0-9, '-' and '.'"
    yield re.fullmatch(r".*\S.*", record.summary), "summary must be one line of text"
    yield (
        record.kind != "command" or record.name not in COMMANDS,
        "pealm has a command of that name, which a plugin can't replace",
    )
    for part in record.parts:
        ref, default = getattr(record, part), record.__dataclass_fields__[part].default
        named = isinstance(ref, str) and re.fullmatch(r"[\w.]+:[\w.]+", ref)
        correct = ref is default or named or (objects and callable(ref))
        yield correct, f"{part} must be a string 'module:attribute', not {ref!r}"
    presets = getattr(record, "presets", {}).values()
    tables = {key for preset in presets for key, value in preset.items() if isinstance(value, Mapping)}
    unknown = (tables | set(getattr(record, "recipe", {}))) - TABLES
    yield not unknown, f"a recipe or preset has the tables {', '.join(sorted(TABLES))}, not {sorted(unknown)}"
