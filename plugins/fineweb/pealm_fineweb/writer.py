"""Shards on disk, and the state from which a killed preparation goes on.

The state is written after every shard and at the end of every source file, always after the data that it speaks of:
killed at any moment, the next run finds the last state and repeats what came after it, bit for bit.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from pealm_core import UserError
from pealm_fineweb.worker import Tokens

PER_PART = 10_000  # numbers of shards that each part has to itself
TAIL = "tail.npy"


@dataclass(frozen=True)
class State:
    """How far a part is. The next token is number `offset` of row `row` of file `file`."""

    settings: Mapping[str, Any]
    files: list[list[Any]]
    file: int = 0
    row: int = 0
    offset: int = 0
    shards: int = 0
    tokens: int = 0  # in shards and tail
    tail: str | None = None  # tokens of finished files that no shard has yet
    done: bool = False

    def save(self, path: Path) -> None:
        """Write it, whole or not at all. Raises UserError."""
        with atomically(path) as file:
            file.write(json.dumps(asdict(self), indent=1).encode())


def read_state(path: Path) -> State | None:
    """The state that was saved, None where there is none. Raises UserError."""
    try:
        return State(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} can't be read: {error}; remove the folder and start again") from error


class ShardWriter:
    """Cuts a stream of tokens into shards; the first one of part 1 is val."""

    def __init__(self, out: Path, work: Path, part: int, shard_size: int, limit: int | None, state: State) -> None:
        """work: a folder for the tail, on out's disk. Raises UserError."""
        self.out, self.work, self.part, self.limit, self.state = out, work, part, limit, state
        self.tokens, self._fill = state.tokens, 0
        self._buffer = np.empty(shard_size, np.uint16)
        if state.tail is not None:
            try:
                tail = np.load(work / state.tail)
            except (OSError, ValueError) as error:
                raise UserError(
                    f"{work / state.tail} can't be read: {error}; remove {out} and start again"
                ) from error
            self._buffer[: len(tail)] = tail
            self._fill = len(tail)

    @property
    def count(self) -> int:
        """Shards, with the one at hand."""
        return self.state.shards + (self._fill > 0)

    def full(self) -> bool:
        """Whether the limit is reached."""
        return self.limit is not None and self.tokens >= self.limit

    def add(self, tokens: Tokens, place: int, row: int, skip: int = 0) -> Iterator[str]:
        """Take the tokens of rows from `row` on of file `place`, without the first `skip`; yields each new shard."""
        at = skip
        while at < len(tokens.ids) and not self.full():
            room = len(self._buffer) - self._fill
            left = room if self.limit is None else self.limit - self.tokens
            count = min(room, left, len(tokens.ids) - at)
            self._buffer[self._fill : self._fill + count] = tokens.ids[at : at + count]
            at, self._fill, self.tokens = at + count, self._fill + count, self.tokens + count
            if self._fill == len(self._buffer):
                nth = int(np.searchsorted(tokens.ends, at, side="right"))
                begin = int(tokens.ends[nth - 1]) if nth else 0
                yield self._flush(file=place, row=row + nth, offset=at - begin)

    def end_file(self, place: int) -> None:
        """File `place` is done with for good: what no shard has yet is kept as the tail."""
        old, tail = self.state.tail, None
        if self._fill:
            tail = f"{self.tokens}-{TAIL}"
            self._write(self.work / tail)
        self._save(file=place + 1, row=0, offset=0, tail=tail)
        if old is not None and old != tail:
            (self.work / old).unlink(missing_ok=True)

    def finish(self) -> Iterator[str]:
        """Write the rest as a shorter shard, which it yields, and the state that says that all is done."""
        if self._fill:
            yield self._flush()
        self._save(done=True)

    def _flush(self, **position: int) -> str:
        number = self.state.shards
        if number >= PER_PART and self.state.settings["parts"] > 1:
            raise UserError(f"{self.out}: more than {PER_PART:,} shards in a part; give a larger --shard-size")
        split = "val" if self.part == 1 and number == 0 else "train"
        name = f"edufineweb_{split}_{(self.part - 1) * PER_PART + number:06d}.npy"
        self._write(self.out / name)
        old, self._fill = self.state.tail, 0
        self._save(shards=number + 1, tail=None, **position)
        if old is not None:
            (self.work / old).unlink(missing_ok=True)
        return name

    def _write(self, path: Path) -> None:
        with atomically(path) as file:
            np.save(file, self._buffer[: self._fill])

    def _save(self, **changes: Any) -> None:
        self.state = replace(self.state, tokens=self.tokens, **changes)
        self.state.save(state_path(self.out, self.part, self.state.settings["parts"]))


def state_path(out: Path, part: int, parts: int) -> Path:
    """Where a part's state is."""
    return out / f"part-{part}-of-{parts}.json"


@contextmanager
def atomically(path: Path) -> Iterator[IO[bytes]]:
    """A file that gets its name when it is whole and on the disk. Raises UserError where it can't be written."""
    aside = path.with_name(f".{path.name}.aside")
    try:
        try:
            with aside.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{path} can't be written: {error.strerror}; make room and run the same again, it goes on from here"
        ) from error
