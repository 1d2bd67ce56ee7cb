"""Split a command line into what click parses and the settings of components, without knowing the components."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from pealm_core.contract.errors import UserError
from pealm_core.contract.fields import settings_of
from pealm_core.contract.specs import DatasetSpec
from pealm_core.plugins.host import PluginHost

HELP = ("--help", "-h")


@dataclass
class Line:
    """A split command line.

    static: the words for click. words: table → key → word; True for an `--input.NAME` without a value.
    """

    static: list[str] = field(default_factory=list)
    words: dict[str, dict[str, Any]] = field(default_factory=dict)
    help: bool = False
    mistake: Exception | None = None


def split(args: Sequence[str], params: Iterable[click.Parameter], flat: Mapping[str, type], host: PluginHost) -> Line:
    """Split the words of a command with these click parameters and these tables of settings without a dot.

    An option with a dot and a setting without one take exactly one value, whatever it looks like. `--input.NAME`
    follows its dataset's record: no value if that has no value field, else the next word unless it begins with "-"
    and is not a number.
    """
    takes_value = {opt: not getattr(p, "is_flag", False) for p in params for opt in (*p.opts, *p.secondary_opts)}
    takes_value |= dict.fromkeys(HELP, False)
    settings: dict[str, tuple[str, str]] = {}
    for table, config in flat.items():
        for item in settings_of(config).values():
            if not item.hidden:
                settings |= dict.fromkeys([f"--{item.key}", f"-{item.short or '-' + item.key}"], (table, item.key))
    line, rest = Line(), list(args)

    def value(option: str, attached: str | None) -> str | None:
        if attached is None and not rest:
            line.mistake = line.mistake or UserError(f"{option} needs a value")
        return rest.pop(0) if attached is None and rest else attached

    while rest:
        word = rest.pop(0)
        if word == "--" or not word.startswith("-") or word == "-":
            line.static.append(word)
            if word == "--":
                line.static += rest
                break
            continue
        name, equals, text = word.partition("=")
        name, attached = name.replace("_", "-"), text if equals else None
        if not name.startswith("--") and name[:2] in settings and len(word) > 2:
            name, attached = word[:2], word[2:]
        if name.startswith("--input."):
            key = name.removeprefix("--input.")
            follows = rest and _takes_value(host, key) and not re.match(r"-(?!\d|\.\d|$)", rest[0])
            bare = attached is None and not follows
            line.words.setdefault("input", {})[key] = True if bare else value(name, attached)
        elif name in settings or (name.startswith("--") and "." in name and not name.endswith(".name")):
            table, key = settings.get(name) or tuple(name[2:].split(".", 1))
            line.words.setdefault(table, {})[key] = value(name, attached)
        elif name in takes_value:
            line.static.append(word)
            line.help = line.help or name in HELP
            if takes_value[name] and attached is None and rest:
                line.static.append(rest.pop(0))
        elif line.mistake is None:
            known = [opt for opt in (*takes_value, *settings) if opt.startswith("--")]
            line.mistake = click.NoSuchOption(name, possibilities=known)
    return line


def _takes_value(host: PluginHost, key: str) -> bool:
    """Whether `--input.KEY` takes a value: all but a dataset whose record has no value field."""
    dist, _, name = key.rpartition("/")
    entries = [e for e in host.entries(DatasetSpec).get(name, []) if not dist or e.plugin.dist == dist]
    return not entries or any(entry.spec.value for entry in entries)
