"""Commands whose options depend on the components that they name.

A first pass over the words finds model, dataset, tokenizer, optimizer, evaluator, checkpoint and config file;
then the options of just these exist, in groups, and click parses the line as usual.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any

import click

from pealm_core.config.job import Request, choose, host_for, option_name, plan, settle, takes_input
from pealm_core.config.layers import Layer, Resolved
from pealm_core.contract.errors import UserError
from pealm_core.contract.fields import Setting, did_you_mean, settings_of
from pealm_core.contract.specs import DatasetSpec, EvaluatorSpec, ModelSpec, OptimizerSpec, Spec, TokenizerSpec
from pealm_core.plugins.host import Entry, PluginHost

HEADINGS = {
    "model": "Model",
    "tokenizer": "Tokenizer",
    "optimizer": "Optimizer",
    "input": "Input",
    "eval": "Evaluation",
}
NAME_OPTIONS = {
    "tokenizer": "tokenizer",
    "optimizer": "optimizer",
    "eval": "on",
}  # table → option that names it
HELP = {"--help", "-h"}


@dataclass
class FirstPass:
    """What the words of a command line name, found without knowing the components' options."""

    model: str | None = None
    options: dict[str, str] = field(default_factory=dict)  # config, ckpt, out, preset, tokenizer, ...
    input: dict[str, Any] = field(default_factory=dict)  # key → value, or True without one
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)  # key of input → its words in the line


def first_pass(args: Sequence[str], flags: Iterable[str]) -> FirstPass:
    """Walk the words once. flags: options that take no value.

    >>> peek = first_pass(["gpt2", "--ckpt", "run", "--input.text=a.txt"], [])
    >>> peek.model, peek.options, peek.input
    ('gpt2', {'ckpt': 'run'}, {'text': 'a.txt'})
    """
    found, flags, at = FirstPass(), {*flags, *HELP}, 0
    while at < len(args) and args[at] != "--":
        start, word = at, args[at]
        at += 1
        if not word.startswith("-") or word == "-":
            found.model = found.model or word
            continue
        name, equals, value = word.partition("=")
        given = bool(equals)
        if not given and name not in flags and at < len(args) and not re.match(r"-(?!\d|\.\d|$)", args[at]):
            value, given = args[at], True
            at += 1
        name = name.lstrip("-").replace("_", "-")
        if name.startswith("input."):
            key = name.removeprefix("input.")
            found.input[key], found.spans[key] = value if given else True, (start, at)
        else:
            found.options[name] = value
    return found


class SettingOption(click.Option):
    """An option of a setting: `--model.n-layer INT`. Its word is converted later, with all other layers."""

    def __init__(self, table: str, item: Setting, heading: str, note: str) -> None:
        name, self.heading = option_name(table, item.key), heading
        text = item.help + (f"  [{note}]" if note else "")
        variable = f"{table}__{item.name}"
        if item.type is bool:
            off = name[: -len(item.key)] + f"no-{item.key}"
            super().__init__([f"{name}/{off}", variable], default=None, help=text)
        else:
            names = [name, variable] + ([f"-{item.short}"] if item.short else [])
            super().__init__(names, metavar=_metavar(item.type), default=None, help=text)


class DatasetOption(click.Option):
    """`--input.NAME [VALUE]` on the help page; the first pass reads it."""

    def __init__(self, entry: Entry[DatasetSpec], note: str) -> None:
        self.heading, self.key = HEADINGS["input"], entry.name
        item = next((s for s in settings_of(entry.config).values() if s.name == entry.spec.value), None)
        shape: dict[str, Any] = {"is_flag": True}
        if item is not None:
            shape = {"metavar": _metavar(item.type)}
            if item.default is not MISSING:  # the value may be left out
                shape = {"metavar": f"[{_metavar(item.type)}]", "is_flag": False, "flag_value": ""}
        super().__init__(
            [f"--input.{entry.spec.name}", "input__"], default=None, help=entry.spec.summary + note, **shape
        )
        self.opts = [f"--input.{entry.name}"]  # click would split `dist/name` at the slash


