"""A worker's piece of work: some rows of a parquet file as tokens. Runs in processes of its own."""

import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import tiktoken
from numpy.typing import NDArray

from pealm_core import UserError
from pealm_fineweb.config import ENCODING, END_OF_TEXT

COLUMN = "text"
PIECE_ROWS = 1000  # about a million tokens, a second's work; FineWeb's row groups have as many
READ_ROWS = 256


@dataclass(frozen=True)
class Piece:
    """Rows start to stop of a row group; row: which row of the file is the first of them."""

    path: Path
    group: int
    start: int
    stop: int
    row: int


@dataclass(frozen=True)
class Tokens:
    """ids: uint16, end-of-text before every document. ends: where each row's ids end."""

    ids: NDArray[np.uint16]
    ends: NDArray[np.int64]


def pieces(path: Path, first_row: int = 0) -> tuple[list[Piece], int]:
    """The pieces of a parquet file from a row on, and its number of rows. Raises UserError naming a bad file."""
    found, row = [], 0
    try:
        with pq.ParquetFile(path) as file:
            schema, rows = (
                file.schema_arrow,
                [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)],
            )
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is no readable parquet file: {_first_line(error)}") from error
    if COLUMN not in schema.names or not _is_text(schema.field(COLUMN).type):
        raise UserError(f"{path} has no column {COLUMN!r} of text; its columns: {', '.join(schema.names)}")
    for group, count in enumerate(rows):
        # Every piece reads its group from the front, so that a huge group is not cut too fine.
        step = max(PIECE_ROWS, -(-count // 16))
        for start in range(0, count, step):
            stop, skip = min(start + step, count), max(0, first_row - row - start)
            if start + skip < stop:
                found.append(Piece(path, group, start + skip, stop, row + start + skip))
        row += count
    return found, row


def tokenize(piece: Piece) -> Tokens:
    """The tokens of a piece; a row without text has none. Raises UserError naming the file."""
    encoding, parts, ends, at = gpt2(), [], [], 0
    marked = np.array([END_OF_TEXT], np.uint16)
    total = 0
    try:
        with pq.ParquetFile(piece.path) as file:
            for batch in file.iter_batches(READ_ROWS, row_groups=[piece.group], columns=[COLUMN], use_threads=False):
                begin, end = max(0, piece.start - at), min(batch.num_rows, piece.stop - at)
                at += batch.num_rows
                for text in batch.column(0).slice(begin, end - begin).to_pylist() if begin < end else ():
                    if text is not None:
                        ids = encoding.encode_to_numpy(text, disallowed_special=()).astype(np.uint16)
                        parts += [marked, ids]
                        total += 1 + len(ids)
                    ends.append(total)
                if at >= piece.stop:
                    break
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{piece.path}, near row {piece.row:,}: {_first_line(error)}") from error
    return Tokens(np.concatenate(parts) if parts else np.empty(0, np.uint16), np.array(ends, np.int64))


@cache
def gpt2() -> tiktoken.Encoding:
    """GPT-2's encoding, from tiktoken's cache or downloaded into it. Raises UserError."""
    try:
        return tiktoken.get_encoding(ENCODING)
    except (OSError, ValueError) as error:  # requests' errors are OSErrors
        raise UserError(
            f"tiktoken has no files for encoding {ENCODING!r} here and can't download them ({type(error).__name__}); "
            f"bring its cache from a machine with internet and set TIKTOKEN_CACHE_DIR to it"
        ) from error


def start() -> None:
    """Set a worker process up: it leaves Ctrl-C to its parent and ends with it, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pa.set_cpu_count(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
