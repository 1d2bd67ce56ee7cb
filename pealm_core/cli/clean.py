"""`pealm clean`: remove runs, cached tokens and what interrupted saves left."""

import sys
import time
from pathlib import Path

import click

from pealm_core.checkpoints.cleaning import KINDS, Found, Item, find_runs, find_tokens, is_marked, remove, shown
from pealm_core.config.paths import MARK
from pealm_core.contract.errors import PealmError, UserError


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--only", multiple=True, type=click.Choice(KINDS), help="One kind of thing; may be given again.")
@click.option("--model", help="Only runs of this model, and what interrupted saves left in them.")
@click.option(
    "--older-than", type=click.FloatRange(min=0), metavar="DAYS", help="Only what was last written so long ago."
)
@click.option("--keep-best", is_flag=True, help="Of each run remove only the checkpoints to go on from; best/ stays.")
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

    It lists what would go, asks, and removes. Runs in use stay, and so does all that pealm did not make.
    """
    kinds = only or KINDS
    found = Found(_root(folder))
    find_runs(found, keep_best)
    if model is None and {"tokens", "leftovers"} & {*kinds}:
        find_tokens(found)
    before = time.time() - 86400 * (older_than or 0)
    listed = [
        item
        for item in found.items
        if item.kind in kinds and model in (None, item.model) and (older_than is None or item.changed <= before)
    ]
    _show(found, listed)
    able = [item for item in listed if item.goes]
    if not able:
        click.echo("nothing to remove")
    elif dry_run:
        click.echo(f"{_amount(able, keep_best)} would go; nothing was removed")
    else:
        _remove_all(found, able if yes else _ask(able, keep_best), keep_best)
    if found.failures:
        raise PealmError("\n".join(found.failures))


def _root(folder: Path | None) -> Path:
    """The folder to look in, without links. Raises UserError."""
    root = folder or Path("runs")
    if folder is not None and not root.is_dir():
        raise UserError(f"{folder}: no such folder; `pealm clean` takes a run or a folder of runs")
    if root.is_symlink() and is_marked(root):
        raise UserError(
            f"{root} is a link, which `pealm clean` does not follow; name the run itself: {root.resolve()}"
        )
    return root.resolve()


def _remove_all(found: Found, items: list[Item], keep_best: bool) -> None:
    gone = []
    for item in sorted(items, key=lambda item: KINDS.index(item.kind), reverse=True):  # leftovers, then their runs
        try:
            remove(item, keep_best)
            gone.append(item)
        except (OSError, PealmError) as error:
            found.fail(item.home if item.kind == "runs" else item.goes[0], error)
    click.echo(f"removed: {_amount(gone, keep_best)}" if gone else "nothing was removed")


def _ask(items: list[Item], keep_best: bool) -> list[Item]:
    """What the user wants to go, kind by kind; nothing is removed before the last answer."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise UserError("nothing was removed: there is no terminal to ask on; --yes removes all that is listed")
    chosen: list[Item] = []
    for kind in KINDS:
        covered = [path for item in chosen for path in item.goes]
        mine = [item for item in items if item.kind == kind]
        along = [item for item in mine if any(path in item.goes[0].parents for path in covered)]
        rest = [item for item in mine if item not in along]
        chosen += along  # they go with their run
        if rest and click.confirm(f"Remove {_amount(rest, keep_best)}?"):
            chosen += rest
    return chosen


def _amount(items: list[Item], keep_best: bool) -> str:
    """Such as `2 runs, 1 tokenized text (1.5 GB)`."""
    nouns = {"runs": "run", "tokens": "tokenized text", "leftovers": "leftover"}
    counts = {kind: sum(item.kind == kind for item in items) for kind in KINDS}
    words = [f"{count:,} {nouns[kind]}{'s' * (count > 1)}" for kind, count in counts.items() if count]
    what = "the step checkpoints of " if keep_best and counts["runs"] else ""
    return f"{what}{', '.join(words)} ({_bytes(sum(item.size for item in items))})"


def _show(found: Found, items: list[Item]) -> None:
    """The list: runs by model, the oldest first; the token cache; leftovers; what only looks like pealm's."""
    lines: list[str | tuple[str, ...]] = []  # headings, and rows of a table
    by_kind = {kind: [item for item in items if item.kind == kind] for kind in KINDS}
    model = None
    for item in sorted(by_kind["runs"], key=lambda item: (item.model, item.changed)):
        if model is None:
            lines.append(("RUNS", "AGE", "SIZE", "STEP", "STATE"))
        if item.model != model:
            lines.append(model := item.model)
        step = "" if item.step is None else f"{item.step:,}"
        lines.append((f"  {shown(item.home)}", _age(item.changed), _bytes(item.size), step, item.state))
    if tokens := by_kind["tokens"]:
        lines.append("CACHED TOKENS, made again when they are needed")
        size, newest = sum(item.size for item in tokens), max(item.changed for item in tokens)
        lines.append((f"  {len(tokens):,} text{'s' * (len(tokens) > 1)}", _age(newest), _bytes(size), "", ""))
    home = None
    for item in sorted(by_kind["leftovers"], key=lambda item: item.goes):
        if home is None:
            lines.append("LEFTOVERS of what was interrupted")
        if item.home != home:
            lines.append(shown(home := item.home))
        name = str(item.goes[0].relative_to(home))
        lines.append((f"  {'half removed' if name == '.' else name}", _age(item.changed), _bytes(item.size), "", ""))
    rows = [line for line in lines if isinstance(line, tuple)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for line in lines:
        if isinstance(line, tuple):
            first, *middle = (cell.rjust(width) for cell, width in zip(line[:-1], widths[:-1], strict=True))
            line = "  ".join([line[0].ljust(len(first)), *middle, line[-1]]).rstrip()
        click.echo(line)
    if found.unmarked:
        more = f" and {len(found.unmarked) - 3:,} more" if len(found.unmarked) > 3 else ""
        names = ", ".join(map(shown, found.unmarked[:3]))
        click.echo(f"not touched, because they have no {MARK} file: {names}{more}")


def _age(changed: float) -> str:
    """How long ago: `5 minutes`, `36 hours`, `12 days`."""
    minutes = max(0.0, time.time() - changed) / 60
    if minutes < 1:
        return "now"
    unit, length = ("minute", 1) if minutes < 120 else ("hour", 60) if minutes < 48 * 60 else ("day", 24 * 60)
    return f"{minutes // length:,.0f} {unit}" + "s" * (minutes // length > 1)


def _bytes(size: float) -> str:
    """Such as `840 B`, `1.5 GB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            break
        size /= 1000
    return f"{size:.1f} {unit}" if unit != "B" and size < 9.95 else f"{size:.0f} {unit}"
