"""Commands whose options depend on the components that they name."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.cli.help import Section, sections
from pealm_core.cli.words import split
from pealm_core.config.choice import choose
from pealm_core.config.job import plan, settle
from pealm_core.config.layers import Layer, file_layer
from pealm_core.contract.errors import UserError
from pealm_core.plugins.host import PluginHost

NAMED_BY = {"model": "model", "tokenizer": "tokenizer", "optimizer": "optimizer", "eval": "on"}  # table → parameter


class ComponentCommand(click.Command):
    """A command over components; its callback gets the resolved `job` beside its own parameters.

    flat: table → dataclass of the settings whose options have no dot. components: the tables that it uses.
    config_file: the config file that the command's parameters name, None for none.
    """

    def __init__(
        self,
        *args: Any,
        flat: Mapping[str, type],
        components: Sequence[str],
        config_file: Callable[[Mapping[str, Any]], Layer | None],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.flat, self.components, self.config_file = flat, tuple(components), config_file
        self._sections: list[Section] = []

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the settings out of the line, let click parse the rest, and resolve the job."""
        ctx.token_normalize_func = lambda word: word.replace("_", "-")
        host = PluginHost.installed()
        line = split(args, self.params, self.flat, host)
        if line.help:
            self._sections = self._help(ctx, host, line.static, line.words)
        elif line.mistake is not None:
            if isinstance(line.mistake, click.UsageError):
                line.mistake.ctx = ctx
            raise line.mistake
        rest = super().parse_args(ctx, line.static)  # shows the help page and exits
        ctx.params["job"] = plan(self.components, flat=self.flat, **self._sources(host, ctx.params, line.words))
        return rest

    def _sources(
        self, host: PluginHost, params: Mapping[str, Any], words: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Return what the settings come from: the host, file, preset and words."""
        file = self.config_file(params)
        names = {table: {"name": params[name]} for table, name in NAMED_BY.items() if params.get(name)}
        return {
            "host": host,
            "file": file,
            "preset": params.get("preset"),
            "words": {table: {**words.get(table, {}), **names.get(table, {})} for table in {**names, **words}},
        }

    def _help(
        self, ctx: click.Context, host: PluginHost, static: list[str], words: Mapping[str, Mapping[str, Any]]
    ) -> list[Section]:
        """Return the help page's sections for the line, or for an empty one if something in the line is wrong."""
        try:
            parsed, _, _ = self.make_parser(ctx).parse_args(list(static))
            params = {name: word for name, word in parsed.items() if isinstance(word, str)}
            sources = self._sources(host, params, {"input": words.get("input", {})})
            entries, layers = choose(components=self.components, **sources)
            resolved = settle(self.flat, entries, layers[:-1])  # without the line's own values
        except Exception:
            entries, layers = choose(host, self.components)
            resolved = settle(self.flat, entries, layers)
        options = {option for param in self.params for option in param.opts}
        tables = [t for t in self.components if t in ("model", "input") or f"--{NAMED_BY[t]}" in options]
        return sections(host, entries, resolved, tables)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings, then the components that can be named."""
        records = (param.get_help_record(ctx) for param in self.get_params(ctx) if isinstance(param, click.Option))
        own = ("Options", [record for record in records if record is not None])
        for heading, rows in [own, *self._sections]:
            with formatter.section(heading):
                formatter.write_dl(rows)


def checkpoint_config(params: Mapping[str, Any]) -> Layer | None:
    """Return the config of `--ckpt`. Raises UserError if that is not a checkpoint, or one of another model."""
    if not params.get("ckpt"):
        return None
    folder = checkpoint.find(Path(params["ckpt"]))
    checkpoint.verify(folder, checkpoint.CONFIG)
    file = file_layer(folder / checkpoint.CONFIG)
    name, model = file.tables.get("model", {}).get("name"), params.get("model")
    if model and name != model and str(name).rpartition("/")[2] != model.rpartition("/")[2]:
        raise UserError(f"{folder} is a checkpoint of {name!r}, not of {model!r}")
    return file