def _metavar(type_: Any) -> str:
    choices = getattr(type_, "__args__", ())
    if choices and all(isinstance(choice, str) for choice in choices):
        return "|".join(choices)
    return {int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH"}.get(type_, "A,B,...")


class ComponentCommand(click.Command):
    """A command over components; its callback gets the resolved `job` beside its own parameters.

    flat: table → dataclass of the settings whose options have no dot. components: the tables that it uses.
    given: what a config file, checkpoint or run adds, found from the first pass; None where there is none.
    """

    def __init__(
        self,
        *args: Any,
        flat: Mapping[str, type],
        components: Sequence[str],
        given: Callable[[FirstPass], Layer | None],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.flat, self.components, self.given = flat, tuple(components), given
        self._static = list(self.params)
        self._overview: list[tuple[str, list[tuple[str, str]]]] = []

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Find the components, make their options, parse the line, plan the job."""
        ctx.token_normalize_func = lambda word: word.replace("_", "-")
        peek, helping = first_pass(args, self._flags()), bool(HELP & set(args))
        try:
            request, host, entries = self._look(peek)
            options = self._options(host, request, entries)
        except Exception:
            if not helping:
                raise
            # Help is shown whatever else is wrong with the line.
            request, entries = Request(), {}
            host = host_for(None)
            options = self._options(host, request, entries)
        self.params = [*self._static, *options]
        nameable = [t for t in self.components if t in ("model", "input") or self._has(NAME_OPTIONS[t])]
        if not takes_input(entries):
            nameable.remove("input")
        self._overview = overview(host, entries, nameable)
        if not helping and "input" in self.components:
            _check_input_keys(host, peek.input, entries.get("input"))
        words: dict[str, dict[str, Any]] = {}
        if "input" in entries and entries["input"].name in peek.input:
            # Its value was found in the first pass; click has no option whose value may be left out or negative.
            key = entries["input"].name
            words["input"] = {key: peek.input[key]}
            start, end = peek.spans[key]
            args = [*args[:start], *args[end:]]
        rest = super().parse_args(ctx, args)
        for table, values in self._words(ctx.params).items():
            words[table] = {**words.get(table, {}), **values}
        request = Request(request.names, request.file, request.preset, words)
        ctx.params["job"] = plan(host, request, self.flat, self.components)
        return rest

    def _look(self, peek: FirstPass) -> tuple[Request, PluginHost, dict[str, Entry[Any]]]:
        file = self.given(peek)
        host = host_for(file)
        names = {table: peek.options[option] for table, option in NAME_OPTIONS.items() if option in peek.options}
        names |= {"model": peek.model} if peek.model else {}
        request = Request(names, file, peek.options.get("preset"), {"input": peek.input} if peek.input else {})
        return request, host, choose(host, request, self.components)

    def _has(self, option: str) -> bool:
        return any(f"--{option}" in param.opts for param in self._static)

    def _flags(self) -> list[str]:
        own = [opt for p in self._static if getattr(p, "is_flag", False) for opt in (*p.opts, *p.secondary_opts)]
        settings = [(t, s) for t, config in self.flat.items() for s in settings_of(config).values() if s.type is bool]
        return own + [option_name(t, key) for t, s in settings for key in (s.key, f"no-{s.key}")]

    def _options(
        self, host: PluginHost, request: Request, entries: Mapping[str, Entry[Any]]
    ) -> list[click.Parameter]:
        resolved = settle(host, Request(request.names, request.file, request.preset), self.flat, entries)
        options: list[click.Parameter] = []
        for table, config in self.flat.items():
            options += _table_options(table, config, f"{table.capitalize()} settings", resolved)
        for table in self.components:
            if table in entries:
                entry = entries[table]
                if table == "input":
                    value = resolved.values[table].get(entry.spec.value, MISSING)
                    options.append(DatasetOption(entry, "" if value in (None, MISSING) else f"  [{_show(value)}]"))
                heading = HEADINGS[table] if table == "input" else f"{HEADINGS[table]} ({entry.name})"
                hidden = entry.spec.value if table == "input" else None
                options += _table_options(table, entry.config, heading, resolved, hidden)
        return options

    def _words(self, params: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Take the settings' words out of click's parameters: table → key → word."""
        words: dict[str, dict[str, Any]] = {}
        for param in self.params:
            if isinstance(param, DatasetOption):
                params.pop("input__", None)
            elif isinstance(param, SettingOption) and (value := params.pop(param.name, None)) is not None:
                table, _, name = str(param.name).partition("__")
                words.setdefault(table, {})[name.replace("_", "-")] = value
        return words

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options under their headings, then what could be named instead."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                groups.setdefault(getattr(param, "heading", "Options"), []).append(record)
        for heading, rows in [*groups.items(), *self._overview]:
            with formatter.section(heading):
                formatter.write_dl(rows)


def _table_options(
    table: str, config: type | None, heading: str, resolved: Resolved, value: str | None = None
) -> list[click.Parameter]:
    options: list[click.Parameter] = []
    for item in settings_of(config).values():
        if item.hidden or item.name == value or (table == "model" and item.name == "vocab_size"):
            continue
        default, origin = resolved.values[table][item.name], resolved.origins[table][item.name]
        note = "" if default is None or default is MISSING or default == "" else _show(default)
        note += f", {origin}" if note and origin != "default" else ""
        options.append(SettingOption(table, item, heading, note))
    return options


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def overview(
    host: PluginHost, entries: Mapping[str, Entry[Any]], components: Iterable[str]
) -> list[tuple[str, list[tuple[str, str]]]]:
    """What could be named: installed components of each kind that the line does not name, and the model's presets."""
    kinds: dict[str, tuple[str, type[Spec]]] = {
        "model": ("Models", ModelSpec),
        "input": ("Inputs", DatasetSpec),
        "eval": ("Evaluations (--on)", EvaluatorSpec),
        "tokenizer": ("Tokenizers (--tokenizer)", TokenizerSpec),
        "optimizer": ("Optimizers (--optimizer)", OptimizerSpec),
    }
    sections = []
    presets = entries["model"].spec.presets if "model" in entries else {}
    if presets:
        sections.append(("Presets (--preset)", [(name, _in_words(values)) for name, values in presets.items()]))
    for table in components:
        if table in kinds and (
            table not in entries or (table in ("tokenizer", "optimizer") and "model" not in entries)
        ):
            heading, kind = kinds[table]
            prefix = "--input." if table == "input" else ""
            rows = [(prefix + name, found[0].spec.summary) for name, found in host.entries(kind).items()]
            sections.append((heading, rows or [("none", "none is installed")]))
    return sections


def _in_words(values: Mapping[str, Any], table: str = "") -> str:
    """A preset's settings: "n_layer 2, n_embd 64, train.batch_size 16"."""
    return ", ".join(
        _in_words(value, f"{key}.") if isinstance(value, Mapping) else f"{table}{key} {value}"
        for key, value in values.items()
    )


def _check_input_keys(host: PluginHost, keys: Mapping[str, Any], entry: Entry[DatasetSpec] | None) -> None:
    """Raise for an `--input.KEY` that neither names the dataset nor is one of its fields."""
    if entry is None:
        return
    known = {entry.name, *settings_of(entry.config)}
    for key in keys:
        if key not in known:
            raise UserError(f"unknown option --input.{key}{did_you_mean(key, [*known, *host.entries(DatasetSpec)])}")
