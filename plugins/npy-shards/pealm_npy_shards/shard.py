"""The two formats of token shards: their headers, and a check of the file's size against them."""

import os
import stat
from pathlib import Path
from typing import IO, Any

import numpy as np

from pealm_core import TokenFile, UserError

# llm.c's data files: a header of 256 int32 that begins with magic, version and the number of uint16 tokens.
BIN_MAGIC, BIN_VERSION, BIN_HEADER = 20240520, 1, 1024


def open_shard(path: Path) -> TokenFile:
    """Open the ids of an `.npy` or llm.c `.bin` file. Raises UserError with the file's name."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a FIFO would wait for a writer
            raise UserError(f"{path} is not a regular file")
        with path.open("rb") as file:
            header = _bin_header if path.suffix == ".bin" else _npy_header
            offset, count, dtype = header(file)
            size = os.fstat(file.fileno()).st_size
    except ValueError as error:
        raise UserError(f"{path} {error}") from error
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from error
    if count == 0:
        raise UserError(f"{path} is empty: it has no tokens")
    wanted = offset + count * dtype.itemsize
    if size != wanted:
        what = "truncated" if size < wanted else "too long"
        raise UserError(
            f"{path} is {what}: it has {size:,} bytes; a header of {count:,} tokens means {wanted:,} bytes"
        )
    return TokenFile(path, dtype, offset=offset, count=count)


def _npy_header(file: IO[bytes]) -> tuple[int, int, np.dtype[Any]]:
    """Return the offset, number and dtype of the ids. Raises ValueError."""
    if os.fstat(file.fileno()).st_size == 0:
        raise ValueError("is empty: it has no bytes")
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except ValueError as error:
        raise ValueError(f"is not an .npy file: {error}") from error
    if dtype.newbyteorder("=") not in (np.dtype("uint16"), np.dtype("uint32")):
        raise ValueError(f"has {dtype}; token shards are uint16 or uint32")
    if len(shape) != 1:
        raise ValueError(f"has shape {shape}; token shards have one dimension")
    return file.tell(), shape[0], dtype


def _bin_header(file: IO[bytes]) -> tuple[int, int, np.dtype[Any]]:
    """Return the same for an llm.c file. Raises ValueError."""
    data = file.read(BIN_HEADER)
    if len(data) < BIN_HEADER:
        raise ValueError(f"is truncated: it has {len(data)} bytes, less than llm.c's header of {BIN_HEADER:,}")
    magic, version, tokens = np.frombuffer(data, "<i4")[:3].tolist()
    if (magic, version) != (BIN_MAGIC, BIN_VERSION):
        raise ValueError(
            f"is not an llm.c data file of GPT-2 tokens: magic {magic} and version {version}, "
            f"not {BIN_MAGIC} and {BIN_VERSION}"
        )
    if tokens < 0:
        raise ValueError(f"has {tokens} tokens according to its header")
    return BIN_HEADER, tokens, np.dtype("<u2")
