"""The folder of shards while it is written: in use by one process, and for one input, tokenizer and size."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pealm_core import UserError
from pealm_data.shards import STATE
from pealm_data.worker import write_file

META, TOKENIZER, WORK, LOCK = "meta.json", "tokenizer", ".tokenize", "lock"


def check_same(path: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings, or compare them with those of the run to resume. Raises UserError."""
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        with write_file(path) as file:
            file.write(json.dumps(settings, ensure_ascii=False).encode())
        return
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read: {error}; remove {path.parents[1]} and start again") from error
    work = path.parent
    if old != settings and not (work / STATE).exists():  # nothing but the tokenizer and parts is lost
        for other in [path for path in work.iterdir() if path.is_file() and path.name != LOCK]:
            other.unlink()
        shutil.rmtree(work.parent / TOKENIZER, ignore_errors=True)
        check_same(path, settings)
        return
    for key in settings:
        if old.get(key) != settings[key]:
            what = "" if key == "files" else f": {old.get(key)!r}, not {settings[key]!r}"
            raise UserError(f"{path.parents[1]} was started with another {key}{what:.300}; give another --out")


@contextmanager
def locked(out: Path, work: Path) -> Iterator[None]:
    """Make the folder for this process alone. Raises UserError if it is in use, or has something else."""
    try:
        if out.exists() and not work.exists() and any(out.iterdir()):
            done = (out / META).exists()
            raise UserError(f"{out} {'has token shards already' if done else 'is not empty'}; give another --out")
        work.mkdir(parents=True, exist_ok=True)
        lock = (work / LOCK).open("w")
    except OSError as error:
        raise UserError(f"{out} can't be made: {error.strerror}; give another --out") from error
    with lock:
        with suppress(ImportError):  # Windows
            import fcntl

            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{out}: another process is writing these shards") from None
        yield
