"""Tokenize one piece of a dataset into files. Runs in worker processes, or in the main process for one worker."""

import json
import multiprocessing
import os
import signal
import threading
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pealm_core import Document, Tokenizer, UserError, encode_document

TOKENS, OFFSETS, MASK = ".tokens", ".offsets", ".mask"  # beside each other; `.json` is written last
BUFFER = 2**20  # bytes
WAITING = 2**16  # tokens that are written at a time, at least
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
    value, limited = 0, any(limit is not None for limit in task.limits.values())
    with ExitStack() as stack:
        outputs = {split: _Output(stack, task, split) for split in task.limits}
        last = getattr(task.piece, "last_split", None)  # after which documents of others don't come
        continued = set(getattr(task.piece, "continues", ()))
        for split, document in task.piece.documents():
            value = _add_to_checksum(value, split, document)
            outputs[split].add(document, tokenizer, continues=split in continued)
            continued.discard(split)
            del document  # before the next one is read
            if report is not None:
                report(sum(output.tokens for output in outputs.values()))
            if limited and (outputs[split].full if split == last else all(out.full for out in outputs.values())):
                break
        for output in outputs.values():
            output.flush()
    counts = {split: Counts(output.tokens, output.documents, output.masked) for split, output in outputs.items()}
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


class _Output:
    """The files with the tokens of one split."""

    def __init__(self, stack: ExitStack, task: Task, split: str) -> None:
        self._stack, self._task, self._split = stack, task, split
        self._files: dict[str, IO[bytes]] = {}
        self._dtype = np.dtype(task.dtype)
        self._ids, self._starts, self._written = list[NDArray[Any]](), array("Q"), 0
        self.tokens, self.documents, self.masked = 0, 0, False

    @property
    def full(self) -> bool:
        """Whether no more tokens are of use."""
        limit = self._task.limits[self._split]
        return limit is not None and self.tokens >= limit

    def add(self, document: Document, tokenizer: Tokenizer, *, continues: bool) -> None:
        """Tokenize a document. continues: it is the rest of one, without the end-of-text token."""
        if self.full:
            return
        pieces = encode_document(document, tokenizer)
        if continues:
            pieces = islice(pieces, int(getattr(tokenizer, "eot_id", None) is not None), None)
        else:
            self._starts.append(self.tokens)
            self.documents += 1
        for ids, learn in pieces:
            if not learn and not self.masked:
                self._open(MASK).write(b"\1" * self.tokens)
                self.masked = True
            if self.masked:
                self._open(MASK).write((b"\1" if learn else b"\0") * len(ids))
            self._ids.append(ids.astype(self._dtype))
            self.tokens += len(ids)
            if self.tokens - self._written >= WAITING:
                self.flush()

    def flush(self) -> None:
        """Write what waits to be written."""
        if self._ids:
            self._open(TOKENS).write(np.concatenate(self._ids).data)
        if self._starts:
            self._open(OFFSETS).write(np.array(self._starts, "<u8").data)
        self._ids, self._starts, self._written = [], array("Q"), self.tokens

    def _open(self, suffix: str) -> IO[bytes]:
        if suffix not in self._files:
            path = file_of(self._task.path, self._split, suffix)
            self._files[suffix] = self._stack.enter_context(write_file(path))
        return self._files[suffix]


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


_tokenizer: Any = None  # of this worker process


def start(tokenizer: Tokenizer) -> None:
    """Set up a worker process, which ignores Ctrl-C and ends when its parent does."""
    global _tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _tokenizer = tokenizer


def in_worker(task: Task) -> dict[str, Counts]:
    """Tokenize a piece in a worker process."""
    return tokenize_piece(task, _tokenizer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
