"""Text from files: many documents are split by a hash; of few, the end is for validation, as in nanoGPT."""

import os
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pealm_core import Document, UserError
from pealm_files import data_files, data_suffix, files_version, is_validation
from pealm_text.config import TextConfig
from pealm_text.reading import cut, documents_of, length, pieces_of, read_text

SUFFIXES = (".txt", ".md")
RECORDS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")  # that users take for text
MANY = 10  # documents in the smaller split, on average, from which a hash decides
RANGE = 2**23  # bytes of a part
COMPRESSED = (".gz", ".zst")


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


@dataclass(frozen=True)
class Excerpt:
    """The characters start to stop of what is between two bytes of a file; of all of it if it is compressed.

    continues: whether it is not the first of its document in the split.
    """

    path: Path
    begin: int
    end: int
    start: int
    stop: int
    continues: bool
    version: int

    @property
    def name(self) -> str:
        """The file, and where in it."""
        return f"{self.path} from {self.begin:,}"

    @property
    def size(self) -> int:
        """The number of bytes."""
        return self.end - self.begin

    def documents(self) -> Iterator[Document]:
        """Yield the text."""
        if self.path.suffix in COMPRESSED:
            yield from (cut(document, self.start, self.stop) for document in documents_of(self.path, None))
        else:
            yield "".join(read_text(self.path, self.begin, self.end))[self.start : self.stop]


@dataclass(frozen=True)
class Survey:
    """The files that can be read, the length of each document, and of long files the pieces that can be cut off."""

    files: list[Path] = field(default_factory=list)
    lengths: "array[int]" = field(default_factory=lambda: array("q"))
    pieces: dict[Path, list[tuple[int, int]]] = field(default_factory=dict)  # bytes and characters of each


class TextDataset:
    """The text files of a path, a folder or a glob; each is a document, or several with a separator."""

    def __init__(self, config: TextConfig) -> None:
        self.config = config

    def documents(self, split: str) -> Iterator[Document]:
        """Yield the documents of a split in the order of their names; without a hash, one is cut in two."""
        if self._many:
            for part in self._ranges(split):
                yield from part.documents()
            return
        bounds = self._bounds(split)
        for document in self.whole():
            start, stop = next(bounds)
            if start < stop:
                part_ = cut(document, start, stop)
                del document  # its memory is needed for tokenizing the part
                yield part_
                del part_

    def parts(self, split: str) -> Sequence[Part | Excerpt]:
        """Return the independent parts of a split; none of few documents with separators."""
        if self._many:
            return list(self._ranges(split))
        return [] if self.config.separator is not None else list(self._excerpts(split))

    def version(self) -> Any:
        """Return what changes with the documents: the settings, and the files' sizes and times."""
        version = files_version(self._paths())
        return version and [repr(self.config), version]

    def _ranges(self, split: str) -> Iterator[Part]:
        waiting, size = list[Piece](), 0
        for path in self.files():
            for piece in self._cut(path):
                waiting.append(piece)
                size += piece.size
                if size >= RANGE:
                    yield Part(tuple(waiting), split, self.config)
                    waiting, size = [], 0
        if waiting:
            yield Part(tuple(waiting), split, self.config)

    def _bounds(self, split: str) -> Iterator[tuple[int, int]]:
        """Yield which characters of each document are of a split whose validation is the end of the text."""
        lengths = self._survey.lengths
        border = int(sum(lengths) * (1 - self.config.val_fraction))
        for length_ in lengths:
            middle = min(max(border, 0), length_)
            yield (0, middle) if split == "train" else (middle, length_)
            border -= length_

    def _excerpts(self, split: str) -> Iterator[Excerpt]:
        for path, (start, stop) in zip(self.files(), self._bounds(split), strict=True):
            status, place, begin = path.stat(), 0, 0
            for size, length_ in self._survey.pieces.get(path, [(status.st_size, stop)]):
                first, last = max(start - place, 0), min(stop - place, length_)
                if first < last:
                    yield Excerpt(path, begin, begin + size, first, last, place + first > start, status.st_mtime_ns)
                place, begin = place + length_, begin + size

    def whole(self) -> Iterator[Document]:
        """Yield all documents; one at a time, or a piece of a long one, is in memory."""
        for path in self.files():
            yield from documents_of(path, self.config.separator)

    def files(self) -> list[Path]:
        """Return the files that the path means, without those to skip. Raises UserError if there are none."""
        return self._survey.files

    @property
    def _many(self) -> bool:
        fraction = self.config.val_fraction
        return len(self._survey.lengths) * min(fraction, 1 - fraction) >= MANY

    def _paths(self) -> list[Path]:
        return data_files(f"--input.text {self.config.path}", self.config.path, SUFFIXES)

    @cached_property
    def _survey(self) -> Survey:
        """What is in the files. Raises UserError with all that can't be read."""
        paths, survey, bad = self._paths(), Survey(), []
        for path in paths:
            if data_suffix(path) in RECORDS:
                option = f"--input.text {self.config.path}"
                raise UserError(f"{option}: {path.name} has records, not text; use --input.records {path}")
            try:
                self._add(survey, path)
            except UserError as error:
                bad.append(str(error))
        if bad and not (self.config.skip_bad and survey.files):
            if len(paths) == 1:
                raise UserError(bad[0])
            advice = "; --input.skip-bad true leaves such files out" if survey.files else ""
            raise UserError(f"{len(bad)} of {len(paths)} files can't be used: {'; '.join(bad)}{advice}")
        if os.environ.get("RANK", "0") == "0":
            for line in bad:
                print(f"pealm: skipped: {line}", file=sys.stderr)
        return survey

    def _add(self, survey: Survey, path: Path) -> None:
        """Add a file to what is known. Raises UserError."""
        if self.config.separator is None:
            pieces = list(pieces_of(path))
            lengths = [sum(length_ for _, length_ in pieces)]
            if len(pieces) > 1 and path.suffix not in COMPRESSED:
                survey.pieces[path] = pieces
        else:
            next(read_text(path))  # raises an error if it is empty or binary
            lengths = [length(document) for document in documents_of(path, self.config.separator)]
        survey.lengths.extend(lengths)
        survey.files.append(path)

    def _cut(self, path: Path) -> Iterator[Piece]:
        """Yield a file, or ranges of bytes if documents can be found from anywhere in it."""
        status, separator = path.stat(), self.config.separator
        size, version = status.st_size, status.st_mtime_ns
        overlaps = separator is None or any(separator.endswith(separator[:n]) for n in range(1, len(separator)))
        if overlaps or path.suffix in COMPRESSED or size <= RANGE:
            yield Piece(path, 0, None, size, version)
            return
        for start in range(0, size, RANGE):
            yield Piece(path, start, min(size, start + RANGE), min(RANGE, size - start), version)
