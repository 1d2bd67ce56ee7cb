"""The text of a dataset as pieces of token ids, so that no document has to be in memory as ids at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pealm_core import Dataset, Segment, Tokenizer, UserError

PASSAGE, MOST = 2**10, 2**20  # characters of a piece: if each is reported, else
SHARD = 2**20  # token ids that are read at once
CHARACTER = 8  # token ids that one takes, at most
AROUND = 64  # characters before and after a cut that are encoded together and apart


@dataclass(frozen=True)
class Piece:
    """ids: without an end-of-text token; size: bytes of the learned text in UTF-8; learned: by token; None: all."""

    ids: NDArray[np.int64]
    size: int
    learned: NDArray[np.bool_] | None = None

    @property
    def scored(self) -> int:
        """The number of learned tokens."""
        return len(self.ids) if self.learned is None else int(self.learned.sum())

    def first(self, count: int, tokenizer: Tokenizer) -> "Piece":
        """Return the beginning, with so many learned tokens."""
        if count >= self.scored:
            return self
        places = np.flatnonzero(np.ones(len(self.ids)) if self.learned is None else self.learned)
        end = int(places[count]) if count else 0
        learned = None if self.learned is None else self.learned[:end]
        return Piece(self.ids[:end], _size(self.ids[places[:count]], tokenizer), learned)


def read(dataset: Dataset, split: str, tokenizer: Tokenizer, size: int = MOST) -> Iterator[Iterator[Piece]]:
    """Yield the documents of a split, each in pieces of about `size` characters; take them in order.

    Raises UserError for text that the tokenizer can't express.
    """
    if not hasattr(dataset, "documents"):
        if not hasattr(dataset, "shards"):
            raise UserError("the dataset has samples of its own, but neither text nor tokens to score")
        yield from _from_shards(dataset, split, tokenizer, size)
        return
    texts = dataset.whole() if split == "whole" else dataset.documents(split)  # type: ignore[attr-defined]
    for number, text in enumerate(texts, 1):
        yield _named(f"document {number:,} of the {split} split", _pieces(text, tokenizer, size))
        del text  # before the next one is read


def _named(what: str, pieces: Iterator[Piece]) -> Iterator[Piece]:
    try:
        yield from pieces
    except ValueError as error:
        raise UserError(f"{what}: {error}") from error


def _pieces(document: str | Sequence[Segment], tokenizer: Tokenizer, size: int) -> Iterator[Piece]:
    """Yield pieces of at least `size` characters; the last one may have fewer."""
    run, count = list[Piece](), 0
    for segment in [Segment(document)] if isinstance(document, str) else document:
        for characters, piece in _of_segment(segment, tokenizer, size):
            run.append(piece)
            count += characters
            if count >= size:
                yield _joined(run)
                run, count = [], 0
    if run:
        yield _joined(run)


def _of_segment(segment: Segment, tokenizer: Any, size: int) -> Iterator[tuple[int, Piece]]:
    """Yield the pieces of a segment, each with its number of characters."""
    if segment.special is not None:
        if segment.special not in (specials := getattr(tokenizer, "specials", {})):
            raise ValueError(f"the tokenizer has no special token {segment.special!r}")
        yield 0, _piece([specials[segment.special]], "", segment.learn)
        return
    start = 0
    for end in cuts(segment.text, tokenizer, size):
        part = segment.text[start:end]
        yield len(part), _piece(tokenizer.encode(part), part, segment.learn)
        start = end


def _piece(ids: Sequence[int], text: str, learn: bool) -> Piece:
    made = np.asarray(ids, np.int64)
    return Piece(made, len(text.encode("utf-8"))) if learn else Piece(made, 0, np.zeros(len(made), np.bool_))


def _joined(run: Sequence[Piece]) -> Piece:
    if len(run) == 1:
        return run[0]
    flags = [np.ones(len(piece.ids), np.bool_) if piece.learned is None else piece.learned for piece in run]
    ids = np.concatenate([piece.ids for piece in run])
    return Piece(ids, sum(piece.size for piece in run), np.concatenate(flags))


def cuts(text: str, tokenizer: Tokenizer, size: int) -> Iterator[int]:
    """Yield where pieces of at least `size` characters end: the places depend on the text alone, as far as possible.

    A cut is before a line, else before the space of a word, where both sides are encoded as they are together. A text
    whose tokenizer has no such place, because it treats the beginning of a text differently, stays one piece.
    """
    start = 0
    while (end := _cut(text, start + size, start + 2 * size)) < len(text):
        left, right = text[end - min(AROUND, size) : end], text[end : end + AROUND]
        if [*tokenizer.encode(left), *tokenizer.encode(right)] == [*tokenizer.encode(left + right)]:
            yield end
        start = end
    yield len(text)


def _cut(text: str, begin: int, end: int) -> int:
    """Return the first place in a range before a line that isn't indented, else before a word, else after it."""
    part = text[begin - 1 : end + 1]
    line = next((i for i in range(1, len(part)) if part[i - 1] == "\n" and not part[i].isspace()), 0)
    word = line or next(
        (i for i in range(1, len(part) - 1) if part[i] == " " and part[i + 1].isalnum() and part[i - 1].isalnum()), 0
    )
    return begin - 1 + word if word else min(end, len(text))


