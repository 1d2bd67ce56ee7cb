"""Packing: whole documents in rows of block_size + 1 tokens, by best fit.

Documents are taken in order, some thousand at a time; the longest come first, and each goes into the fullest row that
has room for it (best-fit decreasing, Johnson 1973). What is longer than a row is cut. A row attends across its
documents. Which documents a row has depends on their lengths alone, so that it is computed once and kept on disk.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np

from pealm_core.contract.errors import UserError
from pealm_core.contract.training_protocols import Batch
from pealm_core.data.order import shuffled
from pealm_core.data.token_file import TokenFile
from pealm_core.data.token_stream import Piece, Split

VERSION = 1  # of the rows: another one makes other rows of the same documents
AT_ONCE = 4096  # pieces that are packed together
PIECES, ROWS = "pieces.bin", "rows.bin"


class Packed:
    """A source: rows of whole documents over a split that knows where its documents start."""

    def __init__(self, split: Split, block_size: int, index: Path, *, seed: int | None = None) -> None:
        """index: the folder that `write_index` made. seed: of the order; None: in order, for validation.

        Raises ValueError if there is no row.
        """
        self.split, self.block_size, self.seed, self.tokens = split, block_size, seed, len(split)
        self._pieces, self._ends = TokenFile(index / PIECES, "<u8"), TokenFile(index / ROWS, "<u8")
        if not len(self):
            raise ValueError("no document has a token that is learned")

    def __len__(self) -> int:
        return len(self._ends)

    def rows(self, samples: Iterable[int]) -> Batch:
        """Return the rows with these numbers: idx and targets, each int64 of shape (n, T), padded with IGNORE."""
        if self.seed is not None:
            samples = shuffled(samples, len(self), self.seed, 1)[1].tolist()
        return self.split.rows([self._row(number) for number in samples], self.block_size)

    def _row(self, number: int) -> list[Piece]:
        """Return the pieces of a row."""
        ends = [0, *self._ends[max(0, number - 1) : number + 1].tolist()][-2:]
        numbers = self._pieces[2 * ends[0] : 2 * ends[1]].tolist()
        return list(zip(numbers[::2], numbers[1::2], strict=True))


def write_index(split: Split, block_size: int, folder: Path) -> int:
    """Write which pieces of the split are in which row: pieces (start, length), and each row's end among them.

    Rows without a learned target are left out. Returns the number of documents that are longer than a row, and cut.
    Raises UserError if the documents are not in order.
    """
    total, lengths = 0, Counter[bool]()
    todo = _pieces(split, block_size + 1, lengths)
    with (folder / PIECES).open("wb") as pieces, (folder / ROWS).open("wb") as ends:
        while some := list(islice(todo, AT_ONCE)):
            kept = [row for row in pack(some, block_size + 1) if _is_scored(row, split)]
            np.array(list(chain.from_iterable(kept)), "<u8").tofile(pieces)
            np.array(total + np.cumsum([len(row) for row in kept], dtype=np.int64), "<u8").tofile(ends)
            total += sum(map(len, kept))
    return lengths[True]


def pack(pieces: Sequence[Piece], capacity: int) -> list[list[Piece]]:
    """Return rows of pieces, each of at most `capacity` tokens, by best-fit decreasing.

    >>> pack([(0, 3), (3, 6), (9, 2), (11, 4)], 8)
    [[(3, 6), (9, 2)], [(11, 4), (0, 3)]]
    """
    rows: list[list[Piece]] = []
    room: list[tuple[int, int]] = []  # (free tokens, row), in order, of rows that are not full
    for piece in sorted(pieces, key=lambda piece: -piece[1]):
        best = bisect_left(room, (piece[1], 0))
        free, row = room.pop(best) if best < len(room) else (capacity, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(piece)
        if free > piece[1]:
            insort(room, (free - piece[1], row))
    return rows


def _pieces(split: Split, capacity: int, too_long: Counter[bool]) -> Iterator[Piece]:
    """Yield the documents; of one that is too long, which is counted, parts that share a token: all are targets.

    A shard's first tokens are a document in any case.
    """
    base = 0
    for shard, offsets in zip(split.shards, split.offsets, strict=True):
        start, ends = 0, np.append(offsets[:].astype(np.int64), len(shard))
        for end in map(int, ends):
            if start > end:
                raise UserError(f"the offsets of documents are not in order: {start:,} comes before {end:,}")
            too_long[end - start > capacity] += 1
            while end - start > capacity:
                yield base + start, capacity
                start += capacity - 1
            if start < end:
                yield base + start, end - start
            start = end
        base += len(shard)


def _is_scored(row: Sequence[Piece], split: Split) -> bool:
    """Whether a row has a learned target; its first token is none."""
    learned = np.ones(sum(length for _, length in row), np.bool_)
    if split.masks:
        split.read(split.masks, row, learned)
    return bool(learned[1:].any())
