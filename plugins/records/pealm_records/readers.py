"""The formats of records: how a file is cut into ranges of rows, and how the texts of a range are read."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pealm_core import UserError
from pealm_files import read_blocks, read_lines

RANGE = 2**23  # bytes of a part, at least; row groups of a parquet file are not cut
BATCH = 64  # rows of a parquet file that are read at a time; more are slower
SPLITTABLE = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Rows:
    """Rows of a file: bytes (.jsonl) or row groups (.parquet) start to stop; None: all of it. size in bytes."""

    path: Path
    column: str
    size: int
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True)
class Reader:
    """A format: `split(path, column)` gives ranges of rows, and `read(rows)` their texts, None for a null."""

    split: Callable[[Path, str], Iterable[Rows]]
    read: Callable[[Rows], Iterator[str | None]]


def _ranges(path: Path, column: str) -> Iterator[Rows]:
    """Yield ranges of bytes; a compressed file is one."""
    size = path.stat().st_size
    if path.suffix not in SPLITTABLE or size <= RANGE:
        yield Rows(path, column, size)
        return
    for start in range(0, size, RANGE):
        stop = min(size, start + RANGE)
        yield Rows(path, column, stop - start, start, stop)


def _whole(path: Path, column: str) -> Iterator[Rows]:
    yield Rows(path, column, path.stat().st_size)


def _read_jsonl(rows: Rows) -> Iterator[str | None]:
    for number, line in enumerate(read_lines(rows.path, rows.start, rows.stop), 1):
        try:
            text = line.decode("utf-8-sig")
            if not text.strip():
                continue
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            what = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else "is not JSON"
            why = f"{error.msg} (character {error.pos})" if isinstance(error, json.JSONDecodeError) else error
            raise UserError(f"{_line(rows, number)} {what}: {why}") from error
        if not isinstance(record, dict):
            raise UserError(f"{_line(rows, number)} is not an object with columns, but {text.strip():.40}")
        if rows.column not in record:
            raise _no_column(_line(rows, number), rows.column, list(record))
        value = _text(record[rows.column], rows, number)
        if value and not _has_utf8(value):
            raise UserError(
                f"{_line(rows, number)}: column {rows.column!r} has half a surrogate pair, which no text has"
            )
        yield value


def _read_csv(rows: Rows) -> Iterator[str | None]:
    csv.field_size_limit(2**31 - 1)
    separator = "\t" if ".tsv" in rows.path.suffixes else ","
    reader = csv.reader(_decoded(rows), delimiter=separator, strict=True)
    try:
        names = next(reader, [])
        if rows.column not in names:
            raise _no_column(str(rows.path), rows.column, names)
        place = names.index(rows.column)
        for row in filter(None, reader):
            if len(row) != len(names):
                raise UserError(f"{_line(rows, reader.line_num)} has {len(row)} columns, and the head {len(names)}")
            yield row[place]
    except csv.Error as error:
        raise UserError(f"{_line(rows, reader.line_num)} is not CSV: {error}") from error


def _decoded(rows: Rows) -> Iterator[str]:
    for number, line in enumerate(read_lines(rows.path), 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{_line(rows, number)} is not UTF-8: {error}") from error


def _row_groups(path: Path, column: str) -> Iterator[Rows]:
    """Yield ranges of row groups."""
    import pyarrow as pa  # type: ignore[import-untyped]

    with _Parquet(path) as file:
        schema = file.schema_arrow
        if column not in schema.names:
            raise _no_column(str(path), column, schema.names)
        kind = schema.field(column).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            raise UserError(f"{path}: column {column!r} is {kind}, not text")
        sizes = [file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups)]
    start, size = 0, 0
    for group, more in enumerate(sizes):
        size += more
        if size >= RANGE or group == len(sizes) - 1:
            yield Rows(path, column, size, start, group + 1)
            start, size = group + 1, 0


def _read_parquet(rows: Rows) -> Iterator[str | None]:
    with _Parquet(rows.path) as file:
        groups = list(range(rows.start, file.num_row_groups if rows.stop is None else rows.stop))
        for batch in file.iter_batches(BATCH, row_groups=groups, columns=[rows.column], use_threads=False):
            yield from batch.column(0).to_pylist()


class _Parquet:
    """An open parquet file, whose errors become a UserError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Any:
        import pyarrow.parquet as pq  # type: ignore[import-untyped]

        try:
            self._file = pq.ParquetFile(self.path)
        except Exception as error:
            self.__exit__(None, error)
            raise
        return self._file

    def __exit__(self, kind: object, error: BaseException | None, *_: object) -> None:
        import pyarrow as pa

        if hasattr(self, "_file"):
            self._file.close()
        if isinstance(error, UnicodeDecodeError):
            raise UserError(f"{self.path} has a text that is not UTF-8: {error}") from error
        if isinstance(error, pa.ArrowException | OSError):
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{self.path} is not a readable parquet file: {reason}") from error


def _text(value: Any, rows: Rows, number: int) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise UserError(f"{_line(rows, number)}: column {rows.column!r} is {json.dumps(value):.40}, not text")


def _has_utf8(text: str) -> bool:
    """Whether a text has no lone surrogate, which JSON can express as \\ud800."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _no_column(place: str, column: str, names: Sequence[str]) -> UserError:
    listed = ", ".join(map(str, names[:20])) or "none"
    return UserError(f"{place} has no column {column!r}; its columns: {listed} (--input.column NAME)")


def _line(rows: Rows, number: int) -> str:
    """Return the file and the line of a range's line `number`."""
    before = sum(block.count(b"\n") for block in read_blocks(rows.path, 0, rows.start)) if rows.start else 0
    if rows.start:  # the range's first line is the one that begins at or after `start`
        last = b"".join(read_blocks(rows.path, rows.start - 1, rows.start))
        before += last != b"\n"
    return f"{rows.path}, line {before + number:,}"


READERS = {
    ".jsonl": Reader(_ranges, _read_jsonl),
    ".ndjson": Reader(_ranges, _read_jsonl),
    ".csv": Reader(_whole, _read_csv),
    ".tsv": Reader(_whole, _read_csv),
    ".parquet": Reader(_row_groups, _read_parquet),
}
SUFFIXES = tuple(READERS)
