"""Text files, read in blocks: as one document, or as documents between separators."""

import codecs
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import overload

from pealm_core import Document, Segment, UserError
from pealm_files import read_blocks, read_lines

PIECE = 2**22  # characters of a long text that are in memory at a time, at least
# Where a long text is cut: no known tokenizer has a token across these places.
CUTS = (re.compile(r"(?<=\S\n)(?=[^\W_])"), re.compile(r"(?<=[^\W_])(?= [^\W_])"))
NEARBY = 100_000  # characters in which a place to cut is looked for


def read_text(path: Path, start: int = 0, stop: int | None = None) -> Iterator[str]:
    """Yield a UTF-8 file's text in blocks; of a file that is not compressed, what is between two bytes.

    Raises UserError if it is empty, binary or not UTF-8.
    """
    decoder, lines, place, first = codecs.getincrementaldecoder("utf-8")("strict"), 1, start, True
    try:
        for block in read_blocks(path, start, stop):
            if first and not start:
                if b"\0" in block[:65536]:
                    raise UserError(f"{path} is not a text file: it has a zero byte at position {block.index(0):,}")
                if block.startswith(codecs.BOM_UTF8):
                    block, place = block.removeprefix(codecs.BOM_UTF8), len(codecs.BOM_UTF8)
            first = False
            text = decoder.decode(block)
            lines, place = lines + block.count(b"\n"), place + len(block)
            del block  # before the next one is read
            yield text
            del text
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        line = lines + error.object.count(b"\n", 0, error.start)
        place += error.start - len(decoder.getstate()[0])  # the decoder has kept the start of a character
        where = f"byte {error.object[error.start]:#04x} at position {place:,}, in line {line:,}"
        raise UserError(f"{path} is not UTF-8: {where}; convert it first") from error
    if first:
        raise UserError(f"{path} is empty")


def documents_of(path: Path, separator: str | None, start: int = 0, stop: int | None = None) -> Iterator[Document]:
    """Yield a file's documents; with start and stop, those that begin between these bytes.

    Those between separators are without the line ends around them; empty ones are left out.
    """
    if separator is None:
        start_of_text = list(islice(_pieces(read_text(path)), 2))
        yield start_of_text[0] if len(start_of_text) == 1 else LongText(path)
        return
    end = separator.encode()
    for line in read_lines(path, start, stop, end=end):
        try:
            text = line.removesuffix(end).decode().removeprefix("\ufeff").strip("\r\n")
        except UnicodeDecodeError:
            for _ in read_text(path):  # which raises the error with its line
                pass
            raise
        if text:
            yield text


class LongText(Sequence[Segment]):
    """A file as one document, whose segments are read when they are asked for; of it, some characters."""

    def __init__(self, path: Path, start: int = 0, stop: int | None = None) -> None:
        self._path, self._start, self._stop = path, start, stop

    def __iter__(self) -> Iterator[Segment]:
        place = 0
        for piece in _pieces(read_text(self._path)):
            stop = len(piece) if self._stop is None else max(0, self._stop - place)
            if part := piece[max(0, self._start - place) : stop]:
                yield Segment(part)
            place += len(piece)
            if self._stop is not None and place >= self._stop:
                return

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return True

    @overload
    def __getitem__(self, index: int) -> Segment: ...
    @overload
    def __getitem__(self, index: slice) -> list[Segment]: ...
    def __getitem__(self, index: int | slice) -> Segment | list[Segment]:
        if isinstance(index, slice):
            return list(islice(self, index.start, index.stop, index.step))
        for segment in islice(self, index, None):
            return segment
        raise IndexError(index)


def cut(document: Document, start: int, stop: int) -> Document:
    """Return the characters start to stop of a whole document."""
    if isinstance(document, str):
        return document[start:stop]
    assert isinstance(document, LongText)
    return LongText(document._path, start, stop)


def length(document: Document) -> int:
    """Return the number of characters."""
    return len(document) if isinstance(document, str) else sum(len(segment.text) for segment in document)


def pieces_of(path: Path) -> Iterator[tuple[int, int]]:
    """Yield of each piece of a file's text its bytes, with a byte order mark, and its number of characters."""
    mark = len(codecs.BOM_UTF8) if next(read_blocks(path), b"").startswith(codecs.BOM_UTF8) else 0
    for piece in _pieces(read_text(path)):
        yield mark + len(piece.encode()), len(piece)
        mark = 0


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    """Yield a text in pieces of at least PIECE characters; the last one may have less."""
    rest = ""
    for text in texts:
        rest += text
        del text
        while len(rest) > PIECE + NEARBY:
            place = _place_to_cut(rest)
            yield rest[:place]
            rest = rest[place:]
    if rest:
        yield rest


def _place_to_cut(text: str) -> int:
    """Return the first place from PIECE on that CUTS allows; if there is none nearby, PIECE + NEARBY."""
    for pattern in CUTS:
        if match := pattern.search(text, PIECE, PIECE + NEARBY):
            return match.start()
    return PIECE + NEARBY
