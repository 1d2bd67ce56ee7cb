"""What `pealm clean` lists and removes: only what pealm has written and can name, in folders with its mark.

Other files stay, and so do the folders they are in. Links are not followed. A run is locked while its files are
removed; the mark goes last, so that after a kill the next `pealm clean` continues.
"""

import errno
import json
import os
import re
import shutil
import stat
import time
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.config.paths import MARK, cache_root, shown, try_lock
from pealm_core.contract.errors import InvalidCheckpointError, PealmError

KINDS = ("runs", "tokens", "leftovers")
LOCK, STATUS = ".lock", "run.json"
RUN_FILES = (STATUS, "metrics.jsonl", "samples.jsonl", "loss.png", checkpoint.CONFIG)
CHECKPOINT_FILES = (checkpoint.MODEL, checkpoint.OPTIMIZER, "extra.safetensors", checkpoint.CONFIG)
TEMPORARY_FILE = re.compile(rf"\.({'|'.join(map(re.escape, RUN_FILES))})(\.[0-9a-f]+)?\.tmp")
CACHE_LEFTOVER = re.compile(r"tokenizing-.*|\.[0-9a-f]{32}\..*\.tmp")
CHANGED = PealmError("has changed since it was listed; it stays")


@dataclass(frozen=True)
class Item:
    """A line of the list. paths: what is removed, in this order; empty if the item stays (`state` says why)."""

    kind: str
    home: Path  # a run, or the token cache
    place: Path  # the run, or what is in it or in the cache
    paths: tuple[Path, ...]
    size: int = 0  # bytes on disk that are freed
    changed: float = 0.0  # the last time that one of the files was written, in seconds since the epoch
    model: str = ""
    step: int | None = None
    state: str = ""


def is_marked(folder: Path) -> bool:
    return _is_own(folder / MARK)


def list_runs(root: Path, keep_best: bool, failures: list[OSError]) -> tuple[list[Item], list[Path]]:
    """Return the marked runs below a folder, what interrupted saves left in them, and runs without a mark."""
    items: list[Item] = []
    unmarked: list[Path] = []
    known: set[tuple[int, int]] = set()
    for name, folders, files in os.walk(root, onerror=lambda error: failures.append(error)):
        run = Path(name)
        if MARK in files and is_marked(run):
            if {LOCK, checkpoint.CONFIG} & {*files} or not (folders or len(files) > 1):  # else the token cache
                items += [replace(item, **_measure(item.paths, known)) for item in _items_of(run, keep_best, known)]
        elif checkpoint.CONFIG in files and {checkpoint.STEPS, "metrics.jsonl"} & {*folders, *files}:
            unmarked.append(run)
            folders.clear()
    return items, unmarked


def _items_of(run: Path, keep_best: bool, known: set[tuple[int, int]]) -> Iterator[Item]:
    steps = _steps(run)
    model, status = _read_facts(run)
    used = _is_used(run, status)
    status = "interrupted" if status == "running" else status
    leftovers = checkpoint.temporary_folders(run)
    leftovers += [path for path in run.glob(".*.tmp") if TEMPORARY_FILE.fullmatch(path.name) and _is_own(path)]
    for path in [] if used else [path for path in leftovers if not checkpoint.is_only_copy(path)]:
        yield Item("leftovers", run, path, (path,), model=model, state="left by an interrupted save")
    files = [file for step in steps for file in checkpoint_files(step)]
    best = checkpoint_files(run / "best")
    if keep_best and not files:
        return
    reason = "in use" if used else "no best/" if keep_best and not best else ""
    if keep_best:
        _measure(best, known)  # what the steps share with it is not freed
    else:
        files += [*leftovers, *best, *(run / name for name in (*RUN_FILES, LOCK, MARK))]
        other = _other_file(run, {*files})
        status += f"; other files stay, such as {shown(other.relative_to(run))}" if other else ""
    step = int(steps[-1].name.removeprefix("step-")) if steps else None
    yield Item("runs", run, run, () if reason else tuple(files), model=model, step=step, state=reason or status)


def _steps(run: Path) -> list[Path]:
    return [path for path in checkpoint.steps(run) if not (path.is_symlink() or path.parent.is_symlink())]


def checkpoint_files(folder: Path) -> list[Path]:
    """Return the files that pealm wrote in a checkpoint; none for what a link leads to.

    The vocabulary comes first and state.json, which lists it, next: what remains after a kill is not a checkpoint,
    and pealm can still name all of it.
    """
    listed: list[str] = []
    with suppress(InvalidCheckpointError):
        listed = [name for name in checkpoint.state_of(folder)["files"] if name.startswith("tokenizer/")]
    return [folder / name for name in (*listed, checkpoint.STATE, *CHECKPOINT_FILES) if _is_own(folder / name)]


def _is_own(path: Path) -> bool:
    """Whether a regular file is where its name says, with no link on the way."""
    try:
        return stat.S_ISREG(path.lstat().st_mode) and path.resolve() == path
    except OSError:
        return False


def _other_file(run: Path, known: set[Path]) -> Path | None:
    """Return a file in a run's folder that pealm did not write."""
    for name, folders, files in os.walk(run):
        folders[:] = [folder for folder in folders if Path(name, folder) not in known]
        links = [folder for folder in folders if Path(name, folder).is_symlink()]
        if other := [Path(name, file) for file in (*files, *links) if Path(name, file) not in known]:
            return min(other)
    return None


