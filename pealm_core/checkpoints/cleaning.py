"""What `pealm clean` finds and removes: runs, cached tokens, leftovers; never what pealm did not make.

Only what lies in a folder with pealm's mark (a run, the token cache) is looked at, links are not followed, and a run
is locked before anything in it goes. What goes is renamed aside first: a kill leaves nothing half that looks whole.
"""

import fcntl
import json
import os
import re
import shutil
import stat
import time
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.config.paths import MARK, cache_root
from pealm_core.contract.errors import InvalidCheckpointError, PealmError

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
        self.failures.append(f"{shown(path)}: {reason}")

    def unreadable(self, error: OSError) -> None:
        """Note a folder that can't be read; one that is gone is none."""
        if not isinstance(error, FileNotFoundError):
            self.fail(Path(error.filename), error)


def is_marked(folder: Path) -> bool:
    try:
        return stat.S_ISREG((folder / MARK).lstat().st_mode)
    except OSError:
        return False


def find_runs(found: Found, keep_best: bool) -> None:
    """Note every marked run at or below the root, and what interrupted saves left in it."""
    runs, marked = [], []
    for name, folders, files in os.walk(found.root, onerror=found.unreadable):
        folder = Path(name)
        if MARK in files and is_marked(folder):
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
            percent = round(100 * state["seconds"] / (seconds - 1.5 * state.get("eval_seconds", 0.0)))
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
        if not is_marked(path) and (path.suffix != ".old" or path.with_name(path.name.removesuffix(".old")).exists())
    )


def _token_home() -> Path:
    return cache_root().resolve() / "tokens"


def find_tokens(found: Found) -> None:
    """Note every tokenized text of the cache, and what interrupted tokenizing left."""
    home = _token_home()
    try:
        entries = [] if home.is_symlink() or not home.is_dir() else sorted(home.iterdir())
    except OSError as error:
        return found.fail(home, error)
    folders = [path for path in entries if path.is_dir() and not path.is_symlink()]
    if folders and not is_marked(home):
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
    if run.resolve() != run or not is_marked(run):
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


def remove(item: Item, keep_best: bool) -> None:
    """Remove an item. Raises OSError and PealmError; then it is there whole, or what is left is a leftover."""
    if item.home == _token_home():
        if item.home.resolve() != item.home or not is_marked(item.home):
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


def shown(path: Path) -> str:
    """A path as the user would write it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if here in path.parents else str(path)
