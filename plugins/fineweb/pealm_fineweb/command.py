"""`pealm prepare fineweb` and `python scripts/fineweb.py`: the same options."""

import os
import re
import sys
import threading
from pathlib import Path
from typing import NoReturn

import click

from pealm_core import PealmError
from pealm_fineweb.config import DOWNLOAD, SHARD_SIZE, FinewebConfig


def read_part(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, int]:
    """`i/n` with 1 <= i <= n as (i, n)."""
    match = re.fullmatch(r"(\d+)/(\d+)", value)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise click.BadParameter(f"{value!r} is no part such as 1/4, 2/4, 3/4, 4/4", ctx, param)
    return int(match[1]), int(match[2])


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=FinewebConfig().path,
    show_default=True,
    help="The folder for the shards.",
)
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    help="A folder of parquet files with a column `text`, instead of the hub.",
)
@click.option(
    "--part",
    callback=read_part,
    metavar="I/N",
    default="1/1",
    show_default=True,
    help="Do the I-th of N parts: every N-th parquet file. Part 1 writes the val shard. Part 2 numbers its shards "
    "from 010000, part 3 from 020000: put the files of all parts into one folder.",
)
@click.option("--limit", type=click.IntRange(min=2), metavar="TOKENS", help="Stop after so many tokens of the part.")
@click.option(
    "--shard-size",
    type=click.IntRange(min=1),
    default=SHARD_SIZE,
    show_default=True,
    metavar="TOKENS",
    help="Tokens of a shard; with --limit a tenth of it at most.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Worker processes.  [a core each]")
def command(
    out: Path, source: Path | None, part: tuple[int, int], limit: int | None, shard_size: int, workers: int | None
) -> None:
    """Download FineWeb-Edu's sample of 10 billion tokens and write it as GPT-2 token shards.

    Takes 20 GB for the shards and 4.3 GB for the file at hand and the next one. Killed or cut off, the same command
    goes on where it was. The shards do not depend on the number of workers.
    """
    from pealm_fineweb.prepare import Plan, prepare

    prepare(Plan(out, source, *part, limit, shard_size, workers))


def main() -> NoReturn:
    """Run the command as a program of its own."""
    code = 0
    try:
        command.main(prog_name=Path(sys.argv[0]).name, standalone_mode=False)
    except PealmError as error:
        click.echo(f"fineweb: {error}", err=True)
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("fineweb: interrupted; the same command goes on where it was", err=True)
        code = 130
    if any(thread.name == DOWNLOAD for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # the usual way out may break off the download's native code with a crash
    sys.exit(code)
