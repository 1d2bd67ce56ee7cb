"""Text from files: many documents are split by a hash; of few, the end is for validation, as in nanoGPT."""

import os
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pealm_core import Document, UserError, data_files, data_suffix, is_validation
from pealm_text.config import TextConfig
from pealm_text.reading import cut, documents_of, length, read_text

SUFFIXES = (".txt", ".md")
RECORDS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")  # that users take for text
MANY = 10  # documents in the smaller split, on average, from which a hash decides
RANGE = 2**23  # bytes of a part


@dataclass(frozen=True)
class Piece:
    """A file, or the documents that begin between two bytes of it. version: when the file was changed."""

    path: Path
    start: int
    stop: int | None
    size: int
    version: int


@dataclass(frozen=True)
class Part:
    """The documents of one split in some files, or in a piece of one."""

    pieces: Sequence[Piece]
    split: str
    config: TextConfig

    @property
    def name(self) -> str:
        """The first file, and where in it."""
        return f"{self.pieces[0].path} from {self.pieces[0].start:,}"

    @property
    def size(self) -> int:
        """The number of bytes."""
        return sum(piece.size for piece in self.pieces)

    @property
    def version(self) -> list[list[object]]:
        """What changes with the files."""
        return [[str(piece.path), piece.size, piece.version] for piece in self.pieces]

    def documents(self) -> Iterator[Document]:
        """Yield the documents."""
        for piece in self.pieces:
            for document in documents_of(piece.path, self.config.separator, piece.start, piece.stop):
                if is_validation(document, self.config.val_fraction) == (self.split == "val"):
                    yield document
                del document  # before the next one is read


class TextDataset:
    """The text files of a path, a folder or a glob; each is a document, or several with a separator."""

    def __init__(self, config: TextConfig) -> None:
        self.config = config

    def documents(self, split: str) -> Iterator[Document]:
        """Yield the documents of a split in the order of their names; without a hash, one is cut in two."""
        _, lengths = self._survey
        if self._many:
            for part in self.parts(split):
                yield from part.documents()
            return
        border, place, number = int(sum(lengths) * (1 - self.config.val_fraction)), 0, 0
        for document in self.whole():
            middle = min(max(border - place, 0), lengths[number])
            start, stop = (0, middle) if split == "train" else (middle, lengths[number])
            place, number = place + lengths[number], number + 1
            if start < stop:
                part_ = cut(document, start, stop)
                del document  # its memory is needed for tokenizing the part
                yield part_
                del part_

    def parts(self, split: str) -> list[Part]:
        """Return the independent parts of a split; none if it is the end of the text."""
        parts: list[Part] = []
        waiting: list[Piece] = []
        for path in self.files() if self._many else ():
            for piece in self._cut(path):
                waiting.append(piece)
                if sum(piece.size for piece in waiting) >= RANGE:
                    parts.append(Part(tuple(waiting), split, self.config))
                    waiting = []
        return [*parts, Part(tuple(waiting), split, self.config)] if waiting else parts

    def whole(self) -> Iterator[Document]:
        """Yield all documents; one at a time, or a piece of a long one, is in memory."""
        for path in self.files():
            yield from documents_of(path, self.config.separator)

    def files(self) -> list[Path]:
        """Return the files that the path means, without those to skip. Raises UserError if there are none."""
        return self._survey[0]

    @property
    def _many(self) -> bool:
        fraction = self.config.val_fraction
        return len(self._survey[1]) * min(fraction, 1 - fraction) >= MANY

    @cached_property
    def _survey(self) -> "tuple[list[Path], array[int]]":
        """The files that can be read, and the length of each document. Raises UserError with all that can't."""
        option = f"--input.text {self.config.path}"
        paths, good, bad, lengths = data_files(option, self.config.path, SUFFIXES), [], [], array("q")
        for path in paths:
            if data_suffix(path) in RECORDS:
                raise UserError(f"{option}: {path.name} has records, not text; use --input.records {path}")
            try:
                lengths.extend(self._lengths(path))
                good.append(path)
            except UserError as error:
                bad.append(str(error))
        if bad and not (self.config.skip_bad and good):
            if len(paths) == 1:
                raise UserError(bad[0])
            advice = "; --input.skip-bad true leaves such files out" if good else ""
            raise UserError(f"{len(bad)} of {len(paths)} files can't be used: {'; '.join(bad)}{advice}")
        if os.environ.get("RANK", "0") == "0":
            for line in bad:
                print(f"pealm: skipped: {line}", file=sys.stderr)
        return good, lengths

    def _lengths(self, path: Path) -> list[int]:
        if self.config.separator is None:
            return [sum(map(len, read_text(path)))]
        next(read_text(path))  # raises an error if it is empty or binary
        return [length(document) for document in documents_of(path, self.config.separator)]

    def _cut(self, path: Path) -> Iterator[Piece]:
        """Yield a file, or ranges of bytes if documents can be found from anywhere in it."""
        status, separator = path.stat(), self.config.separator
        size, version = status.st_size, status.st_mtime_ns
        overlaps = separator is None or any(separator.endswith(separator[:n]) for n in range(1, len(separator)))
        if overlaps or path.suffix in (".gz", ".zst") or size <= RANGE:
            yield Piece(path, 0, None, size, version)
            return
        for start in range(0, size, RANGE):
            yield Piece(path, start, min(size, start + RANGE), min(RANGE, size - start), version)
