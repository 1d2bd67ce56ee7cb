"""Documents as token ids: texts, or sequences of segments of which some are not learned."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pealm_core.contract.errors import PluginError, UserError
from pealm_core.contract.protocols import Document, Segment, Tokenizer
from pealm_core.data.specials import specials_of

PIECE = 2**20  # characters


def segments(document: Document) -> Sequence[Segment]:
    """Return a document as segments. Raises PluginError if it is neither a text nor segments."""
    if isinstance(document, str):
        return [Segment(document)]
    parts: Sequence[Any] = document if isinstance(document, Sequence) else [document]
    if not all(isinstance(part, Segment) for part in parts[:1]):  # all of them may be too many to read
        raise PluginError(f"a document must be a text or a sequence of Segments, not {document!r:.80}")
    return parts


def texts(documents: Iterable[Document]) -> Iterator[str]:
    """Yield the texts that a tokenizer learns from: those of documents, segment by segment."""
    for document in documents:
        if isinstance(document, str):
            yield document
        else:
            yield from (segment.text for segment in segments(document) if segment.special is None)
        del document  # before the next one is read


def start_ids(tokenizer: Tokenizer) -> list[int]:
    """Return what is before each document: the end-of-text token, if any, and the tokenizer's `bos_id`."""
    eot, bos = (getattr(tokenizer, name, None) for name in ("eot_id", "bos_id"))
    return [] if eot is None else [eot] if bos in (None, eot) else [eot, bos]


def encode_document(document: Document, tokenizer: Tokenizer) -> Iterator[tuple[NDArray[Any], bool]]:
    """Yield the ids of a document, in pieces, each with whether it is learned.

    The first piece is `start_ids`, if there are any.

    Raises UserError for text that the tokenizer can't express, PluginError for wrong ids or special tokens.
    """
    parts = segments(document)
    if start := start_ids(tokenizer):
        yield np.array(start), parts[0].learn if parts else True
    for part in parts:
        if part.special is None:
            yield from ((ids, part.learn) for ids in _encode(part.text, tokenizer))
        elif part.special in specials_of(tokenizer):
            yield np.array([specials_of(tokenizer)[part.special]]), part.learn
        else:
            raise PluginError(f"the special token {part.special!r} of a document is not in its dataset's `specials`")


def _encode(text: str, tokenizer: Tokenizer) -> Iterator[NDArray[Any]]:
    """Yield the ids of a text, in pieces if the tokenizer allows it."""
    name, size = type(tokenizer).__name__, PIECE if getattr(tokenizer, "by_character", False) else max(1, len(text))
    for start in range(0, max(1, len(text)), size):
        try:
            ids = np.asarray(tokenizer.encode(text[start : start + size]))
        except ValueError as error:
            place = f" after character {start:,}" if start else ""
            raise UserError(f"the text can't be tokenized{place}: {error}") from error
        if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
            raise PluginError(f"{name}.encode must give a list of token ids, not {ids!r:.60}")
        if ids.size and not 0 <= ids.min() <= ids.max() < tokenizer.vocab_size:
            raise PluginError(
                f"{name}.encode gave ids from {ids.min()} to {ids.max()}, and vocab_size is {tokenizer.vocab_size}"
            )
        yield ids
