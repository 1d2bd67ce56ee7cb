"""Shards on disk, and the state from which a killed run resumes.

The tokens of a split are one stream, cut wherever a shard is full. The state is written after every shard, so that a
resumed run writes again, byte for byte, what came after the last complete one.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from pealm_core import TokenFile, UserError
from pealm_data.worker import MASK, OFFSETS, TOKENS, Counts, file_of, write_file

HEADER = 128  # bytes; numpy pads the header of a 1-D array to this
CHUNK = 2**20  # tokens copied at a time
STATE = "state.json"


@dataclass(frozen=True)
class State:
    """How far a split is: the next token is number `offset` of piece `piece` of part `part`."""

    part: int = 0
    piece: int = 0
    offset: int = 0
    shards: int = 0
    tokens: int = 0
    documents: int = 0
    masked: bool = False
    done: bool = False


def read_states(work: Path) -> dict[str, State]:
    """Return the state of each split that was started. Raises UserError."""
    path = work / STATE
    try:
        return {split: State(**values) for split, values in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} can't be read: {error}; remove {work.parent} and start again") from error


class ShardWriter:
    """Cuts the tokens of a split's pieces into shards: .npy, .offsets, and .mask where something is not learned."""

    def __init__(
        self,
        work: Path,
        split: str,
        dtype: str,
        shard_size: int,
        limit: int | None,
        states: dict[str, State],
        path_of: Callable[[int], Path],
    ) -> None:
        """states: of all splits, kept up to date here and in `work`. path_of: the path of a shard by its number."""
        self.work, self.split, self.dtype, self.shard_size = work, split, dtype, shard_size
        self.limit, self.states, self._path_of = limit, states, path_of
        self.now = states.setdefault(split, State())
        self._open: _Shard | None = None

    @property
    def full(self) -> bool:
        """Whether the limit is reached."""
        return self.limit is not None and self.now.tokens >= self.limit

    @property
    def count(self) -> int:
        """The number of shards, with the incomplete one."""
        return self.now.shards + (self._open is not None)

    @property
    def position(self) -> tuple[int, int]:
        """The part and the piece that are next."""
        return self.now.part, self.now.piece

    def add(self, position: tuple[int, int], path: Path, counts: Counts) -> Iterator[str]:
        """Take the tokens of a piece that are not in a shard yet. Yields the name of each complete shard."""
        if position < self.position or self.full:
            return
        start = self.now.offset if position == self.position else 0
        self.now = replace(self.now, part=position[0], piece=position[1], offset=start)
        if start < counts.tokens:
            yield from self._add(path, counts, start)
        if not self.full:
            self.now = replace(self.now, piece=position[1] + 1, offset=0)

    def _add(self, path: Path, counts: Counts, start: int) -> Iterator[str]:
        ids = TokenFile(file_of(path, self.split, TOKENS), self.dtype, count=counts.tokens)
        mask = TokenFile(file_of(path, self.split, MASK), "u1", count=counts.tokens) if counts.masked else None
        places = np.empty(0, np.int64)
        if counts.documents:
            places = np.fromfile(file_of(path, self.split, OFFSETS), "<u8").astype(np.int64)
        while start < counts.tokens and not self.full:
            shard = self._open = self._open or _Shard(self._path_of(self.now.shards), self.dtype)
            stop = min(counts.tokens, start + self.shard_size - shard.count)
            if self.limit is not None:
                stop = min(stop, start + self.limit - self.now.tokens)
            here = places[np.searchsorted(places, start) : np.searchsorted(places, stop)]
            shard.add(ids, mask, start, stop, here)
            self.now = replace(
                self.now,
                offset=stop,
                tokens=self.now.tokens + stop - start,
                documents=self.now.documents + len(here),
                masked=self.now.masked or shard.masked,
            )
            start = stop
            if shard.count == self.shard_size:
                yield self._flush()

    def finish(self) -> Iterator[str]:
        """Write the last, shorter shard, whose name is yielded, and the masks of shards that have none."""
        if self._open is not None:
            yield self._flush()
        for path in map(self._path_of, range(self.now.shards) if self.now.masked else ()):
            if not path.with_suffix(MASK).exists():
                with write_file(path.with_suffix(MASK)) as file:
                    file.write(b"\1" * ((path.stat().st_size - HEADER) // np.dtype(self.dtype).itemsize))
        self._save(done=True)

    def close(self) -> None:
        """Drop the shard that is not complete."""
        if self._open is not None:
            self._open.drop()

    def _flush(self) -> str:
        assert self._open is not None
        self._open.finish()
        name, self._open = self._open.path.name, None
        self._save(shards=self.now.shards + 1)
        return name

    def _save(self, **changes: int | bool) -> None:
        self.now = self.states[self.split] = replace(self.now, **changes)  # type: ignore[arg-type]
        with write_file(self.work / STATE) as file:
            file.write(json.dumps({split: asdict(state) for split, state in self.states.items()}).encode())


class _Shard:
    """A shard being written, under other names until `finish`."""

    def __init__(self, path: Path, dtype: str) -> None:
        self.path, self.dtype, self.count, self.masked = path, dtype, 0, False
        self._stack = ExitStack()
        self._tokens = self._enter(path)
        self._offsets = self._enter(path.with_suffix(OFFSETS))
        self._mask: IO[bytes] | None = None
        self._tokens.write(b"\0" * HEADER)

    def _enter(self, path: Path) -> IO[bytes]:
        return self._stack.enter_context(write_file(path))

    def add(
        self,
        ids: TokenFile,
        mask: TokenFile | None,
        start: int,
        stop: int,
        places: "np.ndarray[tuple[int], np.dtype[np.int64]]",
    ) -> None:
        """Append the tokens start to stop of a part, in which documents start in these places."""
        with self._written():
            self._append(ids, mask, start, stop, places)
        self.count += stop - start

    def _append(
        self, ids: TokenFile, mask: TokenFile | None, start: int, stop: int, places: "np.ndarray[Any, Any]"
    ) -> None:
        self._offsets.write((places - start + self.count).astype("<u8").tobytes())
        if mask is not None and self._mask is None:
            self._mask, self.masked = self._enter(self.path.with_suffix(MASK)), True
            self._mask.write(b"\1" * self.count)
        for begin in range(start, stop, CHUNK):
            window = slice(begin, min(stop, begin + CHUNK))
            self._tokens.write(ids[window].data)
            if self._mask is not None:
                self._mask.write(b"\1" * (window.stop - begin) if mask is None else mask[window].data)

    def finish(self) -> None:
        """Write the header, sync and rename."""
        with self._written():
            self._tokens.seek(0)
            shape = {"descr": np.dtype(self.dtype).str, "fortran_order": False, "shape": (self.count,)}
            np.lib.format.write_array_header_1_0(self._tokens, shape)
            assert self._tokens.tell() == HEADER
            self._tokens.seek(0, os.SEEK_END)
        self._stack.close()

    @contextmanager
    def _written(self) -> Iterator[None]:
        """Make a failed write the error of `write_file`, which removes what was written."""
        try:
            yield
        except OSError:
            with self._stack:
                raise

    def drop(self) -> None:
        """Remove what was written."""
        with suppress(_DropError, UserError), self._stack:  # on a full disk, closing a file fails, and raises again
            raise _DropError


class _DropError(Exception):
    """Makes `write_file` remove its file instead of renaming it."""
