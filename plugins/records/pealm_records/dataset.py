"""Documents in records: a path, a folder or a glob, cut into parts that are read independently."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pealm_core import UserError
from pealm_files import data_files, data_suffix, files_version, is_validation
from pealm_records.config import RecordsConfig
from pealm_records.readers import READERS, SUFFIXES, Rows


@dataclass(frozen=True)
class SplitPart:
    """Some rows of a file, for both splits. version: when the file was changed."""

    rows: Rows
    val_fraction: float
    version: int

    @property
    def name(self) -> str:
        """The file, and which rows of it."""
        return str(self.rows.path) if self.rows.stop is None else f"{self.rows.path} from {self.rows.start:,}"

    @property
    def size(self) -> int:
        """The number of bytes."""
        return self.rows.size

    def documents(self) -> Iterator[tuple[str, str]]:
        """Yield each document with its split. Raises UserError with file and row for one that can't be read."""
        for text in READERS[data_suffix(self.rows.path)].read(self.rows):
            if text:
                yield "val" if is_validation(text, self.val_fraction) else "train", text


@dataclass(frozen=True)
class Part:
    """The documents of one split in some rows of a file."""

    both: SplitPart
    split: str

    @property
    def name(self) -> str:
        """The file, and which rows of it."""
        return self.both.name

    @property
    def size(self) -> int:
        """The number of bytes."""
        return self.both.size

    @property
    def version(self) -> int:
        """When the file was changed."""
        return self.both.version

    def documents(self) -> Iterator[str]:
        """Yield the documents."""
        return (text for split, text in self.both.documents() if split == self.split)


class Records:
    """The documents of a path's records; rows without a text are left out."""

    def __init__(self, config: RecordsConfig) -> None:
        self.config = config

    def documents(self, split: str) -> Iterator[str]:
        """Yield the documents of a split in the order of the files and rows."""
        for part in self.parts(split):
            yield from part.documents()

    def whole(self) -> Iterator[str]:
        """Yield all documents."""
        for rows, _ in self._rows():
            yield from filter(None, READERS[data_suffix(rows.path)].read(rows))

    def parts(self, split: str) -> list[Part]:
        """Return the parts of a split: some megabytes of rows each, but whole files of .csv and compressed ones."""
        return [Part(part, split) for part in self.split_parts()]

    def split_parts(self) -> list[SplitPart]:
        """Return the parts with the documents of both splits, so that each file is read once."""
        return [SplitPart(rows, self.config.val_fraction, version) for rows, version in self._rows()]

    def version(self) -> Any:
        """Return what changes with the documents: the settings, and the files' sizes and times."""
        version = files_version(self._paths())
        return version and [repr(self.config), version]

    def _paths(self) -> list[Path]:
        return data_files(f"--input.records {self.config.path}", self.config.path, SUFFIXES)

    def _rows(self) -> Iterator[tuple[Rows, int]]:
        option = f"--input.records {self.config.path}"
        for path in self._paths():
            if data_suffix(path) not in READERS:
                raise UserError(f"{option}: {Path(path).name} is not one of {', '.join(SUFFIXES)}{_advice(path)}")
            version = path.stat().st_mtime_ns
            for rows in READERS[data_suffix(path)].split(path, self.config.column):
                yield rows, version


def _advice(path: Path) -> str:
    return f"; for text, --input.text {path}" if data_suffix(path) in (".txt", ".md") else ""
