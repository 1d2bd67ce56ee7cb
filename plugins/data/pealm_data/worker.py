"""Tokenize one part of a dataset into files. Runs in worker processes, or in the main process for one worker."""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from pealm_core import Document, Tokenizer, UserError, encode_document

TOKENS, OFFSETS, MASK = ".tokens", ".offsets", ".mask"  # beside each other; `.json` is written last
BUFFER = 2**20  # bytes


class Part(Protocol):
    """A piece of a split, as `Dataset.parts` describes it."""

    name: str
    size: int

    def documents(self) -> Iterator[Document]:
        """Return its documents."""


@dataclass(frozen=True)
class Counts:
    """What is in a part: tokens, documents that start in it, whether some tokens are not learned."""

    tokens: int
    documents: int
    masked: bool


@dataclass(frozen=True)
class Task:
    """A part to tokenize, to PATH.tokens, PATH.offsets and PATH.mask. limit: the most tokens that are of use."""

    part: Part
    path: Path
    dtype: str
    limit: int | None


def tokenize_part(task: Task, tokenizer: Tokenizer) -> Counts:
    """Return what is in a part, which is tokenized unless its files exist. Raises UserError."""
    done = task.path.with_suffix(".json")
    with suppress(OSError, ValueError, TypeError):
        return Counts(**json.loads(done.read_text()))
    tokens, documents, masked = 0, 0, False
    paths = (task.path.with_suffix(suffix) for suffix in (TOKENS, OFFSETS, MASK))
    with ExitStack() as stack:
        ids_file, offsets, mask = (stack.enter_context(write_file(path)) for path in paths)
        for number, document in enumerate(task.part.documents()):
            continues = not number and getattr(task.part, "continues", False)
            pieces = encode_document(document, tokenizer)
            if continues:  # without the end-of-text token
                pieces = islice(pieces, int(getattr(tokenizer, "eot_id", None) is not None), None)
            else:
                offsets.write(np.array([tokens], "<u8").tobytes())
                documents += 1
            for ids, learn in pieces:
                if not learn and not masked:
                    mask.write(b"\1" * tokens)
                    masked = True
                if masked:
                    mask.write((b"\1" if learn else b"\0") * len(ids))
                ids_file.write(ids.astype(task.dtype).tobytes())
                tokens += len(ids)
            del document
            if task.limit is not None and tokens >= task.limit:
                break
    counts = Counts(tokens, documents, masked)
    with write_file(done) as file:
        file.write(json.dumps(asdict(counts)).encode())
    return counts


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


def in_worker(task: Task) -> Counts:
    """Tokenize a part in a worker process."""
    return tokenize_part(task, _tokenizer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
