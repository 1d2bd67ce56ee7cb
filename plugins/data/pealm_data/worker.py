"""Tokenize one piece of a dataset into files. Runs in worker processes, or in the main process for one worker."""

import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from pealm_core import Document, Tokenizer, TokenWriter, UserError

TOKENS, OFFSETS, MASK = ".bin", ".offsets", ".mask"  # of a `TokenWriter`, beside each other; `.json` is written last
BUFFER = 2**20  # bytes
SAMPLE = 64  # characters of a document that its checksum is made of, besides its length


@dataclass(frozen=True)
class Counts:
    """The content of a piece for one split: tokens, documents that start in it, whether some are not learned."""

    tokens: int = 0
    documents: int = 0
    masked: bool = False


@dataclass(frozen=True)
class Task:
    """A piece to tokenize into files that start with `path`; None: its files exist.

    limits: for each split, the most tokens that are of use.
    """

    piece: Any
    path: Path
    dtype: str
    limits: Mapping[str, int | None]


def file_of(path: Path, split: str, suffix: str) -> Path:
    """Return the name of a file with tokens, offsets or mask of one split of a piece."""
    return path.with_name(f"{path.name}.{split}{suffix}")


def identity(part: Any) -> Any:
    """Return what differs if a part's content does, as JSON."""
    return json.loads(json.dumps([part.name, part.size, getattr(part, "version", "")]))


def checksum(part: Any) -> int:
    """Return a checksum of the lengths and starts of a piece's documents."""
    value = 0
    for split, document in part.documents():
        value = _add_to_checksum(value, split, document)
    return value


def same_as_before(task: Task) -> bool:
    """Whether a piece was tokenized with the same content, if not the same modification time."""
    known = _read(task.path)
    unchanged = known.get("piece") == identity(task.piece)
    return "checksum" in known and (unchanged or known["checksum"] == checksum(task.piece))


def is_done(path: Path) -> bool:
    """Whether a piece is tokenized."""
    return "splits" in _read(path)


def tokenize_piece(
    task: Task, tokenizer: Tokenizer, report: Callable[[int], None] | None = None
) -> dict[str, Counts]:
    """Return what each split has of a piece, which is tokenized unless it was before. Raises UserError.

    report: called with the number of tokens so far.
    """
    if (known := _read(task.path)) and (task.piece is None or same_as_before(task)):
        return {split: Counts(**counts) for split, counts in known["splits"].items()}
    value, full, shown = 0, set[str](), 0  # full: the splits of which no more tokens are of use
    with ExitStack() as stack:

        def opened(split: str, suffix: str) -> IO[bytes]:
            return stack.enter_context(write_file(file_of(task.path, split, suffix)))

        writers = {split: TokenWriter(partial(opened, split), task.dtype) for split in task.limits}
        last = getattr(task.piece, "last_split", None)  # after which documents of others don't come
        continued = set(getattr(task.piece, "continues", ()))
        for split, document in task.piece.documents():
            value = _add_to_checksum(value, split, document)
            if split not in full:
                writers[split].add(document, tokenizer, continues=split in continued)
            continued.discard(split)
            del document  # before the next one is read
            if report is not None and (tokens := sum(writer.tokens for writer in writers.values())) > shown:
                report(shown := tokens)
            if (limit := task.limits[split]) is not None and writers[split].tokens >= limit:
                full.add(split)
                if split == last or full == writers.keys():
                    break
        for writer in writers.values():
            writer.flush(tokenizer)
    counts = {split: Counts(one.tokens, one.documents, one.masked) for split, one in writers.items()}
    facts = {"piece": identity(task.piece), "checksum": value, "splits": {s: asdict(c) for s, c in counts.items()}}
    with write_file(task.path.with_suffix(".json")) as file:
        file.write(json.dumps(facts).encode())
    return counts


def _read(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError):
        known: dict[str, Any] = json.loads(path.with_suffix(".json").read_bytes())
        return known
    return {}


def _add_to_checksum(value: int, split: str, document: Document) -> int:
    if isinstance(document, str):
        text, length = document, len(document)
    else:  # the length of a long text is not known without reading it
        first = next(iter(document), None)
        text, length = (f"{first.special}{first.learn}{first.text[:SAMPLE]}" if first else ""), 0
    return zlib.crc32(f"{split} {length} {text[:SAMPLE]}".encode("utf-8", "surrogatepass"), value)


@contextmanager
def write_file(path: Path) -> Iterator[IO[bytes]]:
    """Give a file to write, which gets its name when it is complete and on disk. Raises UserError."""
    aside = path.with_name(f".{path.name}.aside")
    try:
        try:
            with aside.open("wb", buffering=BUFFER) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{path} can't be written: {error.strerror or error}; make room, and the same command resumes"
        ) from error
