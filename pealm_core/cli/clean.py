"""`pealm clean`: remove runs, cached tokens and what interrupted saves left, and never what pealm did not make.

Only what lies in a folder with pealm's mark (a run, the token cache) is looked at, links are not followed, and a run
is locked before anything in it goes. What goes is renamed aside first: a kill leaves nothing half that looks whole.
"""

import fcntl
import json
import os
import re
import shutil
import stat
import sys
import time
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click

from pealm_core import checkpoint
from pealm_core.errors import InvalidCheckpointError, PealmError, UserError
from pealm_core.paths import MARK, cache_root

KINDS = ("runs", "tokens", "leftovers")
LOCK = ".lock"


@dataclass(frozen=True)
class Item:
    """Something that could go, or a run that is shown and stays (`goes` is empty)."""

    kind: str
    home: Path  # the marked folder that it is or lies in
    goes: tuple[Path, ...]
    size: int  # bytes that go with it
    changed: float  # when a file in it was last written, in seconds since the epoch
    model: str = ""
    step: int | None = None
    state: str = ""


@dataclass
class Found:
    """What lies below a folder and in the token cache."""

    root: Path
    items: list[Item] = field(default_factory=list)
    unmarked: list[Path] = field(default_factory=list)  # look like pealm's and have no mark
    failures: list[str] = field(default_factory=list)
    seen: set[tuple[int, int]] = field(default_factory=set)  # files that are counted already, for hard links

    def fail(self, path: Path, error: OSError | PealmError) -> None:
        """Note what went wrong in one line."""
        reason = str(error)
        if isinstance(error, OSError):
            inside = f" ({error.filename})" if error.filename and Path(error.filename) != path else ""
            reason = f"{error.strerror or error}{inside}"
        self.failures.append(f"{_name(path)}: {reason}")

    def unreadable(self, error: OSError) -> None:
        """Note a folder that can't be read; one that is gone is none."""
        if not isinstance(error, FileNotFoundError):
            self.fail(Path(error.filename), error)


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
    _find_runs(found, keep_best)
    if model is None and {"tokens", "leftovers"} & {*kinds}:
        _find_tokens(found)
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
    if root.is_symlink() and _marked(root):
        raise UserError(
            f"{root} is a link, which `pealm clean` does not follow; name the run itself: {root.resolve()}"
        )
    return root.resolve()


def _marked(folder: Path) -> bool:
    try:
        return stat.S_ISREG((folder / MARK).lstat().st_mode)
    except OSError:
        return False


def _find_runs(found: Found, keep_best: bool) -> None:
    """Note every marked run at or below the root, and what interrupted saves left in it."""
    runs, marked = [], []
    for name, folders, files in os.walk(found.root, onerror=found.unreadable):
        folder = Path(name)
        if MARK in files and _marked(folder):
            marked.append(folder)
            if {LOCK, checkpoint.CONFIG} & {*files} or not (folders or len(files) > 1):  # the token cache has neither
                runs.append(folder)
        elif checkpoint.CONFIG in files and {"checkpoints", "metrics.jsonl"} & {*folders, *files}:
            found.unmarked.append(folder)
            folders.clear()
    for run in runs:
        steps = _steps(run)
        model, step, state = _facts(run, steps)
        used, nested = _in_use(run), any(run in other.parents for other in marked)
        inside = run in (Path.cwd(), *Path.cwd().parents)  # as with `--out .`: then it is more than a run
        if _aside(run):  # a removal that was interrupted
            if not used and not nested:
                found.items.append(Item("leftovers", run, (run,), *_measure([run], found.seen), model))
            continue
        for path in [] if used else _leftovers(run):
            found.items.append(Item("leftovers", run, (path,), *_measure([path], found.seen), model))
        goes, stays = [run], "in use" if used else "holds a run" if nested else "you are in it" if inside else ""
        if keep_best:
            goes, stays = steps, "in use" if used else "" if _has_best(run) else "no best/"
            if not steps:
                continue
            _measure([run / "best"], found.seen)  # what it shares with a step's files does not go
        size, changed = _measure(goes, found.seen)[0], _measure([run], set())[1]
        found.items.append(
            Item("runs", run, () if stays else tuple(goes), size, changed, model, step, stays or state)
        )


def _facts(run: Path, steps: list[Path]) -> tuple[str, int | None, str]:
    """Model, newest step and state of a run, as far as its files tell."""
    newest, model = steps[-1] if steps else run / "best", "unknown model"
    try:
        config = tomllib.loads((run / checkpoint.CONFIG).read_text(encoding="utf-8"))
        model, train = str(config["model"]["name"]), config["train"]
        state = json.loads((newest / checkpoint.STATE).read_text(encoding="utf-8"))
        step = int(state["step"])
        if seconds := train.get("max-seconds"):  # such a run ends a little before, so as to validate in time
            percent = round(100 * state["seconds"] / seconds)
        else:
            percent = 100 * step // train["steps"]
    except FileNotFoundError:
        return model, None, "damaged" if steps else "no checkpoint"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
        return model, None, "damaged"
    return model, step, "best/ only" if not steps else "finished" if percent >= 100 else f"{percent}% done"


