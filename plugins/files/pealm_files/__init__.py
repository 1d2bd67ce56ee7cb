"""Files of data: what a path, a folder or a glob means, and how files are read, compressed or not.

A library for plugins with datasets, not a plugin.
"""

import stat
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from glob import glob, has_magic
from hashlib import blake2b
from pathlib import Path
from typing import Any

from pealm_core import Document, UserError

COMPRESSED = (".gz", ".zst")
BLOCK = 2**20  # bytes
RECENT = 2.0  # seconds in which a file may change twice without a difference in its time


def data_suffix(path: Path) -> str:
    """Return the suffix of a file without its compression: `.jsonl` for `docs.jsonl.gz`."""
    return Path(path.stem).suffix.lower() if path.suffix in COMPRESSED else path.suffix.lower()


def data_files(option: str, path: str, suffixes: Iterable[str]) -> list[Path]:
    """Return the files that a path, a folder (all with these suffixes in it) or a glob means, in order.

    Hidden files and folders are left out. option: how messages call the path. Raises UserError if there are none.
    """
    place, wanted = Path(path), tuple(suffixes)
    if not str(path):
        raise UserError(f"{option}: the path is empty")
    if place.is_dir():
        inside = (
            file for file in place.rglob("*") if not any(part[0] == "." for part in file.relative_to(place).parts)
        )
        files = sorted(file for file in inside if data_suffix(file) in wanted and _may_be_read(file))
        if not files:
            raise UserError(f"{option}: the folder has no {' or '.join(wanted)} file")
        return files
    if place.exists():
        return [place]
    if has_magic(path):
        files = sorted(Path(name) for name in glob(path, recursive=True) if _may_be_read(Path(name)))  # noqa: PTH207 (takes absolute ones)
        if not files:
            raise UserError(f"{option}: no file matches")
        return files
    raise UserError(f"{option}: no such file or folder")


def _may_be_read(path: Path) -> bool:
    return path.exists() and not path.is_dir()  # `read_blocks` refuses a pipe, a socket or a device


def files_version(paths: Iterable[Path]) -> dict[str, list[int]] | None:
    """Return JSON that changes with the files, for `Dataset.version`; None: one is new or missing."""
    try:
        facts = {str(path.absolute()): path.stat() for path in paths}
    except OSError:
        return None
    newest = max((fact.st_mtime_ns for fact in facts.values()), default=0)
    if newest >= (time.time() - RECENT) * 1e9:
        return None
    return {name: [fact.st_size, fact.st_mtime_ns, fact.st_ctime_ns] for name, fact in facts.items()}


def read_blocks(path: Path, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """Yield a file's content in blocks, decompressed if it ends in .gz or .zst; of others, the bytes start to stop.

    Raises UserError with the file's name, also if a compressed file is truncated or damaged.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a FIFO would wait for a writer
            raise UserError(f"{path} is not a regular file")
        if path.suffix in COMPRESSED:
            decompress = _gzip() if path.suffix == ".gz" else _zstd()
            with path.open("rb") as file:
                yield from decompress(path, iter(lambda: file.read(BLOCK), b""))
            return
        with path.open("rb") as file:
            file.seek(start)
            while block := file.read(BLOCK if stop is None else min(BLOCK, stop - file.tell())):
                yield block
                del block  # before the next one is read
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror or error}") from error


def read_lines(path: Path, start: int = 0, stop: int | None = None, *, end: bytes = b"\n") -> Iterator[bytes]:
    """Yield a file's lines with their ends; with start and stop, those that begin between these bytes."""
    place = max(0, start - len(end))
    lines = _lines(read_blocks(path, place), end)
    if start:  # a line that begins at `start` follows an end right before it
        place += len(next(lines, b""))
    for line in lines:
        if stop is not None and place >= stop:
            return
        place += len(line)
        yield line


def _lines(blocks: Iterable[bytes], end: bytes) -> Iterator[bytes]:
    rest = bytearray()
    for block in blocks:
        searched, begin = max(0, len(rest) - len(end) + 1), 0
        rest += block
        while (place := rest.find(end, max(begin, searched))) >= 0:
            yield bytes(rest[begin : place + len(end)])
            begin = place + len(end)
        del rest[:begin]
    if rest:
        yield bytes(rest)


def is_validation(document: Document, fraction: float) -> bool:
    """Whether a document is for validation, by a hash of its text, so that other documents make no difference."""
    digest = blake2b(digest_size=8)
    for text in [document] if isinstance(document, str) else (part.text for part in document):
        digest.update(text.encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest(), "big") < fraction * 2**64


Decompress = Callable[[Path, Iterable[bytes]], Iterator[bytes]]


def _gzip() -> Decompress:
    return lambda path, blocks: _inflate(path, blocks, lambda: zlib.decompressobj(31), (zlib.error,))


def _zstd() -> Decompress:
    try:
        import zstandard
    except ImportError:
        raise UserError(".zst files need the package zstandard: pip install zstandard") from None
    new = zstandard.ZstdDecompressor().decompressobj
    return lambda path, blocks: _inflate(path, blocks, new, (zstandard.ZstdError,))


def _inflate(
    path: Path, blocks: Iterable[bytes], new: Callable[[], Any], errors: tuple[type[Exception], ...]
) -> Iterator[bytes]:
    """Yield the content of a file of one or more compressed streams."""
    stream, used, size = new(), False, 0
    try:
        for block in blocks:
            while block:
                data = stream.decompress(block)
                used, size = True, size + len(data)
                if data:
                    yield data
                block = stream.unused_data
                if stream.eof:
                    stream, used = new(), False
    except errors as error:
        raise UserError(f"{path} is damaged after {size:,} bytes of content: {error}") from error
    if used:
        raise UserError(f"{path} is truncated: its compressed data has no end after {size:,} bytes of content")
