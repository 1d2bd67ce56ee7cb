"""The folder of shards while it is written: by one process for each machine's part, for one input and tokenizer."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pealm_core import UserError
from pealm_data.shards import HEADER, STATE
from pealm_data.worker import OFFSETS, write_file

META, TOKENIZER, WORK, LOCK, PLAN = "meta.json", "tokenizer", ".tokenize", "lock", "plan.json"


@dataclass(frozen=True)
class Folder:
    """Where the shards of machine `number` of `machines` are written. facts: of `meta.json`, the same for all."""

    out: Path
    number: int
    machines: int
    facts: Mapping[str, Any]

    @property
    def work(self) -> Path:
        """The folder for what is incomplete; it is removed at the end."""
        own = f"part-{self.number}-of-{self.machines}"
        return self.out / WORK if self.machines == 1 else self.out / WORK / own

    @property
    def mark(self) -> Path:
        """The file that says that this one of several machines is done."""
        return self.out / f"part-{self.number}-of-{self.machines}.json"

    def is_done(self) -> bool:
        """Whether the folder has all shards of this machine. Raises UserError if it has something else."""
        meta = self._meta()
        same = {key: meta.get(key) for key in self.facts} == dict(self.facts)
        names = [path.stem for path in (*self.out.glob("part-*-of-*.json"), *(self.out / WORK).glob("part-*"))]
        if wrong := [name for name in names if not name.endswith(f"-of-{self.machines}")]:
            raise UserError(f"{self.out} has {wrong[0]}, which is divided differently; give another --out")
        started = self.work.exists() or bool(names)
        if not started and not same and self.out.exists() and any(self.out.iterdir()):
            raise UserError(
                f"{self.out} {'has token shards already' if meta else 'is not empty'}; give another --out"
            )
        if self.machines > 1 and meta and not same:
            name = next(key for key in self.facts if meta.get(key) != self.facts[key]).replace("_", " ")
            raise UserError(f"{self.out} was started with another {name}; give another --out")
        return self.mark.exists() if self.machines > 1 else same and not started

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder, for this process alone. Raises UserError."""
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            lock = (self.work / LOCK).open("w")
        except OSError as error:
            raise UserError(f"{self.out} can't be made: {error.strerror}; give another --out") from error
        with lock:
            with suppress(ImportError):  # Windows
                import fcntl

                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise UserError(f"{self.out}: another process is writing these shards") from None
            try:
                yield
            finally:
                self._remove_if_unused()

    def _remove_if_unused(self) -> None:
        """Remove the folder if nothing was started."""
        if self.work.exists() and [path.name for path in self.work.iterdir()] == [LOCK]:
            shutil.rmtree(self.work)
            for folder in (self.out / WORK, self.out):
                with suppress(OSError):  # it is not empty
                    folder.rmdir()

    def check_same(self, files: Sequence[Any], is_unchanged: Callable[[int], bool]) -> None:
        """Write facts and files, or compare them with those of the run to resume. Raises UserError.

        is_unchanged: whether file number i, which seems to have changed, is the same where its tokens are in shards.
        """
        path = self.work / PLAN
        try:
            old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
            known = [] if old is None else old["files"]
        except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
            raise UserError(f"{path} can't be read: {error}; remove {self.out} and start again") from error
        if old is not None and (wrong := [key for key in self.facts if old.get(key) != self.facts[key]]):
            if (self.work / STATE).exists():
                what = ": {!r}, not {!r}".format(*_first_difference(old.get(wrong[0]), self.facts[wrong[0]]))
                name = wrong[0].replace("_", " ")
                raise UserError(f"{self.out} was started with another {name}{what:.300}; give another --out")
            self._start_again()  # only a tokenizer and pieces are lost
        elif not all(is_unchanged(i) for i, file in enumerate(known) if files[i : i + 1] != [file]):
            raise UserError(
                f"{self.out}: the input has changed where its tokens are in shards already; give another --out"
            )
        with write_file(path) as file:
            file.write(json.dumps({**self.facts, "files": files}, ensure_ascii=False).encode())

    def _start_again(self) -> None:
        for other in [path for path in self.work.iterdir() if path.is_file() and path.name != LOCK]:
            other.unlink()
        if self.machines == 1:
            shutil.rmtree(self.out / TOKENIZER, ignore_errors=True)

    def write_meta(self, more: Mapping[str, Any]) -> None:
        """Write `meta.json`: the facts and more."""
        with write_file(self.out / META) as file:
            file.write(json.dumps({**more, **self.facts}, indent=1, ensure_ascii=False).encode())

    def finish(self) -> None:
        """Record that this machine is done, and remove the work folder."""
        if self.machines > 1:
            with write_file(self.mark) as file:
                file.write(b"{}")
        self.count_all()
        shutil.rmtree(self.work, ignore_errors=True)
        with suppress(OSError):  # other machines are not done
            (self.out / WORK).rmdir()

    def count_all(self) -> None:
        """Record in `meta.json` what is in the shards of each split, once all machines are done."""
        meta, marks = self._meta(), [*self.out.glob(f"part-*-of-{self.machines}.json")]
        if "dtype" in meta and "splits" not in meta and (self.machines == 1 or len(marks) == self.machines):
            self.write_meta({**meta, "splits": self._count(meta["dtype"])})

    def _count(self, dtype: str) -> dict[str, dict[str, int]]:
        counts = {}
        for split in ("val", "train"):
            paths = [*self.out.glob(f"*{split}[-_]*.npy")]
            tokens = sum(path.stat().st_size - HEADER for path in paths) // np.dtype(dtype).itemsize
            offsets = [path.with_suffix(OFFSETS) for path in paths]
            documents = sum(path.stat().st_size // 8 for path in offsets)
            counts[split] = {"shards": len(paths), "tokens": tokens, "documents": documents}
        return counts

    def _meta(self) -> dict[str, Any]:
        with suppress(OSError, ValueError, RecursionError):
            meta = json.loads((self.out / META).read_text(encoding="utf-8"))
            return meta if isinstance(meta, dict) else {}
        return {}


def _first_difference(old: Any, new: Any) -> tuple[Any, Any]:
    """Return two values that differ; of tables, the first setting that does."""
    if isinstance(old, dict) and isinstance(new, dict):
        key = next(key for key in (*new, *old) if old.get(key) != new.get(key))
        return _first_difference(old.get(key), new.get(key))
    return old, new
