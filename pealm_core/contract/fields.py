"""Config dataclasses: each field is a key in TOML (`n-layer`) and an option (`--model.n-layer`).

`setting()` adds a help line and bounds to a field; a plain field works as well.
"""

import dataclasses
import math
import operator
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union


def setting(
    default: Any,
    help: str = "",
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    excludes: str | None = None,
    hidden: bool = False,
    short: str = "",
) -> Any:
    """Declare a dataclass field with a help line and bounds; numbers must be finite in any case.

    excludes: the field that this one replaces: setting one unsets the other if a lower layer set it.
    hidden: not an option; the core fills it (`vocab_size`). short: a one-letter option, for flat tables.
    """
    bounds = {">=": at_least, "<=": at_most, ">": above, "<": below}
    meta = {"help": help, "bounds": bounds, "excludes": excludes, "hidden": hidden, "short": short}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=meta)
    return dataclasses.field(default=default, metadata=meta)


_METADATA = ("help", "bounds", "excludes", "hidden", "short")
_TESTS: dict[str, tuple[Callable[[float, float], bool], str]] = {
    ">=": (operator.ge, "at least"),
    "<=": (operator.le, "at most"),
    ">": (operator.gt, "above"),
    "<": (operator.lt, "below"),
}
_NOUNS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", Path: "a path"}


@dataclass(frozen=True)
class Setting:
    """A config field as TOML and the command line use it."""

    name: str  # of the dataclass field: n_layer
    type: Any  # without `| None`
    optional: bool  # None is allowed
    default: Any
    help: str = ""
    bounds: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    excludes: str | None = None
    hidden: bool = False
    short: str = ""

    @property
    def key(self) -> str:
        """The name in TOML and on the command line: n-layer."""
        return self.name.replace("_", "-")

    def parse(self, raw: Any, *, text: bool = False) -> Any:
        """Convert a TOML value, or with `text` a word of the command line. Raises ValueError."""
        if raw is None or (text and raw == "none"):
            if self.optional:
                return None
            raise ValueError(f"must be {_noun(self.type)}, not empty")
        value = _convert(self.type, raw, text)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, (int, float)) and not isinstance(number, bool):
                self._check(number)
        return value

    def _check(self, number: float) -> None:
        if isinstance(number, float) and not math.isfinite(number):
            raise ValueError(f"must be finite, not {number}")
        for sign, bound in self.bounds.items():
            test, words = _TESTS[sign]
            if bound is not None and not test(number, bound):
                raise ValueError(f"must be {words} {bound:g}, not {number:g}")


def _noun(type_: Any) -> str:
    if typing.get_origin(type_) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(type_)))
    return _NOUNS.get(type_, "a list")


def _convert(type_: Any, raw: Any, text: bool) -> Any:
    """Convert a value to a type that `_supported` accepts. Raises ValueError."""
    error = ValueError(f"must be {_noun(type_)}, not {raw!r}")
    origin, args = typing.get_origin(type_), typing.get_args(type_)
    if origin is Literal:
        for choice in args:
            if raw == choice or (text and raw == str(choice)):
                return choice
        close = nearest(str(raw), map(str, args))
        raise ValueError(f"{error}" + (f"; did you mean {close}?" if close else ""))
    if origin in (tuple, list):
        items = [part for part in raw.split(",") if part] if text and isinstance(raw, str) else raw
        if not isinstance(items, (list, tuple)):
            raise error
        return tuple(_convert(args[0] if args else str, item, text) for item in items)
    if text and isinstance(raw, str):
        raw = (
            _number(raw)
            if type_ in (int, float)
            else {"true": True, "false": False}.get(raw)
            if type_ is bool
            else raw
        )
    if type_ in (int, float):
        valid = isinstance(raw, (int, float)) and not isinstance(raw, bool)
        valid = valid and (type_ is float or isinstance(raw, int) or raw.is_integer())
    else:
        valid = isinstance(raw, (str, Path) if type_ is Path else type_)
    if not valid:
        raise error
    return type_(raw)


def _number(word: str) -> float | None:
    try:
        return int(word) if re.fullmatch(r"[+-]?[\d_]+", word) else float(word)
    except ValueError:
        return None


def _supported(type_: Any) -> bool:
    origin, args = typing.get_origin(type_), typing.get_args(type_)
    if origin in (tuple, list):
        return all(arg is Ellipsis or _supported(arg) for arg in args)
    return origin is Literal or type_ in _NOUNS


@cache
def settings_of(config: type | None) -> dict[str, Setting]:
    """Return the settings of a dataclass by key (`n-layer`), in its order; none for None. Raises TypeError."""
    if config is None:
        return {}
    hints = typing.get_type_hints(config)
    settings = {}
    for field in dataclasses.fields(config):
        type_, optional = hints[field.name], False
        if typing.get_origin(type_) in (Union, types.UnionType):
            rest = [arg for arg in typing.get_args(type_) if arg is not types.NoneType]
            optional = len(rest) < len(typing.get_args(type_))
            if len(rest) > 1:
                raise TypeError(f"has a field {field.name!r} of several types: a setting has one, not {type_}")
            type_ = rest[0]
        if not _supported(type_):
            raise TypeError(
                f"has a field {field.name!r} of type {type_}: use int, float, bool, str, Path, Literal or tuple"
            )
        default: Any = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if field.name == "vocab_size" and default is dataclasses.MISSING:
            default = 0  # the core fills it
        given = {key: field.metadata[key] for key in _METADATA if key in field.metadata}
        setting_ = Setting(name=field.name, type=type_, optional=optional, default=default, **given)
        settings[setting_.key] = setting_
    return settings


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that a misspelt one most likely means."""
    import difflib  # slow to import, and needed for errors only

    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)), None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?`, or a list of the known words if none is close and they are few."""
    known = sorted(known)
    close = nearest(word, known)
    if close:
        return f"; did you mean {close!r}?"
    return f"; known: {', '.join(known)}" if 0 < len(known) <= 20 else ""


def dump(config: Any) -> dict[str, Any]:
    """Return a dataclass as a TOML table, without its None values, which TOML can't express."""
    if config is None:
        return {}
    values = {field.name.replace("_", "-"): getattr(config, field.name) for field in dataclasses.fields(config)}
    return {key: _plain(value) for key, value in values.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
