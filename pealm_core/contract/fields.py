"""What a config dataclass means: each field is a key in TOML (`n-layer`) and an option (`--model.n-layer`).

`setting()` adds a help line and bounds; a plain field works too.
"""

import dataclasses
import math
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
    """A dataclass field with a help line and bounds; numbers must be finite in any case.

    excludes: the field that this one replaces: setting one undoes the other where a lower layer set it.
    hidden: not an option; the core fills it (`vocab_size`). short: a one-letter option, for flat tables.
    """
    bounds = {">=": at_least, "<=": at_most, ">": above, "<": below}
    meta = {"help": help, "bounds": bounds, "excludes": excludes, "hidden": hidden, "short": short}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=meta)
    return dataclasses.field(default=default, metadata=meta)


_TESTS: dict[str, tuple[Callable[[float, float], bool], str]] = {
    ">=": (lambda x, b: x >= b, "at least"),
    "<=": (lambda x, b: x <= b, "at most"),
    ">": (lambda x, b: x > b, "above"),
    "<": (lambda x, b: x < b, "below"),
}
_NOUNS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", Path: "a path"}


@dataclass(frozen=True)
class Setting:
    """A field as TOML and the command line see it."""

    name: str  # the dataclass field: n_layer
    type: Any  # without the `| None`
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
            self._check(number)
        return value

    def _check(self, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return
        if not math.isfinite(value):
            raise ValueError(f"must be finite, not {value}")
        for sign, bound in self.bounds.items():
            test, words = _TESTS[sign]
            if bound is not None and not test(value, bound):
                raise ValueError(f"must be {words} {bound:g}, not {value:g}")


def _noun(type_: Any) -> str:
    if typing.get_origin(type_) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(type_)))
    if typing.get_origin(type_) in (tuple, list):
        return "a list"
    return _NOUNS.get(type_, getattr(type_, "__name__", str(type_)))


def _convert(type_: Any, raw: Any, text: bool) -> Any:
    error = ValueError(f"must be {_noun(type_)}, not {raw!r}")
    if typing.get_origin(type_) is Literal:
        for choice in typing.get_args(type_):
            if raw == choice or (text and raw == str(choice)):
                return choice
        close = nearest(str(raw), map(str, typing.get_args(type_)))
        raise ValueError(f"{error}" + (f"; did you mean {close}?" if close else ""))
    if typing.get_origin(type_) in (tuple, list):
        item = typing.get_args(type_)[0] if typing.get_args(type_) else str
        if text and isinstance(raw, str):
            raw = [part for part in raw.split(",") if part]
        if not isinstance(raw, (list, tuple)):
            raise error
        return tuple(_convert(item, part, text) for part in raw)
    if type_ is bool:
        if isinstance(raw, bool):
            return raw
        if text and raw in ("true", "false"):
            return raw == "true"
        raise error
    if isinstance(raw, bool):
        raise error
    if type_ is int or type_ is float:
        if isinstance(raw, str):
            if not text:
                raise error
            try:
                raw = int(raw) if re.fullmatch(r"[+-]?[\d_]+", raw) else float(raw)
            except ValueError:
                raise error from None
        if not isinstance(raw, (int, float)):
            raise error
        if type_ is float:
            return float(raw)
        if raw != raw or raw in (math.inf, -math.inf) or raw != int(raw):
            raise error
        return int(raw)
    if type_ is Path:
        if not isinstance(raw, (str, Path)):
            raise error
        return Path(raw)
    if type_ is str:
        if not isinstance(raw, str):
            raise error
        return raw
    raise TypeError(f"{type_!r} can't be a setting: use int, float, bool, str, Path, Literal or tuple[T, ...]")


def _supported(type_: Any) -> bool:
    origin, args = typing.get_origin(type_), typing.get_args(type_)
    if origin is Literal:
        return True
    if origin in (tuple, list):
        return all(arg is Ellipsis or _supported(arg) for arg in args)
    return type_ in _NOUNS


@cache
def settings_of(config: type | None) -> dict[str, Setting]:
    """The settings of a dataclass by key (`n-layer`), in its order; none for None. Raises TypeError."""
    if config is None:
        return {}
    hints = typing.get_type_hints(config)
    found = {}
    for field in dataclasses.fields(config):
        type_, optional = hints[field.name], False
        if typing.get_origin(type_) in (Union, types.UnionType):
            rest = [arg for arg in typing.get_args(type_) if arg is not types.NoneType]
            optional = len(rest) < len(typing.get_args(type_))
            if len(rest) > 1:
                raise TypeError(f"has a field {field.name!r} of several types: a setting has one, not {type_}")
            type_ = rest[0]
        default: Any = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if field.name == "vocab_size" and default is dataclasses.MISSING:
            default = 0  # the core fills it
        known = {
            key: field.metadata[key]
            for key in ("help", "bounds", "excludes", "hidden", "short")
            if key in field.metadata
        }
        if not _supported(type_):
            raise TypeError(
                f"has a field {field.name!r} of type {type_}: use int, float, bool, str, Path, Literal or tuple"
            )
        item = Setting(name=field.name, type=type_, optional=optional, default=default, **known)
        found[item.key] = item
    return found


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that a misspelt one most likely meant."""
    import difflib  # here and below: imported where a `--help` does not come by

    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)), None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or the known words where none is near and they are few."""
    known = sorted(known)
    close = nearest(word, known)
    if close:
        return f"; did you mean {close!r}?"
    return f"; known: {', '.join(known)}" if 0 < len(known) <= 20 else ""


def dump(config: Any) -> dict[str, Any]:
    """A dataclass as a TOML table; None, which TOML can't say, is left out."""
    if config is None:
        return {}
    return {
        field.name.replace("_", "-"): _plain(getattr(config, field.name))
        for field in dataclasses.fields(config)
        if getattr(config, field.name) is not None
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value
