"""`pealm prepare fineweb`: a command line of `pealm tokenize` with build-nanogpt's layout and GPT-2's tokens."""

from importlib.util import find_spec

import click

from pealm_core import UserError
from pealm_fineweb.config import SAMPLES, FinewebConfig

NEEDED = ("pealm-data", "pealm-tiktoken")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--out", type=click.Path(), default=FinewebConfig().path, help="Folder for the shards.")
@click.option("--sample", type=click.Choice(SAMPLES), default=SAMPLES[0], help="Which sample.")
@click.option("--source", metavar="DIR", help="Folder of parquet files with a column `text`, instead of the hub.")
@click.option(
    "--part",
    metavar="I/N",
    default="1/1",
    help="Prepare every N-th parquet file, from the I-th on. Part 1 writes the val shard. Part 2 numbers its shards "
    "from 010000, part 3 from 020000: put the files of all parts into one folder.",
)
@click.option("--limit", type=click.IntRange(min=2), metavar="TOKENS", help="Stop after so many tokens of the part.")
@click.option(
    "--shard-size",
    type=click.IntRange(min=1),
    default=100_000_000,
    help="Tokens of a shard; at most a tenth of --limit.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Worker processes (default: one for each core).")
def command(sample: str, source: str | None, limit: int | None, shard_size: int, **others: object) -> None:
    """Download FineWeb-Edu's sample of 10 billion tokens and write it as GPT-2 token shards.

    Takes 20 GB for the shards and 4.3 GB for the current file and the next one. If killed, the same command resumes.
    The shards do not depend on the number of workers.
    """
    if missing := [name for name in NEEDED if find_spec(name.replace("-", "_")) is None]:
        raise UserError(f"pealm prepare fineweb needs {' and '.join(missing)}; try: pip install {' '.join(missing)}")
    if limit is not None:  # so that a trial has more than a val shard
        shard_size = min(shard_size, max(1, limit // 10))
    words = ["--input.fineweb-edu", sample, "--input.layout", "build-nanogpt", "--tokenizer", "tiktoken"]
    options = {"input.source": source, "limit": limit, "shard-size": shard_size, **others}
    for name, value in options.items():
        words += [f"--{name}", str(value)] if value is not None else []
    ctx = click.get_current_context()
    group = ctx.find_root().command
    tokenize = group.get_command(ctx, "tokenize") if isinstance(group, click.Group) else None
    assert tokenize is not None
    with tokenize.make_context("pealm tokenize", words) as context:
        tokenize.invoke(context)
