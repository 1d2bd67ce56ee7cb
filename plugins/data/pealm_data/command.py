"""`pealm tokenize`: any input to token shards."""

import re
import shutil
from pathlib import Path
from typing import Any

import click

from pealm_core import ComponentCommand, Tokenizer, UserError

SHARD_SIZE = 100_000_000  # tokens


def _read_part(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, int]:
    """Return `i/n` with 1 <= i <= n as (i, n)."""
    match = re.fullmatch(r"(\d+)/(\d+)", value)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise click.BadParameter(f"{value!r} is not a part such as 1/4, 2/4, 3/4, 4/4", ctx, param)
    return int(match[1]), int(match[2])


@click.command(cls=ComponentCommand, flat={}, components=("tokenizer", "input"))
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="SHARDS", required=True, help="Folder for the shards."
)
@click.option(
    "--tokenizer", metavar="NAME", help="Tokenizer; if it learns its vocabulary, it does so from the input."
)
@click.option("--tokenizer-dir", metavar="DIR", help="Use the tokenizer of this run, checkpoint or folder of shards.")
@click.option("--config", metavar="FILE", help="TOML file with [tokenizer] and [input].")
@click.option("--workers", type=click.IntRange(min=1), help="Worker processes (default: one for each core).")
@click.option(
    "--part",
    callback=_read_part,
    metavar="I/N",
    default="1/1",
    show_default=True,
    help="Tokenize every N-th part of the input, from the I-th on, for one of N machines; their files belong in one "
    "folder.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=2),
    metavar="TOKENS",
    help="Training tokens at most (of this --part); at most a tenth for validation.",
)
@click.option(
    "--shard-size", type=click.IntRange(min=1), default=SHARD_SIZE, show_default=True, help="Tokens in a shard."
)
def tokenize(
    job: Any,
    out: Path,
    workers: int | None,
    part: tuple[int, int],
    limit: int | None,
    shard_size: int,
    **sources: Any,
) -> None:
    """Turn an input into token shards, which `pealm train MODEL --input.npy-shards SHARDS` reads.

    \b
    pealm tokenize --input.records docs.jsonl --tokenizer bpe --tokenizer.vocab-size 8000 --out shards
    pealm tokenize --input.text books/ --tokenizer-dir shards --out more-shards

    The shards contain the tokenizer, and do not depend on the number of workers. If killed, the same command resumes.
    Several machines may share the work: give each a different --part, and put all files into one folder.
    """
    if "tokenizer" not in job.entries:
        raise UserError("tokenize needs a tokenizer: --tokenizer NAME or --tokenizer-dir DIR")
    if not job.inputs:
        raise UserError("tokenize needs an input: --input.NAME, see --help")
    from pealm_core import available_cpus, make_datasets, make_tokenizer
    from pealm_data.engine import Plan, write_shards
    from pealm_data.folder import Folder

    if job.weights:
        raise UserError("tokenize takes one input; mix the shards of several in training, with [[input]]")
    (table,) = job.inputs
    dataset = make_datasets(job)[table]
    if not any(callable(getattr(dataset, name, None)) for name in ("documents", "split_parts")):
        raise UserError(f"--input.{job.entries[table].name} has no documents to tokenize")
    tables = job.tables()
    facts = {"tokenizer": tables["tokenizer"], "input": tables["input"]}
    plan = Plan(out, shard_size, limit, workers or available_cpus(), facts, part)

    def prepared(folder: Path) -> Tokenizer:
        if folder.exists():  # this command was interrupted, or another machine has made it
            return make_tokenizer(job, folder, dataset)
        made = make_tokenizer(job, None, dataset)
        aside = Folder(out, *part, facts).work / "tokenizer"
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            if callable(save := getattr(made, "save", None)):
                save(aside)
            aside.rename(folder)
        except OSError as error:
            if folder.exists():  # another machine has made it meanwhile
                return make_tokenizer(job, folder, dataset)
            raise UserError(f"{folder} can't be written: {error.strerror}; make room, and try again") from error
        return made

    write_shards(plan, dataset, prepared)
