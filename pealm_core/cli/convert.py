"""`pealm convert`: write checkpoints with weights only, and convert to and from foreign formats."""

from pathlib import Path

import click

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.cli.sample import BASE
from pealm_core.config.paths import shown
from pealm_core.config.toml_layers import file_layer
from pealm_core.contract.errors import PluginError, UserError
from pealm_core.contract.specs import FormatSpec
from pealm_core.plugins.host import Entry, PluginHost


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

    An adapter is merged into them.

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
    from pealm_core.checkpoints.api import check_weights, merged, to_weights

    if to_:
        with merged(source, base) as plain:
            check_weights(plain)
            _foreign(plain, target, to_, "exporter", "written", dtype)
    elif from_:
        _foreign(source, target, from_, "importer", "read")
    else:
        click.echo(to_weights(source, target, dtype, base))


def _foreign(source: Path, target: Path, name: str, part: str, verb: str, dtype: str | None = None) -> None:
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    entry = _choose(source, name, part, verb)
    dtypes = entry.spec.dtypes if part == "exporter" else ()
    if dtype not in (None, *dtypes):
        raise UserError(f"--dtype {dtype}: format {name} has {', '.join(dtypes) or 'no such option'}")
    try:
        entry.load(part)(source, target, **({"dtype": dtype} if dtypes else {}))
    except ValueError as error:
        raise UserError(f"format {name}: {error}") from error
    if not target.exists():
        raise PluginError(f"{entry.plugin.dist}: {part} of format {name!r} wrote nothing")
    click.echo(f"wrote {shown(target)}")


def _choose(source: Path, name: str, part: str, verb: str) -> Entry[FormatSpec]:
    """Return the format of this name; of several, the one for the checkpoint's model or the folder's content."""
    host, bare = PluginHost.installed(), name.rpartition("/")[2]
    entries = host.matches(FormatSpec, name) or [host.find(FormatSpec, name)]  # the latter for its error
    known = [entry for entry in entries if getattr(entry.spec, part) is not None]
    if not known:
        raise UserError(f"format {name!r} can't be {verb}")
    if len(known) == 1:
        return known[0]
    if part == "importer":
        what = str(source)
        fitting = [entry for entry in known if entry.spec.detect is None or entry.load("detect")(source)]
    else:
        config = file_layer(checkpoint.find(source) / checkpoint.CONFIG).tables
        model = str(config.get("model", {}).get("name")).rpartition("/")[2]
        what = f"{source}, a {model}"
        fitting = [entry for entry in known if not entry.spec.families or model in entry.spec.families]
    if len(fitting) == 1:
        return fitting[0]
    ways = " or ".join(
        f"{entry.plugin.dist}/{bare} ({', '.join(entry.spec.families) or 'any model'})" for entry in fitting or known
    )
    if fitting:
        raise UserError(f"{len(fitting)} formats {bare!r} fit {what}; say which: {ways}")
    raise UserError(f"no format {bare!r} fits {what}: there is {ways}")
