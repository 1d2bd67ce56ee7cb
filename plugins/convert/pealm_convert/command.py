"""`pealm convert`: write checkpoints with weights only, and convert to and from foreign formats."""

from collections.abc import Callable
from pathlib import Path

import click

from pealm_core import Entry, FormatSpec, PluginError, PluginHost, UserError

BASE = "Base weights of an adapter, if they have moved."


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--dtype",
    metavar="TYPE",
    help="Precision of the weights (default: unchanged): fp32, bf16 or fp16; with --to, of the format: q8_0 of gguf.",
)
@click.option("--base", type=click.Path(path_type=Path), metavar="PATH", help=BASE)
@click.option("--to", "to_", metavar="FORMAT", help="Foreign format to write, for instance hf.")
@click.option("--from", "from_", metavar="FORMAT", help="Foreign format to read.")
def convert(
    source: Path, target: Path, dtype: str | None, base: Path | None, to_: str | None, from_: str | None
) -> None:
    """Write the weights of SOURCE, a run or checkpoint, to TARGET, for sampling and sharing.

    An adapter is merged into the weights.

    \b
    pealm convert runs/gpt2/2026-11-22_10-15-30 weights/mine --dtype bf16
    pealm convert weights/mine folder --to hf
    pealm convert weights/mine model.gguf --to gguf --dtype q8_0
    pealm convert folder weights/theirs --from hf
    """
    if from_ and (dtype or to_):
        raise UserError("--from excludes --to and --dtype: give one of them")
    if base is not None and from_:
        raise UserError("--base: a folder in a foreign format has no adapter of ours; leave it out")
    if from_:
        if not source.exists():
            raise UserError(f"{source}: no such file or folder")

        def detected(entry: Entry[FormatSpec]) -> bool:
            return entry.spec.detect is None or bool(entry.load("detect")(source))

        return _foreign(source, target, _choose(from_, "importer", detected, str(source)), "importer")
    from pealm_convert.weights import DTYPES, has_only, merged, to_weights
    from pealm_core import read_checkpoint

    saved = read_checkpoint(source, base=base)
    if to_:
        model = str(saved.config.get("model", {}).get("name")).rpartition("/")[2]
        entry = _choose(to_, "exporter", lambda e: model in (e.spec.families or [model]), f"{source}, a {model}")
        if dtype not in (None, *entry.spec.dtypes):
            raise UserError(f"--dtype {dtype}: format {to_} has {', '.join(entry.spec.dtypes) or 'no such option'}")
        with merged(saved) as plain:
            return _foreign(plain, target, entry, "exporter", **({"dtype": dtype} if entry.spec.dtypes else {}))
    if dtype not in (None, *DTYPES):
        raise UserError(f"--dtype {dtype}: unknown; use {', '.join(DTYPES)}")
    if saved.path == source and has_only(saved, dtype):
        raise UserError(f"{source} has only weights already{f', in {dtype}' if dtype else ''}; nothing was written")
    before, after = to_weights(saved, target, dtype)
    was = "the adapter is part of them" if saved.adapter else f"before: {before / 1e6:,.1f} MB"
    click.echo(f"wrote {_shown(target)}: {after / 1e6:,.1f} MB of weights ({was})")


def _foreign(source: Path, target: Path, entry: Entry[FormatSpec], part: str, **options: str | None) -> None:
    try:
        entry.load(part)(source, target, **options)
    except ValueError as error:
        raise UserError(f"format {entry.name}: {error}") from error
    if not target.exists():
        raise PluginError(f"{entry.plugin.dist}: {part} of format {entry.name!r} wrote nothing")
    click.echo(f"wrote {_shown(target)}")


def _choose(name: str, part: str, fits: Callable[[Entry[FormatSpec]], bool], what: str) -> Entry[FormatSpec]:
    """Return the format of this name; of several, the one that fits. Raises UserError."""
    host, bare = PluginHost.installed(), name.rpartition("/")[2]
    entries = host.matches(FormatSpec, name) or [host.find(FormatSpec, name)]  # the latter for its error
    known = [entry for entry in entries if getattr(entry.spec, part) is not None]
    if not known:
        raise UserError(f"format {name!r} can't be {'written' if part == 'exporter' else 'read'}")
    fitting = known if len(known) == 1 else [entry for entry in known if fits(entry)]
    if len(fitting) == 1:
        return fitting[0]
    ways = " or ".join(
        f"{e.plugin.dist}/{bare} ({', '.join(e.spec.families) or 'any model'})" for e in fitting or known
    )
    if fitting:
        raise UserError(f"{len(fitting)} formats {bare!r} fit {what}; say which: {ways}")
    raise UserError(f"no format {bare!r} fits {what}: there is {ways}")


def _shown(path: Path) -> str:
    """Return a path as the user would write it, in one line that can't control a terminal."""
    text = str(path.relative_to(Path.cwd()) if Path.cwd() in path.parents else path)
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
