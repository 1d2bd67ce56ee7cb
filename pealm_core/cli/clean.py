"""`pealm clean`: remove runs, cached tokens and what interrupted saves left."""

import sys
import time
from pathlib import Path

import click

from pealm_core.checkpoints.cleaning import KINDS, Item, is_marked, list_runs, list_tokens, remove
from pealm_core.config.paths import MARK, shown
from pealm_core.contract.errors import PealmError, UserError

NOUNS = {"runs": "run", "tokens": "tokenized text", "leftovers": "leftover"}
UNITS = (("minute", 60, 120), ("hour", 3600, 48 * 60), ("day", 86400, float("inf")))  # name, seconds, up to minutes


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--only", multiple=True, type=click.Choice(KINDS), help="Only one kind of thing; may be repeated.")
@click.option("--model", help="Only runs of this model, and what interrupted saves left in them.")
@click.option(
    "--older-than", type=click.FloatRange(min=0), metavar="DAYS", help="Only what was last written so long ago."
)
@click.option("--keep-best", is_flag=True, help="Remove only the step checkpoints of each run; best/ stays.")
@click.option("--dry-run", is_flag=True, help="List, and remove nothing.")
@click.option("--yes", is_flag=True, help="Remove all that is listed without asking.")
def clean(
    folder: Path | None,
    only: tuple[str, ...],
    model: str | None,
    older_than: float | None,
    keep_best: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    """Remove the runs below FOLDER (default: runs), cached tokens, and what interrupted saves left.

    Lists what would be removed, asks, and removes it. Runs in use stay, and all files that pealm did not
    write.
    """
    failures: list[OSError] = []
    items, unmarked = list_runs(_root(folder), keep_best, failures)
    if model is None and {"tokens", "leftovers"} & {*(only or KINDS)}:
        tokens, unmarked_cache = list_tokens(failures)
        items, unmarked = items + tokens, unmarked + unmarked_cache
    wrong = [f"{shown(Path(e.filename))}: {e.strerror}" for e in failures if not isinstance(e, FileNotFoundError)]
    before = time.time() - 86400 * (older_than or 0)
    items = [item for item in items if item.kind in (only or KINDS) and model in (None, item.model)]
    items = [item for item in items if older_than is None or item.changed <= before]
    _show(items)
    if unmarked:
        more = f" and {len(unmarked) - 3:,} more" if len(unmarked) > 3 else ""
        click.echo(f"not touched, because they have no {MARK} file: {', '.join(map(shown, unmarked[:3]))}{more}")
    items = [item for item in items if item.paths]
    if not items:
        click.echo("nothing to remove")
    elif dry_run:
        click.echo(f"{_amount(items, keep_best)} would be removed; nothing was")
    else:
        removed = []
        for item in items if yes else _ask(items, keep_best):
            try:
                remove(item, keep_best)
                removed.append(item)
            except (OSError, PealmError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                place = f" ({shown(Path(error.filename))})" if isinstance(error, OSError) and error.filename else ""
                wrong.append(f"{shown(item.place)}: {reason}{place}")
        click.echo(f"removed: {_amount(removed, keep_best)}" if removed else "nothing was removed")
    if wrong:
        raise PealmError("\n".join(wrong))


def _root(folder: Path | None) -> Path:
    """Return the folder to look in, without links. Raises UserError."""
    root = folder or Path("runs")
    if folder is not None and not root.is_dir():
        raise UserError(f"{folder}: no such folder; `pealm clean` takes a run or a folder of runs")
    if root.is_symlink() and is_marked(root.resolve()):
        raise UserError(
            f"{root} is a link, which `pealm clean` does not follow; name the run itself: {root.resolve()}"
        )
    return root.resolve()


def _ask(items: list[Item], keep_best: bool) -> list[Item]:
    """Return what the user wants removed, kind by kind; nothing is removed before the last answer."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise UserError("nothing was removed: there is no terminal to ask on; --yes removes all that is listed")
    chosen: list[Item] = []
    for kind in KINDS:
        homes = {
            item.home for item in chosen if item.kind == "runs" and not keep_best
        }  # their leftovers go with them
        rest = [item for item in items if item.kind == kind and item.home not in homes]
        if rest and click.confirm(f"Remove {_amount(rest, keep_best)}?"):
            chosen += rest
    return chosen


def _amount(items: list[Item], keep_best: bool) -> str:
    """Such as `2 runs, 1 tokenized text (1.5 GB)`."""
    counts = {kind: sum(item.kind == kind for item in items) for kind in KINDS}
    words = [f"{count:,} {NOUNS[kind]}{'s' * (count > 1)}" for kind, count in counts.items() if count]
    what = "the step checkpoints of " if keep_best and counts["runs"] else ""
    return f"{what}{', '.join(words)} ({_bytes(sum(item.size for item in items))})"


def _show(items: list[Item]) -> None:
    """Print a table: runs by model, the oldest first; the token cache in one line; leftovers."""
    rows = []
    for item in sorted(items, key=lambda item: (KINDS.index(item.kind), item.model, item.changed)):
        if item.kind != "tokens":
            step = "" if item.step is None else f"{item.step:,}"
            rows.append((shown(item.place), item.model, _age(item.changed), _bytes(item.size), step, item.state))
    if tokens := [item for item in items if item.kind == "tokens"]:
        newest, size = max(item.changed for item in tokens), sum(item.size for item in tokens)
        rows.append(
            (shown(tokens[0].home), "", _age(newest), _bytes(size), "", _amount(tokens, False).partition(" (")[0])
        )
    rows = rows and [("WHERE", "MODEL", "AGE", "SIZE", "STEP", "STATE"), *rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join([*cells[:-1], row[-1]]).rstrip())


def _age(changed: float) -> str:
    """How long ago: `5 minutes`, `36 hours`, `12 days`; nothing for what stays."""
    seconds = max(0.0, time.time() - changed)
    if not changed or seconds < 60:
        return "now" if changed else ""
    name, length = next((name, length) for name, length, limit in UNITS if seconds < 60 * limit)
    return f"{seconds // length:,.0f} {name}" + "s" * (seconds >= 2 * length)


def _bytes(size: float) -> str:
    """Such as `840 B`, `1.5 GB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            break
        size /= 1000
    return f"{size:.1f} {unit}" if unit != "B" and size < 9.95 else f"{size:.0f} {unit}"
