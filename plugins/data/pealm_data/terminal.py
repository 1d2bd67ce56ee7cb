"""Lines for a terminal: their width, colours where there are any, and text without control characters."""

import os

import click


def printable(text: str) -> str:
    """Return a text without characters that would control a terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def cells(text: str) -> int:
    """Return how many columns a text takes."""
    from rich.cells import cell_len

    return cell_len(text)


def pad(text: str, width: int) -> str:
    """Return a text with spaces up to a width.

    >>> pad("漢字", 5)
    '漢字 '
    """
    return text + " " * (width - cells(text))


def cut(text: str, width: int) -> str:
    """Return what of a text fits into a width, with an ellipsis if that is not all.

    >>> cut("漢字と仮名", 6)
    '漢字…'
    """
    if cells(text) <= width:
        return text
    kept, used = "", 1
    for char in text:
        used += cells(char)
        if used > width:
            break
        kept += char
    return kept + "…"


def echo(line: str) -> None:
    """Print a line, with colours unless they go to a file or NO_COLOR is set (https://no-color.org)."""
    click.echo(line, color=False if os.environ.get("NO_COLOR") else None)
