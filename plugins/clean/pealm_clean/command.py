"""`pealm clean`: remove runs, cached tokens and what interrupted saves left."""

import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import click

from pealm_clean.cleaning import Item, list_runs, list_texts, remove
from pealm_clean.disk import MARK, is_own, shown
from pealm_core import PealmError, UserError


@click.command()
@click.argument("folder", default="runs", type=click.Path(path_type=Path))
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    metavar="DAYS",
    help="Only what was last written at least this many days ago.",
)
@click.option("--keep-best", is_flag=True, help="Remove only the step checkpoints of each run; best/ stays.")
@click.option("--dry-run", is_flag=True, help="List only; remove nothing.")
@click.option("--yes", is_flag=True, help="Remove without asking.")
def clean(folder: Path, older_than: float | None, keep_best: bool, dry_run: bool, yes: bool) -> None:
    """Remove the runs below FOLDER (default: runs), cached tokens, and the remains of interrupted saves.

    Lists what would be removed, asks, and removes it. Runs in use stay, and all files that pealm did not
    write.
    """
    if not folder.is_dir() and str(folder) != "runs":
        raise UserError(f"{folder}: no such folder; `pealm clean` takes a run or a folder of runs")
    root = folder.resolve()
    if folder.is_symlink() and is_own(root / MARK):
        raise UserError(f"{folder} is a link, which `pealm clean` does not follow; name the run itself: {root}")
    before = math.inf if older_than is None else time.time() - 86400 * older_than
    items = [*list_runs(root, keep_best), *([] if keep_best else list_texts())]
    items = sorted((i for i in items if i.changed <= before), key=lambda item: (item.kind, item.changed))
    rows = [("WHERE", "LAST WRITTEN", "SIZE", "STATE")]
    for item in items:
        date = time.strftime("%Y-%m-%d %H:%M", time.localtime(item.changed))
        rows.append((shown(item.place), date, f"{item.size / 1e6:,.1f} MB", item.state))
    _print_table(rows if items else [])
    items = [item for item in items if item.paths]
    if not items:
        click.echo("nothing to remove")
    elif dry_run:
        click.echo(f"{_amount(items)} would be removed; nothing was")
    else:
        _remove(items if yes else _ask(items))


def _ask(items: list[Item]) -> list[Item]:
    """Return what the user wants removed, kind by kind; nothing is removed before the last answer."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise UserError("nothing was removed: there is no terminal to ask on; --yes removes all that is listed")
    kinds = [[*group] for _, group in groupby(items, lambda item: item.kind)]
    return [item for kind in kinds if click.confirm(f"Remove {_amount(kind)}?") for item in kind]


def _remove(items: list[Item]) -> None:
    removed, failures = [], []
    for item in items:
        try:
            remove(item)
            removed.append(item)
        except (OSError, PealmError) as error:
            failures.append(f"{shown(item.place)}: {error}")
    click.echo(f"removed: {_amount(removed)}" if removed else "nothing was removed")
    if failures:
        raise PealmError("\n".join(failures))


def _amount(items: list[Item]) -> str:
    """Such as `2 runs, 1 tokenized text (1.5 MB)`."""
    counts = Counter(item.kind for item in items)
    words = [f"{count:,} {kind}{'s' * (count > 1)}" for kind, count in counts.items()]
    return f"{', '.join(words)} ({sum(item.size for item in items) / 1e6:,.1f} MB)"


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