def _from_shards(dataset: Any, split: str, tokenizer: Tokenizer, size: int) -> Iterator[Iterator[Piece]]:
    """Yield what is between the end-of-text tokens of shards, without `bos_id`; whole shards if there are none."""
    if hasattr(dataset, "check"):
        dataset.check(tokenizer.vocab_size)
    shards = dataset.shards(split)
    masks = (dataset.masks(split) if hasattr(dataset, "masks") else None) or [None] * len(shards)
    ends = [token for name in ("eot_id", "bos_id") if (token := getattr(tokenizer, name, None)) is not None]
    for shard, mask in zip(shards, masks, strict=True):
        reader = _Shard(shard, mask, ends)
        while reader.more():
            document = reader.document(tokenizer, min(size, SHARD))
            yield document
            for _ in document:  # what the caller left
                pass


class _Shard:
    """Reads a shard, document by document."""

    def __init__(self, shard: Any, mask: Any, ends: list[int]) -> None:
        self.shard, self.mask, self.ends = shard, mask, ends
        self.place, self.begin = 0, 0  # in the shard: the next id, and the first one of `part`
        self.part, self.stops = np.empty(0, np.int64), np.empty(0, np.int64)  # stops: places of `ends` in the part

    def more(self) -> bool:
        """Move on to the first id of the next document; whether there is one."""
        while self.place < len(self.shard):
            self._load()
            if self.part[self.place - self.begin] not in self.ends:
                return True
            self.place += 1
        return False

    def _load(self) -> None:
        """Have a part with the next id, and all ids of its character."""
        end = self.begin + len(self.part)
        if not self.begin <= self.place < end or self.place + CHARACTER > end < len(self.shard):
            self.begin = self.place
            self.part = np.asarray(self.shard[self.place : self.place + SHARD]).astype(np.int64)
            self.stops = np.flatnonzero(np.isin(self.part, self.ends))

    def document(self, tokenizer: Tokenizer, size: int) -> Iterator[Piece]:
        """Yield pieces of at most `size` ids up to the next end of a document."""
        while self.place < len(self.shard):
            self._load()
            place = self.place - self.begin
            index = int(np.searchsorted(self.stops, place))
            stop = int(self.stops[index]) if index < len(self.stops) else len(self.part)
            if stop == place:
                return
            ids = self.part[place : min(stop, place + size)]
            end = place + len(ids)
            if end < stop or (end == len(self.part) and self.begin + end < len(self.shard)):  # not within a character
                ends = range(len(ids), max(0, len(ids) - CHARACTER), -1)
                ids = ids[: next((n for n in ends if _complete(ids[:n], tokenizer)), len(ids))]
            flags = (
                None if self.mask is None else np.asarray(self.mask[self.place : self.place + len(ids)]).astype(bool)
            )
            self.place += len(ids)
            learned = None if flags is None or flags.all() else flags
            yield Piece(ids, _size(ids if learned is None else ids[learned], tokenizer), learned)


def _complete(ids: NDArray[np.int64], tokenizer: Tokenizer) -> bool:
    return not tokenizer.decode(ids[-CHARACTER:].tolist()).endswith("\N{REPLACEMENT CHARACTER}")


def _size(ids: NDArray[np.int64], tokenizer: Tokenizer) -> int:
    return len(tokenizer.decode(ids.tolist()).encode("utf-8"))
