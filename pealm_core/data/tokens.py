"""A file of token ids, of which only what is asked for is ever read.

Read with `pread` and not through a memory map: where a file shrinks under a map, the next touch ends the process with
SIGBUS and without a word. A read that comes back short is an error that names the file.
"""

import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pealm_core.contract.errors import UserError


class TokenFile:
    """The ids that a file holds from byte `offset` on: `len(tokens)`, and `tokens[a:b]` as an array.

    The file stays open: one that is deleted or replaced meanwhile is read to its end as it was.
    """

    def __init__(self, path: Path, dtype: Any, *, offset: int = 0, count: int | None = None) -> None:
        """count: ids in the file; None: all from the offset on. Raises UserError where it holds fewer."""
        self.path, self.dtype, self._offset = path, np.dtype(dtype), offset
        try:
            self._handle = os.open(path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._handle)
            size = os.fstat(self._handle).st_size
        except OSError as error:
            raise UserError(f"{path} can't be read: {error.strerror}") from error
        held = max(0, size - offset) // self.dtype.itemsize
        if count is not None and held < count:
            raise UserError(f"{path} is cut short: it holds {held:,} tokens and says {count:,}; write it again")
        self._count = held if count is None else count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, window: slice) -> NDArray[Any]:
        """The ids of a slice without a step. Raises UserError where the file has become shorter."""
        start, stop, _ = window.indices(self._count)
        wanted = max(0, stop - start) * self.dtype.itemsize
        at = self._offset + start * self.dtype.itemsize
        try:
            data = os.pread(self._handle, wanted, at)
            while len(data) < wanted:  # Linux gives at most 2 GiB at once
                more = os.pread(self._handle, wanted - len(data), at + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise UserError(f"{self.path} can't be read: {error.strerror}") from error
        if len(data) < wanted:
            raise UserError(f"{self.path} has become shorter while it was read; put it back and go on with the run")
        return np.frombuffer(data, self.dtype)
