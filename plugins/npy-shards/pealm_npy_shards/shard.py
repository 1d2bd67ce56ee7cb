"""The formats of token shards: where their ids are, where documents start, and which tokens are learned.

.npy: build-nanogpt's. .bin: llm.c's (a header of 256 int32: magic, version, number of tokens), Megatron's (with an
.idx beside it), or nanoGPT's (ids alone). .ds: datatrove's (ids alone; .ds.index, .ds.loss, .ds.metadata beside it).
"""

import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pealm_core import TokenFile, UserError

SUFFIXES = (".npy", ".bin", ".ds")
LLM_C_HEADER = 1024
LLM_C = {20240520: (1, "<u2"), 20240801: (7, "<u4")}  # magic: version, dtype
MEGATRON = struct.Struct("<9sQBQQ")  # magic, version, dtype, number of sequences, number of document ends
MEGATRON_MAGIC = b"MMIDIDX\0\0"
MEGATRON_DTYPES = {4: "<i4", 5: "<i8", 8: "<u2"}


@dataclass(frozen=True)
class Shard:
    """The ids of a file: `count` of them from byte `offset` on."""

    path: Path
    offset: int
    count: int
    dtype: np.dtype[Any]

    def open(self, start: int = 0, stop: int | None = None) -> TokenFile:
        """Return the ids start to stop."""
        stop = self.count if stop is None else stop
        return TokenFile(self.path, self.dtype, offset=self.offset + start * self.dtype.itemsize, count=stop - start)


def open_shard(path: Path, dtype: str = "uint16") -> TokenFile:
    """Open the ids of a file. dtype: of files that don't say it. Raises UserError with the file's name."""
    return read_header(path, dtype).open()


def read_header(path: Path, dtype: str = "uint16") -> Shard:
    """Return where the ids of a file are, after a comparison with the file's size. Raises UserError."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a FIFO would wait for a writer
            raise UserError(f"{path} is not a regular file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise ValueError("is empty: it has no bytes")
            if path.suffix == ".npy":
                offset, count, kind = _npy_header(file)
            elif path.suffix == ".ds":
                offset, count, kind = _plain(size, _datatrove_dtype(path) or dtype)
            elif index_of(path).exists():
                offset, count, kind = _megatron_header(path)
            else:
                offset, count, kind = _bin_header(file, size, dtype)
    except ValueError as error:
        raise UserError(f"{path} {error}") from error
    except OSError as error:
        raise UserError(f"{error.filename or path} can't be read: {error.strerror}") from error
    if count == 0:
        raise UserError(f"{path} is empty: it has no tokens")
    wanted = offset + count * kind.itemsize
    if size != wanted:
        what = "truncated" if size < wanted else "too long"
        raise UserError(
            f"{path} is {what}: it has {size:,} bytes; a header of {count:,} tokens means {wanted:,} bytes"
        )
    return Shard(path, offset, count, kind)


def offsets_of(path: Path) -> NDArray[np.int64] | None:
    """Return where documents start in a shard, if a file says so. Raises UserError."""
    try:
        if path.suffix == ".ds" and (index := beside(path, ".ds.index")).exists():
            return np.concatenate([[0], _places(index)[:-1]])
        if path.suffix == ".bin" and index_of(path).exists():
            _, lengths, ends = _megatron_index(index_of(path))
            starts = np.concatenate([[0], np.cumsum(lengths)])
            return starts[ends[:-1]].astype(np.int64)
        if (index := path.with_suffix(".offsets")).exists():
            return _places(index)
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"the documents of {path} can't be read: {error}") from error
    return None


def _places(path: Path) -> NDArray[np.int64]:
    if path.stat().st_size % 8:
        raise ValueError(f"{path.name} is truncated: {path.stat().st_size:,} bytes are not a number of uint64")
    return np.fromfile(path, "<u8").astype(np.int64)


def mask_of(path: Path) -> Path:
    """Return the file that says which tokens are learned, a byte for each; it may not exist."""
    return beside(path, ".ds.loss") if path.suffix == ".ds" else path.with_suffix(".mask")


def beside(path: Path, ending: str) -> Path:
    """Return the name of a file beside a shard, `a.ds.index` for `a.ds`."""
    return path.with_name(path.stem + ending)


def index_of(path: Path) -> Path:
    """Return the name of Megatron's index."""
    return path.with_suffix(".idx")


Header = tuple[int, int, np.dtype[Any]]  # byte offset of the ids, their number and their dtype


def _npy_header(file: IO[bytes]) -> Header:
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


def _bin_header(file: IO[bytes], size: int, dtype: str) -> Header:
    """Return what llm.c's header says; a file that doesn't start with its magic has ids alone."""
    data = file.read(LLM_C_HEADER)
    magic = int.from_bytes(data[:4], "little")
    if magic not in LLM_C:
        return _plain(size, dtype)
    if len(data) < LLM_C_HEADER:
        raise ValueError(f"is truncated: it has {len(data)} bytes, less than llm.c's header of {LLM_C_HEADER:,}")
    version, tokens = np.frombuffer(data, "<i4")[1:3].tolist()
    wanted, dtype = LLM_C[magic]
    if version != wanted:
        raise ValueError(f"is not an llm.c data file: magic {magic} has version {wanted}, not {version}")
    if tokens < 0:
        raise ValueError(f"has {tokens} tokens according to its header")
    return LLM_C_HEADER, tokens, np.dtype(dtype)


def _plain(size: int, dtype: str) -> Header:
    kind = np.dtype(dtype).newbyteorder("<")
    if size % kind.itemsize:
        raise ValueError(f"is truncated: {size:,} bytes are not a number of {kind.name} ids")
    return 0, size // kind.itemsize, kind


def _datatrove_dtype(path: Path) -> str | None:
    """Return the dtype in the metadata: the first line ends in `|2` or `|4`, the bytes of an id."""
    metadata = beside(path, ".ds.metadata")
    if not metadata.exists():
        return None
    size = metadata.read_text(encoding="utf-8").partition("\n")[0].rpartition("|")[2].strip()
    if size not in ("2", "4"):
        raise ValueError(f"has a .metadata file whose first line doesn't end in |2 or |4, but in {size!r:.20}")
    return "uint16" if size == "2" else "uint32"


def _megatron_header(path: Path) -> Header:
    dtype, lengths, _ = _megatron_index(index_of(path))
    return 0, int(lengths.sum(dtype=np.int64)), dtype


def _megatron_index(path: Path) -> tuple[np.dtype[Any], NDArray[np.int32], NDArray[np.int64]]:
    """Return the dtype of the ids, the length of each sequence, and the first sequence of each document."""
    data = path.read_bytes()
    if len(data) < MEGATRON.size:
        raise ValueError(f"has a truncated {path.name}")
    magic, version, code, sequences, documents = MEGATRON.unpack_from(data)
    if (magic, version) != (MEGATRON_MAGIC, 1) or code not in MEGATRON_DTYPES:
        raise ValueError(f"has an index that is not Megatron's: {path.name}")
    lengths_end = MEGATRON.size + 4 * sequences
    if len(data) < lengths_end + 8 * (sequences + documents):
        raise ValueError(f"has a truncated {path.name}")
    lengths = np.frombuffer(data, "<i4", sequences, MEGATRON.size)
    ends = np.frombuffer(data, "<i8", documents, lengths_end + 8 * sequences)
    return np.dtype(MEGATRON_DTYPES[code]), lengths, ends
