"""A window that slides over the pieces of a document, so that every learned token is scored once."""

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pealm_perplexity.text import Piece

Request = tuple[int, list[int], list[int]]  # the number of a piece, a context and the tokens to score after it
NOTHING = -1  # the number at a token that is not scored


def requests(pieces: Iterable[tuple[int, Piece]], start: int, block: int, stride: int) -> Iterator[Request]:
    """Yield what to score of a document, as `pealm_core.cover` cuts it, divided where the piece's number changes.

    start: the token before it. block: most tokens of a context and all but the last token to score.
    """
    ids, numbers, end = np.array([start]), np.array([NOTHING]), 1  # the ids before `end` are done
    step = block
    for number, piece in pieces:
        begin = max(0, end - block - 1)
        scored = np.full(len(piece.ids), number)
        if piece.learned is not None:
            scored[~piece.learned] = NOTHING
        ids, numbers = np.concatenate([ids[begin:], piece.ids]), np.concatenate([numbers[begin:], scored])
        end -= begin
        while len(ids) - end >= step:
            yield from _window(ids, numbers, end, end + step, block)
            end, step = end + step, stride
    if len(ids) > end:
        yield from _window(ids, numbers, end, len(ids), block)


def _window(ids: NDArray[np.int64], numbers: NDArray[np.int64], end: int, stop: int, block: int) -> Iterator[Request]:
    begin = max(0, stop - block - 1)
    changes = [end, *(end + 1 + np.flatnonzero(np.diff(numbers[end:stop]))).tolist(), stop]
    for first, last in pairwise(changes):
        if numbers[first] != NOTHING:
            yield int(numbers[first]), ids[begin:first].tolist(), ids[first:last].tolist()
