"""The texts in some rows of a parquet file."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from pealm_core import UserError
from pealm_files import is_validation

COLUMN = "text"
PIECE_ROWS = 1000  # about a million tokens, a second's work; FineWeb's row groups have as many
READ_ROWS = 64  # at a time; more are slower


@dataclass(frozen=True)
class Piece:
    """Rows start to stop of a row group, `size` of them. version: of the file."""

    name: str
    size: int
    version: int | str
    path: Path
    group: int
    start: int
    stop: int
    val_fraction: float | None

    def documents(self) -> Iterator[tuple[str, str]]:
        """Yield each text with its split; a row without text has none. Raises UserError with the file's name."""
        place, fraction = 0, self.val_fraction
        try:
            with pq.ParquetFile(self.path) as file:
                options = {"row_groups": [self.group], "columns": [COLUMN], "use_threads": False}
                for batch in file.iter_batches(READ_ROWS, **options):
                    begin, end = max(0, self.start - place), min(batch.num_rows, self.stop - place)
                    place += batch.num_rows
                    for text in batch.column(0).slice(begin, end - begin).to_pylist() if begin < end else ():
                        if text is not None:
                            yield "val" if fraction and is_validation(text, fraction) else "train", text
                    if place >= self.stop:
                        return
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self.path.parent / self.name}: {_first_line(error)}") from error


def pieces(path: Path, version: int | str, val_fraction: float | None) -> list[Piece]:
    """Return the pieces of a parquet file. Raises UserError with the name of a bad file."""
    cut, row = [], 0
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a readable parquet file: {_first_line(error)}") from error
    kind = schema.field(COLUMN).type if COLUMN in schema.names else pa.null()
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise UserError(f"{path} has no column {COLUMN!r} of text; its columns: {', '.join(schema.names)}")
    for group, count in enumerate(groups):
        # Every piece reads its group from the start, so a very large group is not cut too fine.
        step = max(PIECE_ROWS, -(-count // 16))
        for start in range(0, count, step):
            name, stop = f"{path.name}, near row {row + start:,}", min(start + step, count)
            cut.append(Piece(name, stop - start, version, path, group, start, stop, val_fraction))
        row += count
    return cut


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
