"""`pealm tokens`: how a tokenizer cuts a text."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from pealm_core import ComponentCommand, Tokenizer, UserError

COLOURS = ("cyan", "yellow", "green", "magenta", "blue")


@click.command(cls=ComponentCommand, flat={}, components=("tokenizer", "input"))
@click.argument("text", required=False)
@click.option("--file", type=click.Path(path_type=Path), metavar="FILE", help="Text to cut, instead of TEXT.")
@click.option("--tokenizer", metavar="NAME", help="Tokenizer; one that learns needs --input.NAME to learn from.")
@click.option("--tokenizer-dir", metavar="DIR", help="Use the tokenizer of this run, checkpoint or folder of shards.")
@click.option(
    "--compare", metavar="DIR", multiple=True, help="Bytes per token with this one's tokenizer; repeatable."
)
@click.option("--vocab", is_flag=True, help="List the vocabulary.")
def tokens(job: Any, text: str | None, file: Path | None, compare: tuple[str, ...], vocab: bool, **_: Any) -> None:
    """Show the tokens of TEXT with their ids.

    \b
    pealm tokens "a rose is a rose" --tokenizer tiktoken
    pealm tokens --file book.txt --tokenizer-dir shards --compare runs/gpt2/2026-11-22_10-15-30
    """
    from pealm_core import load_saved_tokenizer, make_datasets, make_tokenizer

    if "tokenizer" not in job.entries:
        raise UserError("tokens needs a tokenizer: --tokenizer NAME or --tokenizer-dir DIR")
    tokenizer = make_tokenizer(job, None, *make_datasets(job).values())
    if not tokenizer.vocab_size:
        raise UserError(f"{job.entries['tokenizer'].name} learns its vocabulary: --tokenizer-dir DIR or --input.NAME")
    if vocab:
        for number in range(tokenizer.vocab_size):
            click.echo(f"{number}\t{tokenizer.decode([number])!r}")
        return
    text = _read(file) if file else text
    if text is None:
        raise UserError("tokens needs a text: pealm tokens TEXT, or --file FILE")
    ids = _encode(tokenizer, text)
    if not compare:
        for line in pieces(tokenizer, ids):
            click.echo(line)
    named = [(job.entries["tokenizer"].name, tokenizer)] + [
        (name, load_saved_tokenizer(Path(name))) for name in compare
    ]
    for name, other in named:
        count, size = len(_encode(other, text)), len(text.encode("utf-8", "surrogatepass"))
        click.echo(f"{name}: {count:,} tokens, {size / max(1, count):.2f} bytes per token, of {other.vocab_size:,}")


def pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> Iterator[str]:
    """Yield two lines: the pieces in colour, and their ids."""
    shown = [tokenizer.decode([token]) for token in ids]
    yield "".join(click.style(piece, fg="black", bg=COLOURS[i % len(COLOURS)]) for i, piece in enumerate(shown))
    yield " ".join(f"{piece!r}:{token}" for piece, token in zip(shown, ids, strict=True))


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    try:
        return [int(token) for token in tokenizer.encode(text)]
    except ValueError as error:
        raise UserError(str(error)) from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read: {error}") from error
