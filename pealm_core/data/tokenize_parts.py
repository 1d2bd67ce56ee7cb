"""The parts of a dataset: as files of tokens, and as hashes. Worker processes import this module, without torch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from hashlib import sha256
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pealm_core.contract.protocols import Document, Tokenizer, has
from pealm_core.data.documents import PIECE, documents, encode_document, encode_texts, segments, start_ids

FILES = (".bin", ".offsets", ".mask")  # of tokens: ids, where documents start, which ids are learned
BUFFER = 2**20  # bytes
SEGMENTS = b"\xff" * 8  # in a hash, before a document of segments: no text is as long as that


def parts_of(dataset: Any, split: str) -> list[Any]:
    """Return the independent parts of a split; a dataset without parts is one, of unknown size."""
    whole = SimpleNamespace(name=type(dataset).__name__, size=0, documents=partial(documents, dataset, split))
    return list(dataset.parts(split) if has(dataset, "parts") else ()) or [whole]


class TokenWriter:
    """Writes documents as tokens: `.bin` has their ids, `.offsets` where each starts, and `.mask` what is learned.

    The mask has a byte for each token; without `masked`, all are 1. `tokens`, `documents`: their numbers so far.
    Short texts wait for `flush` until they are many: tokenizing them in one go takes a tenth less time, since the
    tokenizer's tables then stay in the processor's caches.
    """

    tokens: int
    documents: int
    masked: bool

    def __init__(self, opened: Callable[[str], IO[bytes]], dtype: str) -> None:
        """opened: returns the file with a suffix, opened for writing. dtype: of the ids; offsets are uint64."""
        self._ids, self._offsets, self._mask = map(opened, FILES)
        self._dtype = dtype
        self.tokens, self.documents, self.masked = 0, 0, False
        self._waiting, self._characters = list[str](), 0

    def add(self, document: Document, tokenizer: Tokenizer, *, continues: bool = False) -> None:
        """Tokenize a document. continues: it is the rest of one, without the end-of-text token."""
        if isinstance(document, str) and len(document) < PIECE and not continues:
            self._waiting.append(document)
            self._characters += len(document)
            if self._characters >= PIECE:
                self.flush(tokenizer)
            return
        self.flush(tokenizer)
        pieces = encode_document(document, tokenizer)
        if continues:
            pieces = islice(pieces, int(getattr(tokenizer, "eot_id", None) is not None), None)
        else:
            self._offsets.write(self.tokens.to_bytes(8, "little"))
            self.documents += 1
        for ids, learn in pieces:
            self._write(ids, learn)
            del ids  # before the next ones are made

    def flush(self, tokenizer: Tokenizer) -> None:
        """Tokenize the texts that wait. Call it after the last document."""
        start = np.array(start_ids(tokenizer), self._dtype)
        if pieces := [piece for ids in encode_texts(self._waiting, tokenizer) for piece in (start, ids)]:
            ends = self.tokens + np.cumsum([len(piece) for piece in pieces])
            self._offsets.write(np.array([self.tokens, *ends[1:-1:2]], "<u8").data)
            self.documents += len(self._waiting)
            self._write(np.concatenate(pieces, dtype=self._dtype, casting="unsafe"), learn=True)
        self._waiting, self._characters = [], 0

    def _write(self, ids: NDArray[Any], learn: bool) -> None:
        self.masked |= not learn
        self._mask.write((b"\1" if learn else b"\0") * len(ids))
        self._ids.write(ids.astype(self._dtype, copy=False).data)
        self.tokens += len(ids)


def tokenize_part(tokenizer: Tokenizer, dtype: str, task: tuple[Any, Path]) -> tuple[int, bool]:
    """Write the tokens of a part to files beside a path. Returns their number, and whether some are not learned."""
    part, path = task
    continues = getattr(part, "continues", False)
    with ExitStack() as stack:
        writer = TokenWriter(lambda end: stack.enter_context(path.with_suffix(end).open("wb", BUFFER)), dtype)
        for document in part.documents():
            writer.add(document, tokenizer, continues=continues)
            continues = False
            del document  # before the next one is read
        writer.flush(tokenizer)
    return writer.tokens, writer.masked


def hash_part(part: Any) -> tuple[bytes, int]:
    """Return a hash of the documents of a part, and their number of characters."""
    digest, characters = sha256(), 0
    for document in part.documents():
        pieces = segments(document)
        if not isinstance(document, str):
            digest.update(SEGMENTS + repr([(piece.learn, piece.special) for piece in pieces]).encode())
        for piece in pieces:
            data = piece.text.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
            characters += len(piece.text)
            del piece, data
        del document, pieces  # before the next one is read
    return digest.digest(), characters


def map_parts(function: Callable[[Any], Any], tasks: Sequence[Any], size: int) -> Iterator[Any]:
    """Return function(task) of each task, in order, from pealm-data's worker processes if it is installed.

    size: bytes of the source, which decide how many processes are worth their start.
    """
    try:
        pool = import_module("pealm_data.pool")
    except ModuleNotFoundError:
        return map(function, tasks)
    results: Iterator[Any] = pool.map_tasks(function, tasks, size)
    return results
