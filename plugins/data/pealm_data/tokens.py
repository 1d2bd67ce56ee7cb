"""`pealm tokens`: how a tokenizer cuts a text, and how several compare."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from pealm_core import ComponentCommand, Tokenizer, UserError
from pealm_data.terminal import cells, echo, pad, printable

COLOURS = ("cyan", "yellow", "green", "magenta", "blue")
SHOWN = 1000  # tokens


class TokensCommand(ComponentCommand):
    """`--compare` takes several words, up to the next option; each of them is planned like a line of its own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat `--compare` before each of its words, and keep what names the input."""
        words: list[str] = []
        comparing = False
        for word in args:
            comparing = word == "--compare" or (comparing and not word.startswith("-"))
            if comparing and word != "--compare":
                words += ["--compare", word]
            elif not comparing:
                words.append(word)
        ctx.meta["pealm_data.input"] = _input_words(words)
        return super().parse_args(ctx, words)


def _input_words(words: Sequence[str]) -> list[str]:
    """Return the options of the input, with their values, if they have any."""
    kept: list[str] = []
    for number, word in enumerate(words):
        before = words[number - 1] if number else ""
        value = before.startswith("--input.") and "=" not in before and not word.startswith("-")
        if value or word.startswith("--input."):
            kept.append(word)
    return kept


@click.command(cls=TokensCommand, flat={}, components=("tokenizer", "input"))
@click.argument("text", required=False)
@click.option("--file", type=click.Path(path_type=Path), metavar="FILE", help="Text to tokenize, instead of TEXT.")
@click.option("--tokenizer", metavar="NAME", help="Tokenizer; if it learns its vocabulary, --input.NAME is needed.")
@click.option("--tokenizer-dir", metavar="DIR", help="Use the tokenizer of this run, checkpoint or folder of shards.")
@click.option(
    "--compare",
    metavar="NAME ...",
    multiple=True,
    help="Bytes per token of these: names of tokenizers, with settings as in bpe,vocab-size=2000, or folders.",
)
@click.option("--vocab", is_flag=True, help="List the vocabulary.")
def tokens(job: Any, text: str | None, file: Path | None, compare: tuple[str, ...], vocab: bool, **_: Any) -> None:
    """Show the tokens of TEXT with their ids.

    \b
    pealm tokens "a rose is a rose" --tokenizer tiktoken
    pealm tokens --file book.txt --tokenizer-dir shards --compare tiktoken tiktoken,encoding=cl100k_base runs/gpt2

    A line break is shown as ⏎, a tab as ⇥, a space as ·, and a part of a character as �.
    """
    named = "tokenizer" in job.entries
    if not named and (vocab or not compare):
        raise UserError("tokens needs a tokenizer: --tokenizer NAME or --tokenizer-dir DIR")
    first = {job.entries["tokenizer"].name: _fitted(job)} if named else {}
    if vocab:
        for tokenizer in first.values():
            for number in range(tokenizer.vocab_size):
                click.echo(f"{number}\t{tokenizer.decode([number])!r}")
        return
    text = _read(file) if file else text
    if text is None:
        raise UserError("tokens needs a text: pealm tokens TEXT, or --file FILE; TEXT comes before --compare")
    size = len(text.encode("utf-8", "surrogatepass"))
    for name, tokenizer in first.items():
        ids = _encode(tokenizer, text, name)
        if not compare:
            for line in rows(tokenizer, ids[:SHOWN], shutil.get_terminal_size().columns):
                echo(line)
            if len(ids) > SHOWN:
                click.echo(f"... and {len(ids) - SHOWN:,} more")
            count = f"{len(ids):,} tokens" if len(ids) != 1 else "1 token"
            click.echo(f"{name}: {count}, {size / max(1, len(ids)):.2f} bytes per token, of {tokenizer.vocab_size:,}")
    if compare:
        context = click.get_current_context()
        several = {**first, **{name: _other(context, name) for name in compare}}
        _table(text, size, several)


def rows(tokenizer: Tokenizer, ids: Sequence[int], width: int) -> Iterator[str]:
    """Yield lines of pieces, in colour, and below each line the ids of its pieces."""
    pieces, numbers, used = "", "", 0
    for place, token in enumerate(ids):
        piece = printable(tokenizer.decode([token]).translate({10: "⏎", 9: "⇥", 32: "·"}))
        size = max(cells(piece), len(str(token)))
        if used and used + 1 + size > width:
            yield pieces
            yield numbers
            yield ""
            pieces, numbers, used = "", "", 0
        space = " " if used else ""
        coloured = click.style(piece, fg="black", bg=COLOURS[place % len(COLOURS)]) if piece else ""
        last = place == len(ids) - 1
        pieces += space + coloured + ("" if last else " " * (size - cells(piece)))
        numbers += space + (str(token) if last else pad(str(token), size))
        used += len(space) + size
    if used:
        yield pieces
        yield numbers
        yield ""


def _table(text: str, size: int, tokenizers: dict[str, Tokenizer]) -> None:
    """Print a row for each tokenizer."""
    table = [("tokenizer", "tokens", "bytes per token", "vocabulary")]
    for name, tokenizer in tokenizers.items():
        count = len(_encode(tokenizer, text, name))
        table.append((printable(name), f"{count:,}", f"{size / max(1, count):.2f}", f"{tokenizer.vocab_size:,}"))
    widths = [max(cells(row[column]) for row in table) for column in range(4)]
    for name, *values in table:
        cut = "  ".join(value.rjust(width) for value, width in zip(values, widths[1:], strict=True))
        click.echo(f"{pad(name, widths[0])}  {cut}")


def _fitted(job: Any) -> Tokenizer:
    from pealm_core import make_datasets, make_tokenizer

    tokenizer = make_tokenizer(job, None, *make_datasets(job).values())
    if not tokenizer.vocab_size:
        raise UserError(f"{job.entries['tokenizer'].name} learns its vocabulary: --tokenizer-dir DIR or --input.NAME")
    return tokenizer


def _other(context: click.Context, name: str) -> Tokenizer:
    """Return a tokenizer to compare with: a folder's, or `NAME,KEY=VALUE,...` made as `--tokenizer NAME` makes it."""
    from pealm_core import load_saved_tokenizer

    if Path(name).exists():
        return load_saved_tokenizer(Path(name))
    kind, *settings = name.split(",")
    if bad := [setting for setting in settings if "=" not in setting]:
        raise UserError(f"--compare {name}: {bad[0]!r} is not KEY=VALUE, as in bpe,vocab-size=2000")
    words = [word for key, _, value in (s.partition("=") for s in settings) for word in (f"--tokenizer.{key}", value)]
    line = [*context.meta["pealm_data.input"], "--tokenizer", kind, *words]
    return _fitted(context.command.make_context("tokens", line, parent=context.parent).params["job"])


def _encode(tokenizer: Tokenizer, text: str, name: str) -> list[int]:
    try:
        return [int(token) for token in tokenizer.encode(text)]
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path} can't be read: {reason}") from error
