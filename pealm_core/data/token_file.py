"""Files of token ids, read one slice at a time.

Uses `pread` instead of a memory map: when a mapped file is truncated, the next access kills the process with SIGBUS,
while a short read is an error that can name the file.
"""

import os
import stat
import threading
import weakref
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pealm_core.contract.errors import UserError

MAX_OPEN = 32  # files open at a time: macOS allows a process 256, Linux usually 1,024


class TokenFile:
    """The token ids in a file from byte `offset` on: `len(tokens)`, and `tokens[a:b]` as an array.

    The `MAX_OPEN` files used last stay open and are read as they were when opened, even if deleted or replaced
    meanwhile. The others are reopened when needed, which is an error if their size or modification time has changed.
    """

    def __init__(self, path: Path, dtype: Any, *, offset: int = 0, count: int | None = None) -> None:
        """count: number of ids; None: all from the offset on. Raises UserError if the file has fewer."""
        self.path, self.dtype, self._offset = path, np.dtype(dtype), offset
        try:
            self._version = _version(path)
            _open(path, self._version)
        except OSError as error:
            raise UserError(f"{path} can't be read: {error.strerror}") from error
        available = max(0, self._version[0] - offset) // self.dtype.itemsize
        if count is not None and available < count:
            raise UserError(f"{path} is truncated: {available:,} of {count:,} tokens; write it again")
        self._count = available if count is None else count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, window: slice) -> NDArray[Any]:
        """Return the ids of a slice, as numpy does. Raises UserError if the file has been truncated."""
        if not isinstance(window, slice):
            raise TypeError(f"tokens are indexed by a slice, tokens[a:b], not by {window!r}")
        places = range(self._count)[window]
        if not places:
            return np.empty(0, self.dtype)
        start, stop = min(places[0], places[-1]), max(places[0], places[-1]) + 1
        size = (stop - start) * self.dtype.itemsize
        try:
            data = _open(self.path, self._version).read(size, self._offset + start * self.dtype.itemsize)
        except OSError as error:
            raise UserError(f"{self.path} can't be read: {error.strerror}") from error
        if len(data) < size:
            raise UserError(f"{self.path} has become shorter while in use; put it back and resume the run")
        return np.frombuffer(data, self.dtype)[:: places.step]


class _OpenFile:
    """A file descriptor that is closed when it is no longer referenced: never while another thread reads from it."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._descriptor)
        self._lock = threading.Lock()

    def read(self, size: int, position: int) -> bytes:
        """Return `size` bytes, or fewer at the end of the file."""
        data = self._read(size, position)
        while len(data) < size and (more := self._read(size - len(data), position + len(data))):
            data += more  # Linux reads at most 2 GiB at a time
        return data

    def _read(self, size: int, position: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, size, position)
        with self._lock:  # Windows
            os.lseek(self._descriptor, position, os.SEEK_SET)
            return os.read(self._descriptor, size)


@lru_cache(MAX_OPEN)
def _open(path: Path, version: tuple[int, int]) -> _OpenFile:
    if _version(path) != version:
        raise UserError(f"{path} was changed while in use; put it back and resume the run")
    return _OpenFile(path)


def _version(path: Path) -> tuple[int, int]:
    """Return size and modification time, but not the inode number, which some network file systems change."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # opening a FIFO would wait for a writer
        raise UserError(f"{path} is not a regular file")
    return status.st_size, status.st_mtime_ns
