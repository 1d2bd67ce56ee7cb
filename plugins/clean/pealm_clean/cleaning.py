"""What `pealm clean` lists and removes: only what pealm has written and can name, in folders with its mark.

Other files stay, and so do the folders they are in. Links are not followed. A run is locked while its files are
removed; the mark goes last, so that after a kill the next `pealm clean` continues.
"""

import json
import os
import re
import shutil
import stat
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pealm_clean import disk
from pealm_clean.disk import BEST, CONFIG, LOCK, MARK, STATUS, TOKENIZER, is_own, shown
from pealm_core import PealmError, cache_root

RUN, STEPS, TEXT = "run", "checkpoints folder", "tokenized text"  # kinds of what is listed
TEXT_FOLDER = re.compile(r"[0-9a-f]{32}")
TEXT_LEFTOVER = re.compile(r"tokenizing-.*|\.[0-9a-f]{32}\..*\.tmp")
CHANGED = "has changed since it was listed; it stays"

Files = Mapping[tuple[int, int, int], int]  # (device, inode, last written in nanoseconds) → bytes


@dataclass(frozen=True)
class Item:
    """A run or a cached text. paths: what to remove, in this order; empty if it stays (`state` says why)."""

    kind: str
    place: Path
    paths: tuple[Path, ...]
    files: Files
    size: int  # bytes on disk that are freed
    state: str

    @property
    def changed(self) -> float:
        """When a file was last written, in seconds since the epoch."""
        return max((written for _, _, written in self.files), default=0) / 1e9


def list_runs(root: Path, keep_best: bool) -> Iterator[Item]:
    """Yield the marked runs below a folder without links in its path. keep_best: only their step checkpoints."""
    bases = _bases(root)
    for name, folders, names in os.walk(root):
        run = Path(name)
        if MARK not in names or not is_own(run / MARK) or (LOCK not in names and (folders or names != [MARK])):
            continue
        steps = [path for step in disk.steps(run) for path in _contents(step)]
        best = _contents(run / BEST)
        results = [*disk.results(run), run / disk.RESULTS]
        own = [run / name for name in (*disk.RUN_FILES, LOCK, MARK)]
        rest = [] if keep_best else [*best, *results, *own, run]
        paths = (*_leftovers(run), *steps, run / disk.STEPS, *rest)
        paths = tuple(path for path in paths if is_own(path) or path == run / LOCK)  # which removing makes
        stays, state = _state(run, keep_best)
        if users := [bases[path] for path in paths if path in bases]:
            stays, state = True, f"base of {shown(users[0])}"
        files, kept = _files(paths), _files(best) if keep_best else {}
        if paths:
            size = sum(files[file] for file in files.keys() - kept.keys())
            yield Item(STEPS if keep_best else RUN, run, () if stays else paths, files, size, state)


def _bases(root: Path) -> dict[Path, Path]:
    """Return the checkpoints that adapters' checkpoints below a folder need, each with one that needs it."""
    bases = {}
    for name, _, names in os.walk(root):
        if CONFIG in names:
            with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):  # not a config of ours
                base = tomllib.loads(disk.read(Path(name, CONFIG)).decode())["adapter"]["base"]
                bases[Path(base)] = Path(name)
    return bases


def _state(run: Path, keep_best: bool) -> tuple[bool, str]:
    """Return whether a run must stay, and why or how it ended. Without locks, run.json says whether it is in use."""
    status, ended = "unknown state", False
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        facts = json.loads(disk.read(run / STATUS))
        status, ended = disk.printable(str(facts["status"])), disk.has_ended(facts.get("pid"), facts.get("host"))
    with suppress(OSError, PealmError), _lock(run, create=False) as answer:
        if answer == "busy" or (answer == "unsupported" and status == "running" and not ended):
            return True, "in use"
    if keep_best and not (is_own(run / BEST) and disk.is_complete(run / BEST)):
        return True, "no complete best/"
    return False, "killed" if status == "running" else status


