"""Commands whose options depend on the components that they name.

Settings are click options like any other: those without a dot are known, and those with a dot (`--model.n-layer 6`)
are made for each line from its own words. What they mean is decided once the components are known.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pealm_core.config.choose_components import COMPONENTS, choose, kind_of, takes_input
from pealm_core.config.local_plugins import differences, load_files
from pealm_core.config.paths import printable
from pealm_core.config.toml_layers import Layer, Resolved, file_layer, option_name
from pealm_core.contract.errors import UserError
from pealm_core.contract.fields import Setting, settings_of, word
from pealm_core.contract.specs import DatasetSpec, ObserverSpec
from pealm_core.hardware.launch import launched
from pealm_core.plugins.loading import Entry, PluginHost

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

SETTINGS, GIVEN = "pealm.settings", "pealm.given"  # in a context's `meta`
Section = tuple[str, list[tuple[str, str]]]
HEADINGS = {"train": "Training", "sample": "Sampling", "eval": "Evaluation"}  # the others: their name
NAMED_BY = {"eval": "--on", "input": "--input.NAME", "observer": "--observer.NAME.KEY"}  # the others: as their table
METAVARS = {int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH", bool: "true|false"}


class SettingOption(click.Option):
    """The option of the setting `key` in `table`: a word, or True for `--input.NAME` alone. Not in click's help."""

    def __init__(self, table: str, key: str, *names: str, **kwargs: Any) -> None:
        super().__init__(["--setting"], expose_value=False, hidden=True, type=click.UNPROCESSED, **kwargs)
        self.table, self.key, self.name, self.opts = table, key, f"{table}.{key}", list(names)


