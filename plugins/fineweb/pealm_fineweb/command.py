"""`pealm prepare fineweb`: a command line of `pealm tokenize` with build-nanogpt's layout and GPT-2's tokens."""

from importlib.util import find_spec
from pathlib import Path

import click

from pealm_core import UserError
from pealm_fineweb.config import SAMPLES, FinewebConfig

SHARD_SIZE = 100_000_000  # tokens
NEEDED = ("pealm-data", "pealm-tiktoken")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=FinewebConfig().path,
    show_default=True,
    help="Folder for the shards.",
)
@click.option("--sample", type=click.Choice(SAMPLES), default=SAMPLES[0], show_default=True, help="Which sample.")
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    help="Folder of parquet files with a column `text`, instead of the hub.",
)
@click.option(
    "--part",
    metavar="I/N",
    default="1/1",
    show_default=True,
    help="Prepare every N-th parquet file, from the I-th on. Part 1 writes the val shard. Part 2 numbers its shards "
    "from 010000, part 3 from 020000: put the files of all parts into one folder.",
)
@click.option("--limit", type=click.IntRange(min=2), metavar="TOKENS", help="Stop after so many tokens of the part.")
@click.option(
    "--shard-size",
    type=click.IntRange(min=1),
    default=SHARD_SIZE,
    show_default=True,
    metavar="TOKENS",
    help="Tokens of a shard; with --limit at most a tenth of it.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Worker processes (default: one for each core).")
@click.pass_context
def command(
    ctx: click.Context,
    out: Path,
    sample: str,
    source: Path | None,
    part: str,
    limit: int | None,
    shard_size: int,
    workers: int | None,
) -> None:
    """Download FineWeb-Edu's sample of 10 billion tokens and write it as GPT-2 token shards.

    Takes 20 GB for the shards and 4.3 GB for the current file and the next one. If killed, the same command resumes.
    The shards do not depend on the number of workers.
    """
    if missing := [name for name in NEEDED if find_spec(name.replace("-", "_")) is None]:
        raise UserError(f"pealm prepare fineweb needs {' and '.join(missing)}; try: pip install {' '.join(missing)}")
    if limit is not None:  # so that a trial has more than a val shard
        shard_size = min(shard_size, max(1, limit // 10))
    words = ["--input.fineweb-edu", sample, "--input.layout", "build-nanogpt", "--tokenizer", "tiktoken"]
    options: dict[str, object] = {"--input.source": source, "--workers": workers, "--limit": limit}
    options |= {"--out": out, "--part": part, "--shard-size": shard_size}
    words += [str(word) for option in options.items() if option[1] is not None for word in option]
    group = ctx.find_root().command
    assert isinstance(group, click.Group)
    tokenize = group.get_command(ctx, "tokenize")
    assert tokenize is not None
    with tokenize.make_context("pealm tokenize", words) as context:
        tokenize.invoke(context)