def _leftovers(run: Path) -> Iterator[Path]:
    """Yield what interrupted saves left in a run, files before their folders."""
    for folder in disk.temporary_folders(run):
        yield from (*sorted(folder.rglob("*"), reverse=True), folder)
    yield from (path for path in run.glob(".*.tmp") if disk.TEMPORARY_FILE.fullmatch(path.name))


def _contents(folder: Path) -> list[Path]:
    """Return the files that pealm may have written in a checkpoint, then the folders that may be empty without them.

    The vocabulary comes first and state.json, which lists it, next: what remains after a kill is not a checkpoint,
    and pealm can still name all of it.
    """
    listed = [name for name in disk.files_of(folder) if name.startswith(f"{TOKENIZER}/")]
    files = [folder / name for name in (*listed, *disk.CHECKPOINT_FILES)]
    places = {place for file in files for place in file.parents if place.is_relative_to(folder)}
    return [*files, *sorted({*places, folder / TOKENIZER}, reverse=True)]


def list_texts() -> Iterator[Item]:
    """Yield the texts in the token cache, and what interrupted tokenizing left there."""
    home = cache_root().resolve() / "tokens"
    for place in sorted(home.iterdir()) if is_own(home / MARK) else []:
        leftover = TEXT_LEFTOVER.fullmatch(place.name)
        if place.is_dir() and is_own(place) and (leftover or TEXT_FOLDER.fullmatch(place.name)):
            files = _files(place.rglob("*"))
            state = "left by interrupted tokenizing" if leftover else TEXT
            item = Item(TEXT, place, (place,), files, sum(files.values()), state)
            if not leftover or item.changed < time.time() - 3600:  # nothing is locked here
                yield item


def _files(paths: Iterable[Path]) -> Files:
    """Return the regular files; one with two names counts once, and a lock, which other processes write, never."""
    files = {}
    for path in paths:
        with suppress(OSError):
            facts = path.lstat()
            if stat.S_ISREG(facts.st_mode) and path.name != LOCK:
                files[facts.st_dev, facts.st_ino, facts.st_mtime_ns] = facts.st_size
    return files


@contextmanager
def _lock(run: Path, *, create: bool) -> Iterator[str]:
    """Try to lock a run: exclusively, or with an existing lock file only. Yields the answer of `try_lock`."""
    flags = os.O_RDWR | (os.O_CREAT if create else 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    handle = os.open(run / LOCK, flags, 0o666)
    try:
        answer = disk.try_lock(handle, exclusive=create)
        if not os.path.samestat(os.fstat(handle), (run / LOCK).lstat()):
            raise PealmError(CHANGED)
        yield answer
    finally:
        os.close(handle)


def remove(item: Item) -> None:
    """Remove what an item lists. Raises OSError and PealmError."""
    place = item.place
    if not is_own((place.parent if item.kind == TEXT else place) / MARK):
        raise PealmError(CHANGED)
    if item.kind == TEXT:  # renamed first, so that after a kill no part is taken for the whole
        return shutil.rmtree(place.rename(place.with_name(f"tokenizing-{os.urandom(6).hex()}")))
    with _lock(place, create=True) as answer:
        if answer == "busy":
            raise PealmError("is in use by now; it stays")
        if _files(item.paths) != item.files:
            raise PealmError(CHANGED)
        if item.kind == STEPS:
            _note_cleaned(place / STATUS)
        for path in filter(is_own, item.paths):
            if path.is_file():
                path.unlink()
            elif not any(path.iterdir()) and path not in (Path.cwd(), *Path.cwd().parents):
                path.rmdir()
    return None


def _note_cleaned(path: Path) -> None:
    """Note in run.json that the step checkpoints were removed: `pealm train` then doesn't start the run again."""
    with suppress(OSError, ValueError, TypeError, RecursionError):
        facts = {**json.loads(path.read_text(encoding="utf-8")), "cleaned": True} if is_own(path) else {}
        aside = path.with_name(f".{STATUS}.{os.urandom(6).hex()}.tmp")
        aside.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        aside.replace(path)