def _aside(path: Path) -> bool:
    """Whether it has a name for what is half written or half removed."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _steps(run: Path) -> list[Path]:
    return [] if (run / "checkpoints").is_symlink() else checkpoint.steps(run)


def _has_best(run: Path) -> bool:
    best = run / "best"
    return (best / checkpoint.STATE).is_file() and not best.is_symlink()


def _leftovers(run: Path) -> list[Path]:
    """What interrupted saves left. An `x.old` without its `x` is none: it is all that there is of a checkpoint."""
    places = [folder for folder in (run, run / "checkpoints") if not folder.is_symlink()]
    patterns = (".*.tmp", "step-*.damaged", "step-*.old", "best.old")
    left = [path for folder in places for pattern in patterns for path in folder.glob(pattern)]
    return sorted(
        path
        for path in left
        if not _marked(path) and (path.suffix != ".old" or path.with_name(path.name.removesuffix(".old")).exists())
    )


def _token_home() -> Path:
    return cache_root().resolve() / "tokens"


def _find_tokens(found: Found) -> None:
    """Note every tokenized text of the cache, and what interrupted tokenizing left."""
    home = _token_home()
    try:
        entries = [] if home.is_symlink() or not home.is_dir() else sorted(home.iterdir())
    except OSError as error:
        return found.fail(home, error)
    folders = [path for path in entries if path.is_dir() and not path.is_symlink()]
    if folders and not _marked(home):
        return found.unmarked.append(home)
    for path in folders:
        if re.fullmatch(r"[0-9a-f]{32}", path.name):
            found.items.append(Item("tokens", home, (path,), *_measure([path], found.seen)))
        elif path.name.startswith("tokenizing-") or _aside(path):
            size, changed = _measure([path], found.seen)
            if changed < time.time() - 3600:  # no lock tells who is at work here
                found.items.append(Item("leftovers", home, (path,), size, changed))
    return None


def _measure(paths: Iterable[Path], seen: set[tuple[int, int]]) -> tuple[int, float]:
    """Bytes in files that are not in `seen`, and when one was last written. Links count as nothing."""
    size, changed = 0, 0.0
    for path in paths:
        inside = [Path(name) / file for name, _, files in os.walk(path) for file in files]
        for file in inside or [path]:
            try:
                facts = file.lstat()
            except OSError:
                continue
            if file.name != LOCK:  # which looking for another process may make
                changed = max(changed, facts.st_mtime)
            if stat.S_ISREG(facts.st_mode) and (facts.st_dev, facts.st_ino) not in seen:
                seen.add((facts.st_dev, facts.st_ino))
                size += facts.st_size
    return size, changed


def _in_use(run: Path) -> bool:
    """Whether another process holds the run."""
    try:
        handle = os.open(run / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # nobody made one, or the removal will say what is wrong
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


@contextmanager
def _held(run: Path) -> Iterator[None]:
    """Keep every other process out of a run. Raises PealmError where one is in it or the folder is another now."""
    if run.resolve() != run or not _marked(run):
        raise PealmError("is not what was listed; it stays")
    handle = os.open(run / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(handle), (run / LOCK).lstat()):
            raise PealmError("is not what was listed; it stays")
        yield
    except BlockingIOError:
        raise PealmError("is in use by now; it stays") from None
    finally:
        os.close(handle)


def _remove_all(found: Found, items: list[Item], keep_best: bool) -> None:
    gone = []
    for item in sorted(items, key=lambda item: KINDS.index(item.kind), reverse=True):  # leftovers, then their runs
        try:
            _remove(item, keep_best)
            gone.append(item)
        except (OSError, PealmError) as error:
            found.fail(item.home if item.kind == "runs" else item.goes[0], error)
    click.echo(f"removed: {_amount(gone, keep_best)}" if gone else "nothing was removed")


def _remove(item: Item, keep_best: bool) -> None:
    """Remove an item. Raises OSError and PealmError; then it is there whole, or what is left is a leftover."""
    if item.home == _token_home():
        if item.home.resolve() != item.home or not _marked(item.home):
            raise PealmError("is not what was listed; it stays")
        return _discard(item.goes[0])
    with _held(item.home):
        if item.kind == "runs":
            if _measure([item.home], set())[1] > item.changed:
                raise PealmError("was written to since it was listed; it stays")
            if keep_best:
                try:
                    checkpoint.verify(item.home / "best")
                except InvalidCheckpointError as error:
                    raise PealmError(f"its step checkpoints stay, because its best/ is not whole: {error}") from None
        elif item.goes != (item.home,) and item.goes[0] not in _leftovers(item.home):
            raise PealmError("is not what was listed; it stays")
        for path in item.goes:
            _discard(path)
    return None


def _discard(path: Path) -> None:
    """Remove a file, a link or a folder, its mark last, so that what a kill leaves of a run is known as pealm's."""
    if not _aside(path):
        path = path.rename(path.with_name(f".{path.name}.{os.getpid()}.tmp"))
    if path.is_symlink() or not path.is_dir():
        return path.unlink()
    for child in list(path.iterdir()):
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        elif child.name not in (LOCK, MARK):
            child.unlink()
    for name in (LOCK, MARK):
        (path / name).unlink(missing_ok=True)
    return path.rmdir()


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
        lines.append((f"  {_name(item.home)}", _age(item.changed), _bytes(item.size), step, item.state))
    if tokens := by_kind["tokens"]:
        lines.append("CACHED TOKENS, made again when they are needed")
        size, newest = sum(item.size for item in tokens), max(item.changed for item in tokens)
        lines.append((f"  {len(tokens):,} text{'s' * (len(tokens) > 1)}", _age(newest), _bytes(size), "", ""))
    home = None
    for item in sorted(by_kind["leftovers"], key=lambda item: item.goes):
        if home is None:
            lines.append("LEFTOVERS of what was interrupted")
        if item.home != home:
            lines.append(_name(home := item.home))
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
        names = ", ".join(map(_name, found.unmarked[:3]))
        click.echo(f"not touched, because they have no {MARK} file: {names}{more}")


def _name(path: Path) -> str:
    """A path as the user would write it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if here in path.parents else str(path)


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
