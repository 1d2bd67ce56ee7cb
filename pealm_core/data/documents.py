"""Documents as token ids: texts, or sequences of segments of which some are not learned."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pealm_core.contract.errors import PealmError, PluginError, UserError, describe
from pealm_core.contract.protocols import Conversation, Dataset, Document, Segment, Tokenizer
from pealm_core.data.special_tokens import specials_of
from pealm_core.plugins.plugin_errors import ANYTHING, HINT, Returns, blame, call_plugin, owner

PIECE = 2**20  # characters that are tokenized at a time, if possible

DOCUMENTS: Returns = (
    lambda r: isinstance(r, Iterable) and not isinstance(r, str),
    "documents: an iterable of texts or of sequences of Segments",
)


def documents(dataset: Dataset, split: str) -> Iterator[Document]:
    """Yield the documents of a split. Raises PluginError for what goes wrong in the dataset."""
    owned = owner(dataset.documents)
    try:
        for document in call_plugin(dataset.documents, DOCUMENTS, split):
            segments(document, f"{owned}: a document")
            yield document
            del document  # before the next one is read
    except (PealmError, MemoryError):
        raise
    except Exception as error:
        raise PluginError(f"{blame(error) or owned}: {describe(error)}{HINT}") from error


def segments(document: Document, what: str = "a document") -> Sequence[Segment]:
    """Return a document as segments. Raises PluginError if it is neither a text nor segments."""
    if isinstance(document, str):
        return [Segment(document)]
    parts: Sequence[Any] = document if isinstance(document, Sequence) else [document]
    if not all(isinstance(part, Segment) for part in parts[:1]):  # all of them may be too many to read
        raise PluginError(f"{what} must be a text or a sequence of Segments, not {document!r:.80}")
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


def has_template(tokenizer: Tokenizer) -> bool:
    """Return whether a tokenizer lays out conversations itself: it has a template, and no chat layout was saved."""
    return not getattr(tokenizer, "chat", None) and getattr(tokenizer, "chat_template", None) is not None


def render(
    messages: Sequence[Mapping[str, str]], tokenizer: Any, *, answer: bool
) -> Iterator[tuple[NDArray[Any], bool]]:
    """Yield the ids of messages in the tokenizer's chat template, in pieces, each with whether it is learned.

    answer: whether the start of an answer follows. Raises UserError for messages that the template refuses.
    """
    try:
        pieces = tokenizer.render_chat(messages, answer=answer)
    except ValueError as error:
        raise UserError(f"the conversation can't be rendered: {error}") from error
    yield from ((_checked(ids, "render_chat", tokenizer), bool(learn)) for ids, learn in pieces)


def encode_document(document: Document, tokenizer: Tokenizer) -> Iterator[tuple[NDArray[Any], bool]]:
    """Yield the ids of a document, in pieces, each with whether it is learned.

    The first piece is `start_ids`, if there are any.

    A conversation is as the tokenizer's chat template renders it, if it has one: without another end-of-text token.
    Raises UserError for text that the tokenizer can't express, PluginError for wrong ids or special tokens.
    """
    if isinstance(document, Conversation) and has_template(tokenizer):
        yield from render(document.messages, tokenizer, answer=False)
        return
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


def encode_texts(texts: Sequence[str], tokenizer: Tokenizer, place: str = "") -> list[NDArray[Any]]:
    """Return the ids of each text. Raises what `encode_document` does. place: of the texts, for messages."""
    many = getattr(tokenizer, "encode_many", None) if len(texts) > 1 else None
    try:
        if many:
            several = list(call_plugin(many, ANYTHING, texts))
        else:
            several = [call_plugin(tokenizer.encode, ANYTHING, text) for text in texts]
    except ValueError as error:
        raise UserError(f"the text can't be tokenized{place}: {error}") from error
    if len(several) != len(texts):
        raise PluginError(f"{type(tokenizer).__name__}.encode_many gave ids of {len(several)} of {len(texts)} texts")
    return [_checked(ids, "encode", tokenizer) for ids in several]


def _encode(text: str, tokenizer: Tokenizer) -> Iterator[NDArray[Any]]:
    """Yield the ids of a text, in pieces if the tokenizer allows it."""
    size = PIECE if getattr(tokenizer, "by_character", False) else max(1, len(text))
    for start in range(0, max(1, len(text)), size):
        yield from encode_texts([text[start : start + size]], tokenizer, f" after character {start:,}" * bool(start))


def _checked(given: Any, method: str, tokenizer: Tokenizer) -> NDArray[Any]:
    """Return what a method of a tokenizer gave as an array of ids. Raises PluginError for anything else."""
    ids, name = np.asarray(given), f"{type(tokenizer).__name__}.{method}"
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise PluginError(f"{name} must give a list of token ids, not {given!r:.60}")
    if ids.size and ids.view(f"u{ids.itemsize}").max() >= tokenizer.vocab_size:  # negative ids are large there
        raise PluginError(
            f"{name} gave ids from {ids.min()} to {ids.max()}, and vocab_size is {tokenizer.vocab_size}"
        )
    return ids
