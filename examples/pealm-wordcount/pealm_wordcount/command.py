"""`pealm wordcount FILE...`. Imported for its help page, so nothing heavy here."""

from collections import Counter
from pathlib import Path

import click

from pealm_wordcount.words import count


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, help="Words to list.")
def command(files: tuple[Path, ...], top: int) -> None:
    """Count the words of FILES and list the most frequent ones."""
    counts: Counter[str] = Counter()
    for path in files:
        counts.update(count(path))
    click.echo(f"{counts.total():,} words, {len(counts):,} different ones")
    for word, number in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:top]:
        click.echo(f"{number:>8,}  {word}")
