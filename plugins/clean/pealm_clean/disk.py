"""What pealm writes on disk: names, checkpoints, locks. docs/contract.md describes it."""

import errno
import hashlib
import json
import os
import re
import socket
from pathlib import Path
from typing import Any, Literal

MARK, LOCK, STATUS, STATE, CONFIG = ".pealm", ".lock", "run.json", "state.json", "config.toml"
STEPS, BEST, TOKENIZER = "checkpoints", "best", "tokenizer"
RESULTS = "evals"  # folder of a run with the results of evaluations
RUN_FILES = (STATUS, "metrics.jsonl", "samples.jsonl", "loss.png", CONFIG)
CHECKPOINT_FILES = (STATE, "model.safetensors", "optimizer.safetensors", "extra.safetensors", CONFIG)
TEMPORARY_FOLDER = re.compile(r"\.(best|step-\d+)(\.[0-9a-f]+)?\.(tmp|old|damaged)")
TEMPORARY_FILE = re.compile(rf"\.({'|'.join(map(re.escape, RUN_FILES))})(\.[0-9a-f]+)?\.tmp")
LARGEST = 2**26  # bytes of a file that is read at once


def is_own(path: Path) -> bool:
    """Whether a file or folder is where its name says, with no link on the way."""
    try:
        return os.path.realpath(path) == str(path) and (path.is_file() or path.is_dir())
    except (OSError, ValueError):  # a name that can't be one
        return False


def read(path: Path) -> bytes:
    """Read a file of settings or facts. Raises OSError, also for pipes, devices and files that may never end."""
    if path.exists() and not path.is_file():
        raise OSError("not a regular file")
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise OSError("larger than what pealm writes")
    return content


def steps(run: Path) -> list[Path]:
    """Return the step checkpoints of a run, valid or not."""
    return sorted(path for path in (run / STEPS).glob("step-*") if re.fullmatch(r"step-\d+", path.name))


def results(run: Path) -> list[Path]:
    """Return the files with results of evaluations that `pealm eval` has written in a run, also incomplete ones."""
    known = re.compile(r"[a-z0-9][\w.-]*-\d+(-limit-\d+)?\.json|\.[\w.-]+\.json\.[0-9a-f]{12}\.tmp")
    return sorted(path for path in (run / RESULTS).glob("*") if known.fullmatch(path.name))


def temporary_folders(run: Path) -> list[Path]:
    """Return what interrupted saves left in a run, and damaged checkpoints."""
    places = [run, *([] if (run / STEPS).is_symlink() else [run / STEPS])]
    paths = [path for place in places for path in place.glob(".*") if TEMPORARY_FOLDER.fullmatch(path.name)]
    return sorted(path for path in paths if path.is_dir() and not path.is_symlink())


def files_of(checkpoint: Path) -> dict[str, tuple[int, str]]:
    """Return size and SHA-256 of each file of a checkpoint; none if its state.json can't be read."""
    try:
        state: dict[str, Any] = json.loads(read(checkpoint / STATE))
        files = {str(name): (int(size), str(digest)) for name, (size, digest) in state["files"].items()}
    except (OSError, ArithmeticError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    inside = all(name.isprintable() and not {"", "..", "."} & set(name.split("/")) for name in files)
    return files if inside else {}


def is_complete(checkpoint: Path) -> bool:
    """Whether every file of a checkpoint is there and has the content that was saved."""
    files = files_of(checkpoint)
    try:
        return bool(files) and all(_is_intact(checkpoint / name, *facts) for name, facts in files.items())
    except OSError:
        return False


def _is_intact(path: Path, size: int, digest: str) -> bool:
    if path.stat().st_size != size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == digest


def try_lock(handle: int, *, exclusive: bool) -> Literal["locked", "busy", "unsupported"]:
    """Lock an open file against other processes, until it is closed. Raises OSError.

    "unsupported": the platform or the file system (some network file systems) has no such locks.
    """
    try:
        import fcntl
    except ImportError:
        return "unsupported"
    try:
        fcntl.flock(handle, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return "busy"
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        return "unsupported"
    return "locked"


def has_ended(pid: object, host: object) -> bool:
    """Whether a process is known to have ended: it ran on this host, where nothing has its number now."""
    if host != socket.gethostname() or not isinstance(pid, int) or pid <= 0:
        return False
    if os.name == "nt":  # os.kill would send it a Ctrl-C
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # another user's
        return False
    return False


def shown(path: Path) -> str:
    """Return a path as the user would write it, in one line that can't control a terminal."""
    return printable(str(path.relative_to(Path.cwd()) if Path.cwd() in path.parents else path))


def printable(text: str) -> str:
    """Return a text in one line that can't control a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
