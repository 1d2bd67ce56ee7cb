"""Where pealm keeps things, the mark of its own folders, how paths are shown, writing aside, syncing, locks."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

MARK = ".pealm"


def cache_root() -> Path:
    """Return the folder for what pealm can make again: PEALM_CACHE, else in the user's cache folder."""
    base = os.environ.get("PEALM_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pealm"


def mark(folder: Path) -> None:
    """Mark a folder as made by pealm: `pealm clean` works in no other one. Raises OSError."""
    with suppress(FileExistsError), (folder / MARK).open("x") as file:
        file.write("pealm made this folder; `pealm clean` may remove what pealm wrote in it\n")


def reason(error: OSError) -> str:
    """Return what the system says of a failure, with the file that it names, without its number."""
    if error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"


def printable(text: str) -> str:
    """Return a text in one line, without characters that would control a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    import hashlib  # slow to import, and no help page needs it

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until a file or folder is on disk. Raises OSError, but not where folders can't be synced."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if not path.is_dir() or error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
            raise


@contextmanager
def written_aside(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give a temporary folder to fill; then sync it and rename it to `folder`, or remove it. Raises OSError.

    replace: whether `folder` may exist. A kill between the two renames leaves the replaced one as `.NAME.HEX.old`.
    """
    aside, old = temporary(folder, "tmp"), temporary(folder, "old")
    try:
        aside.mkdir(parents=True)
        yield aside
        for path in (*aside.rglob("*"), aside):
            sync(path)
        if replace and folder.exists():
            folder.rename(old)
        aside.rename(folder)
        sync(folder.parent)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        for path in (old, aside):
            shutil.rmtree(path, ignore_errors=True)


def temporary(path: Path, ending: str) -> Path:
    """Return a name beside a path that nothing else has."""
    return path.with_name(f".{path.name}.{os.urandom(6).hex()}.{ending}")


def try_lock(handle: Any) -> Literal["locked", "busy", "unsupported"]:
    """Lock an open file against other processes, until it is closed. Raises OSError.

    "unsupported": the platform or the file system (some network file systems) has no such locks and syncing.
    """
    try:
        import fcntl
    except ImportError:
        return "unsupported"
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "busy"
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        return "unsupported"
    return "locked"