def _read_facts(run: Path) -> tuple[str, str]:
    """Return a run's model and status, as far as its files can be read."""
    model, status = "unknown model", "damaged"
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        if _is_own(run / checkpoint.CONFIG):
            model = str(tomllib.loads((run / checkpoint.CONFIG).read_text(encoding="utf-8"))["model"]["name"])
        status = str(json.loads((run / STATUS).read_text())["status"]) if _is_own(run / STATUS) else "unknown state"
    return model, status


def list_tokens(failures: list[OSError]) -> tuple[list[Item], list[Path]]:
    """Return the cached texts, what interrupted tokenizing left, and the cache's folder if it has no mark."""
    home = _token_home()
    try:
        entries = [] if home.is_symlink() or not home.is_dir() else sorted(home.iterdir())
    except OSError as error:
        failures.append(error)
        entries = []
    items, known = [], set[tuple[int, int]]()
    for path in entries:
        if path.is_symlink() or not path.is_dir():
            continue
        item = replace(Item("tokens", home, path, (path,)), **_measure([path], known))
        if re.fullmatch(r"[0-9a-f]{32}", path.name):
            items.append(item)
        elif CACHE_LEFTOVER.fullmatch(path.name) and item.changed < time.time() - 3600:  # nothing is locked here
            items.append(replace(item, kind="leftovers", state="left by interrupted tokenizing"))
    return ([], [home]) if items and not is_marked(home) else (items, [])


def _token_home() -> Path:
    return cache_root().resolve() / "tokens"


def _measure(paths: Iterable[Path], known: set[tuple[int, int]]) -> dict[str, Any]:
    """Return the bytes in files that are not `known` from another path, and when one was last written."""
    size, changed = 0, 0.0
    for path in paths:
        inside = [Path(name) / file for name, _, files in os.walk(path) for file in files]
        for file in inside or [path]:
            try:
                facts = file.lstat()
            except OSError:
                continue
            if file.name != LOCK:  # which looking for another process may write
                changed = max(changed, facts.st_mtime)
            if stat.S_ISREG(facts.st_mode) and (facts.st_dev, facts.st_ino) not in known:
                known.add((facts.st_dev, facts.st_ino))
                size += facts.st_size
    return {"size": size, "changed": changed}


@contextmanager
def _lock(run: Path, *, create: bool) -> Iterator[str]:
    """Try to lock a run: exclusively, or with an existing lock file only. Yields the answer of `try_lock`."""
    flags = os.O_RDWR | (os.O_CREAT if create else 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    handle = os.open(run / LOCK, flags, 0o666)
    try:
        answer = try_lock(handle, exclusive=create)
        if not os.path.samestat(os.fstat(handle), (run / LOCK).lstat()):
            raise CHANGED
        yield answer
    finally:
        os.close(handle)


def _is_used(run: Path, status: str) -> bool:
    """Whether another process has locked the run; without locks, whether it says that it is running."""
    try:
        with _lock(run, create=False) as answer:
            return answer == "busy" or (answer == "unsupported" and status == "running")
    except (OSError, PealmError):  # never locked, or the removal will say what is wrong
        return False


def remove(item: Item, keep_best: bool) -> None:
    """Remove what an item lists. Raises OSError and PealmError."""
    if item.home.resolve() != item.home or not is_marked(item.home):
        raise CHANGED
    if item.home == _token_home():
        aside = item.place  # under a temporary name first, so that after a kill no part is taken for the whole
        if item.kind == "tokens":
            aside = aside.rename(aside.with_name(f".{aside.name}.{os.urandom(6).hex()}.tmp"))
        return shutil.rmtree(aside)
    with _lock(item.home, create=True) as answer:
        if answer == "busy":
            raise PealmError("is in use by now; it stays")
        if _measure(item.paths, set())["changed"] > item.changed:
            raise CHANGED
        if item.kind == "leftovers" and checkpoint.is_only_copy(item.place):
            raise CHANGED
        if keep_best and item.kind == "runs":
            try:
                checkpoint.verify(item.home / "best")
            except InvalidCheckpointError as error:
                raise PealmError(f"its step checkpoints stay, because best/ is incomplete: {error}") from None
            _note_cleaned(item.home / STATUS)
        last = [path for path in item.paths if path in (item.home / LOCK, item.home / MARK)]
        for path in item.paths:
            if path.is_dir() and path.resolve() == path:
                shutil.rmtree(path)
            elif path not in last and _is_own(path):
                path.unlink()
        places = {place for path in item.paths for place in path.parents if item.home in place.parents}
        places |= {item.home / "best", item.home / checkpoint.STEPS, *_steps(item.home)}
        places |= {place / checkpoint.TOKENIZER for place in places}
        for place in sorted(places, key=lambda place: len(place.parts), reverse=True):
            _remove_empty(place)
        for path in last:
            path.unlink(missing_ok=True)
    if last:
        _remove_empty(item.home)
    return None


def _note_cleaned(path: Path) -> None:
    """Note in run.json that the step checkpoints were removed: `pealm train` then doesn't start the run again."""
    with suppress(OSError, ValueError, TypeError, RecursionError):
        facts = {**json.loads(path.read_text(encoding="utf-8")), "cleaned": True} if _is_own(path) else {}
        temporary = path.with_name(f".{STATUS}.{os.urandom(6).hex()}.tmp")
        temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)


def _remove_empty(folder: Path) -> None:
    """Remove a folder if nothing is in it, unless it is the working folder."""
    if folder.is_symlink() or not folder.is_dir() or folder in (Path.cwd(), *Path.cwd().parents):
        return
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
