"""Config dataclasses: each field is a key in TOML (`n-layer`) and an option (`--model.n-layer`).

`setting()` adds a help line and bounds to a field; a plain field works as well.
"""

import dataclasses
import math
import operator
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

LARGEST = 10**12  # for a whole number without an upper bound of its own


def setting(
    default: Any,
    help: str = "",
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    excludes: str | tuple[str, ...] = (),
    hidden: bool = False,
    short: str = "",
) -> Any:
    """Declare a dataclass field with a help line and bounds; numbers must be finite in any case.

    default: `...` means that the user must give a value; the field is then passed by name.
    excludes: the fields that this one replaces: setting one unsets the others if a lower layer set them.
    hidden: not an option; the core fills it (`vocab_size`). short: a one-letter option, for flat tables.
    """
    bounds = {"at least": at_least, "at most": at_most, "above": above, "below": below}
    bounds = {words: bound for words, bound in bounds.items() if bound is not None}
    excludes = (excludes,) if isinstance(excludes, str) else excludes
    meta = {"help": help, "bounds": bounds, "excludes": excludes, "hidden": hidden, "short": short}
    if default is ...:
        return dataclasses.field(kw_only=True, metadata={"pealm": meta})
    return dataclasses.field(default=default, metadata={"pealm": meta})


# type → what it is called, the TOML values that it takes, how to read a word of the command line
_TYPES: dict[Any, tuple[str, tuple[type, ...], Callable[[str], Any]]] = {
    int: ("a whole number", (int, float), int),
    float: ("a number", (int, float), float),
    str: ("text", (str,), str),
    bool: ("true or false", (bool,), {"true": True, "false": False}.get),
    Path: ("a path", (str, Path), str),
}
_TESTS = {"at least": operator.ge, "at most": operator.le, "above": operator.gt, "below": operator.lt}


@dataclass(frozen=True)
class Setting:
    """A config field as TOML and the command line use it."""

    name: str  # of the dataclass field: n_layer
    type: Any  # without `| None`
    optional: bool  # None is allowed
    default: Any
    help: str = ""
    bounds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    excludes: tuple[str, ...] = ()
    hidden: bool = False
    short: str = ""

    @property
    def key(self) -> str:
        """The name in TOML and on the command line: n-layer."""
        return self.name.replace("_", "-")

    def parse(self, raw: Any, *, text: bool = False) -> Any:
        """Convert a TOML value, or with `text` a word of the command line. Raises ValueError."""
        if self.optional and (raw is None or (text and raw == "none")):
            return None
        value = _convert(self.type, raw, text)
        for item in value if isinstance(value, tuple) else (value,):
            if type(item) is float and not math.isfinite(item):
                raise ValueError(f"must be finite, not {item}")
            bounds = {"at most": LARGEST, **self.bounds} if type(item) is int else self.bounds
            for words, bound in bounds.items():
                if not _TESTS[words](item, bound):
                    raise ValueError(f"must be {words} {bound:,}, not {item!r:.80}")
        return value


def _convert(type_: Any, raw: Any, text: bool) -> Any:
    """Convert a value to a type that `settings_of` accepts. Raises ValueError."""
    args = get_args(type_)
    if get_origin(type_) is Literal:
        noun = "one of " + ", ".join(map(str, args))
        for choice in args:
            if raw == choice or (text and raw == str(choice)):
                return choice
    elif get_origin(type_) is tuple:
        noun = "a list"
        items = [part for part in raw.split(",") if part] if text and isinstance(raw, str) else raw
        if isinstance(items, (list, tuple)):
            return tuple(_convert(args[0], item, text) for item in items)
    else:
        noun, accepted, read = _TYPES[type_]
        with suppress(ValueError, OverflowError):  # OverflowError: a whole number that no float can hold
            value = read(raw) if text and isinstance(raw, str) else raw
            fits = isinstance(value, accepted) and isinstance(value, bool) == (type_ is bool)
            if fits and (type_ is not int or value % 1 == 0):
                return type_(value)
    raise ValueError(f"must be {noun}, not {raw!r:.80}")


def word(value: Any) -> str:
    """Return a value as a word of the command line, which `Setting.parse` reads."""
    if isinstance(value, tuple | list):
        return ",".join(map(word, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


@cache
def settings_of(config: type | None) -> dict[str, Setting]:
    """Return the settings of a dataclass by key (`n-layer`), in its order; none for None. Raises TypeError."""
    if config is None:
        return {}
    hints = get_type_hints(config)
    settings = {}
    for field in dataclasses.fields(config):
        args = get_args(type_ := hints[field.name])
        if optional := types.NoneType in args and len(args) == 2:
            type_ = next(arg for arg in args if arg is not types.NoneType)
        item = get_args(type_)[0] if get_origin(type_) is tuple and get_args(type_)[1:] == (...,) else type_
        if item not in _TYPES and get_origin(item) is not Literal:
            supported = "int, float, bool, str, Path, Literal or tuple[T, ...], each also `| None`"
            raise TypeError(f"has a field {field.name!r} of type {type_}: use {supported}")
        default: Any = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if field.name == "vocab_size" and default is dataclasses.MISSING:
            default = 0  # the core fills it
        new = Setting(field.name, type_, optional, default, **field.metadata.get("pealm", {}))
        try:
            default is dataclasses.MISSING or new.parse(default)
        except ValueError as error:
            raise TypeError(f"has a default of {field.name!r} that is wrong: it {error}") from None
        settings[new.key] = new
    return settings


def dump(config: Any) -> dict[str, Any]:
    """Return a dataclass as a TOML table, without its None values, which TOML can't express."""
    fields = dataclasses.fields(config) if config is not None else ()
    values = {field.name.replace("_", "-"): getattr(config, field.name) for field in fields}
    return {key: _plain(value) for key, value in values.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
