"""The texts that a tokenizer learns from: all of the training text, or of large data a sample from all over it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pealm_core.contract.protocols import Document
from pealm_core.data.documents import documents, texts
from pealm_core.data.tokenize_parts import parts_of

PARTS = 256  # of a large dataset that are read, at most


class FitSample:
    """The texts of some datasets' splits, at most `limit` bytes; the same ones in the same order each time.

    A dataset gets an equal part of the limit. Of one with `parts`, evenly spaced ones are read, each from its start
    and in proportion to its size; of another one, the beginning. cut: whether something was left out the last
    time; size: the bytes that were not.
    """

    def __init__(self, datasets: Sequence[Any], splits: Sequence[str], limit: int | None) -> None:
        self._sources = [(dataset, split) for split in splits for dataset in datasets]
        self.limit, self.cut, self.size = limit, False, 0

    def __iter__(self) -> Iterator[str]:
        self.size = 0
        for dataset, split in self._sources:
            if self.limit is None:
                yield from texts(documents(dataset, split))
                continue
            room, parts = max(1, self.limit // len(self._sources)), parts_of(dataset, split)
            if len(parts) > PARTS and sum(part.size for part in parts) > room:
                parts, self.cut = parts[:: -(-len(parts) // PARTS)], True
            total = sum(part.size or 1 for part in parts)  # a dataset without parts is one of unknown size
            for part in parts:
                yield from self._start(part.documents(), room * (part.size or 1) // total)

    def _start(self, read: Iterable[Document], room: int) -> Iterator[str]:
        """Yield texts of at most `room` bytes together; the last one may be cut."""
        for text in texts(read):
            size = len(text.encode("utf-8", "surrogatepass"))
            self.size += min(size, room)
            if size > room:
                self.cut = True
                yield text.encode("utf-8", "surrogatepass")[:room].decode("utf-8", "ignore")
                return
            yield text
            room -= size
            del text  # before the next one is read