class ComponentCommand(click.Command):
    """A command over components; its callback gets the resolved `job` instead of the components' names.

    flat: table → dataclass of the settings whose options have no dot. components: the tables that it uses; a
    parameter of the same name (`--tokenizer`) names the component. With an input, a parameter `tokenizer_dir` is a
    run, checkpoint or folder of shards whose tokenizer is used.
    """

    def __init__(self, *args: Any, flat: Mapping[str, type], components: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.flat, self.components = flat, tuple(components)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the declared parameters and the options of this line's settings."""
        return [*super().get_params(ctx), *ctx.meta.get(SETTINGS, [])]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the line and resolve the job."""
        ctx.token_normalize_func = lambda name: name.replace("_", "-")
        host = PluginHost.installed()
        given, words = self._given(ctx, args, host)
        if "config" in given and load_files(file_layer(Path(given["config"]))):
            host = PluginHost.installed()
            given, words = self._given(ctx, args, host)  # their datasets may have options without a value
        ctx.meta[GIVEN] = host, given, words
        rest = super().parse_args(ctx, args)  # shows the help page and exits
        if ctx.resilient_parsing:  # for the shell's completion
            return rest
        from pealm_core.checkpoints.saved_tokenizer import plan_with_tokenizer

        sources = _sources(host, given, words)
        folder = given.get("tokenizer_dir") if "input" in self.components else None
        job = plan_with_tokenizer(self.components, flat=self.flat, tokenizer_dir=folder, **sources)
        for line in differences(sources["file"], host, lost="train" in self.flat):
            if launched()[0] == 0:
                click.echo(f"pealm: {printable(line)}", err=True)
        own = {name: value for name, value in ctx.params.items() if name not in self.components}
        ctx.params = {**own, "job": job}
        return rest

    def _given(
        self, ctx: click.Context, args: list[str], host: PluginHost
    ) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
        """Return the line's values by parameter, and its settings by table."""
        ctx.meta[SETTINGS] = options = [*_options(self.flat, args, self.components, host)]
        parsed, _, _ = self.make_parser(ctx).parse_args(list(args))
        parsed = {name: ",".join(v) if isinstance(v, list) else v for name, v in parsed.items()}  # repeated
        given = {name: value for name, value in parsed.items() if isinstance(value, str)}
        words = {table: dict[str, Any](name=given[table]) for table in self.components if table in given}
        for option in options:
            if option.name in parsed:
                words.setdefault(option.table, {})[option.key] = given.get(option.name, True)
        return given, words

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings, then the components that can be named."""
        super().format_options(ctx, formatter)
        for heading, rows in self._sections(*ctx.meta[GIVEN]):
            with formatter.section(heading):
                formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        """Return the options of the help page that begin with a word."""
        from click.shell_completion import CompletionItem

        rows = [row for _, rows in self._sections(*ctx.meta[GIVEN]) for row in rows] if incomplete[:1] == "-" else []
        names = dict.fromkeys(name for row in rows for name in row[0].replace(",", "").split())
        more = [CompletionItem(name) for name in names if name.startswith(incomplete)]
        return [*super().shell_complete(ctx, incomplete), *more]

    def _sections(self, host: PluginHost, given: Mapping[str, str], words: Mapping[str, Any]) -> Iterator[Section]:
        """Yield settings, presets and what can be named, for the line, or for an empty one if the line is wrong."""
        names = {table: {"name": given[table]} for table in self.components if table in given}
        named = {table: values for table, values in words.items() if kind_of(table) in ("input", "observer")}
        for line in ((given, names | named), ({}, {})):
            with suppress(Exception):
                entries, layers = choose(components=self.components, **_sources(host, *line))
                resolved = Resolved(self.flat, entries, layers[:-1])  # without the line's own values
                break
        for table in (table for table in resolved.configs if not table.startswith("input.")):  # no mixture
            name = f" ({entries[table].name})" if table in entries and table == kind_of(table) else ""
            if rows := option_rows(table, entries.get(table), resolved):
                yield HEADINGS.get(table, table.capitalize()) + name, rows
        if "model" in entries and (presets := entries["model"].spec.presets):
            yield "Presets (--preset)", [(name, _preset(values)) for name, values in presets.items()]
        known = {"input", "observer", *(param.name for param in self.params)} - names.keys()
        for table in (table for table in self.components if table in known):
            if {table, "model"} <= entries.keys() or (table == "input" and not takes_input(entries)):
                continue
            kind, by = COMPONENTS[table], "" if table == "model" else f" ({NAMED_BY.get(table, f'--{table}')})"
            rows = [(name, providers[0].spec.summary) for name, providers in host.entries(kind).items()]
            if table == "observer":
                rows += [(f"--{o} {METAVARS.get(i.type, 'NAME')}", i.help) for o, _, i in _short_options(host)]
            yield kind.hook.removeprefix("pealm_").capitalize() + by, rows or [("none", "none is installed")]


def _options(
    flat: Mapping[str, type], args: Sequence[str], components: Sequence[str], host: PluginHost
) -> Iterator[SettingOption]:
    """Yield the options without a dot, and one for each word that looks like an option with a dot.

    Such a word may be the value of another option, where it does no harm. An option with a dot takes one value,
    whatever it looks like. `--input.NAME` takes none if its dataset's record has no value field, else the next word
    unless that begins with "-".
    """
    for table, config in flat.items():
        for item in settings_of(config).values():
            if not item.hidden:
                yield SettingOption(table, item.key, f"--{item.key}", *([f"-{item.short}"] if item.short else []))
    for option, table, item in _short_options(host) if "observer" in components else ():
        yield SettingOption(f"observer.{table}", item.key, f"--{option}", multiple=True)
    names = {arg.partition("=")[0].replace("_", "-") for arg in args if arg.startswith("--")}
    for name in sorted(names):
        table, dot, key = name.removeprefix("--").partition(".")
        if not dot or key == "name":
            continue
        if table == "observer" and "." in key:  # `--observer.NAME.KEY`
            observer, _, key = key.partition(".")
            yield SettingOption(f"{table}.{observer}", key, name)
        elif table == "input":
            entries = host.matches(DatasetSpec, key)
            bare = bool(entries) and not any(entry.spec.value for entry in entries)
            yield SettingOption(table, key, name, is_flag=bare, flag_value=True)
        else:
            yield SettingOption(table, key, name)


def _short_options(host: PluginHost) -> Iterator[tuple[str, str, Setting]]:
    """Yield the options of observers without a dot, such as `--track`, each with its observer and setting."""
    for name, (entry, *_) in host.entries(ObserverSpec).items():
        known = settings_of(entry.config) if entry.spec.options else {}
        yield from ((option, name, known[key]) for option, key in entry.spec.options.items())


def _sources(host: PluginHost, given: Mapping[str, str], words: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the settings come from: host, file, preset and words."""
    file = _config_file(given)
    if "depth" in given and "preset" in given:
        raise UserError("--depth and --preset exclude each other: give one of them")
    preset = f"depth-{given['depth']}" if "depth" in given else given.get("preset")
    return {"host": host, "file": file, "preset": preset, "words": words}


def _config_file(given: Mapping[str, str]) -> Layer | None:
    """Return the config of `--config`, of an existing run `--out`, or of the checkpoint `--ckpt`."""
    if "config" in given:
        return file_layer(Path(given["config"]))
    if not given.keys() & {"out", "ckpt"}:
        return None
    from pealm_core.checkpoints import folder as checkpoint

    if "out" in given and (saved := Path(given["out"]) / checkpoint.CONFIG).exists():
        return file_layer(saved)
    if "ckpt" not in given:
        return None
    folder = checkpoint.find(Path(given["ckpt"]))
    checkpoint.verify(folder, checkpoint.CONFIG)
    file = file_layer(folder / checkpoint.CONFIG)
    name, model = file.tables.get("model", {}).get("name"), given.get("model")
    if model and str(name).rpartition("/")[2] != model.rpartition("/")[2]:
        raise UserError(f"{folder} is a checkpoint of {name!r}, not of {model!r}")
    return file


def option_rows(table: str, entry: Entry[Any] | None, resolved: Resolved) -> list[tuple[str, str]]:
    """Return the options of a table, each with its help and value; `[INT]` is a value that may be left out."""
    rows: list[tuple[str, str]] = []
    dataset = entry if table == "input" else None
    if dataset is not None and dataset.spec.value is None:
        rows.append((f"--input.{dataset.name}", dataset.spec.summary))
    for key, item in resolved.settings[table].items():
        if item.hidden:
            continue
        value, origin = resolved.values[table][item.name], resolved.origins[table][item.name]
        choices = [choice for choice in getattr(item.type, "__args__", ()) if isinstance(choice, str)]
        metavar, help = "|".join(choices) or METAVARS.get(item.type, "A,B,..."), item.help
        if dataset is not None and key == dataset.name:
            metavar, help = metavar if item.default is MISSING else f"[{metavar}]", dataset.spec.summary
        short = f"-{item.short}, " if item.short else ""
        source = f", {origin}" if origin != "default" else ""
        note = "" if value in (None, MISSING, "", ()) else f"  [{word(value)}{source}]"
        rows.append((f"{short}{option_name(table, key)} {metavar}", help + note))
    return rows


def _preset(values: Mapping[str, Any], table: str = "") -> str:
    """Return a preset's settings in one line: "n_layer 2, n_embd 64, train.batch_size 16"."""
    return ", ".join(
        _preset(value, f"{key}.") if isinstance(value, Mapping) else f"{table}{key} {value}"
        for key, value in values.items()
    )
