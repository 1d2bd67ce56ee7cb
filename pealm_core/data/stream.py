"""Token shards read as one stream, with what is known of them: which tokens are learned, where documents start."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pealm_core.contract.training_parts import IGNORE, Batch


class Shard(Protocol):
    """A 1-D array of numbers, or an object that reads slices of one, as `TokenFile` does."""

    def __len__(self) -> int: ...

    def __getitem__(self, window: slice) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Split:
    """The tokens of a split.

    masks: for each shard an array as long as it, 0 where a token is not learned; empty: all are learned.
    offsets: for each shard the places where its documents start, in order; empty: unknown.
    """

    shards: Sequence[Shard]
    masks: Sequence[Shard] = field(default=())
    offsets: Sequence[Shard] = field(default=())


class Stream:
    """Shards as one array: `stream.read(start, row)`."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = [shard for shard in shards if len(shard)]
        self._ends = list(accumulate(map(len, self.shards)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, start: int, row: NDArray[Any]) -> None:
        """Fill a row with what the stream has from `start` on, out of as many shards as it takes."""
        shard, done = bisect_right(self._ends, start), 0
        while done < len(row):
            offset = start + done - (self._ends[shard] - len(self.shards[shard]))
            part = self.shards[shard][offset : offset + len(row) - done]
            row[done : done + len(part)] = part
            shard, done = shard + 1, done + len(part)


def batch(tokens: NDArray[np.int64], learned: NDArray[np.bool_] | None = None) -> Batch:
    """Return rows of T + 1 tokens as idx and targets, each int64 of shape (n, T), with IGNORE where not learned."""
    rows = torch.from_numpy(tokens)
    idx, targets = (part.clone(memory_format=torch.contiguous_format) for part in (rows[:, :-1], rows[:, 1:]))
    if learned is not None:
        targets[~torch.from_numpy(learned)[:, 1:]] = IGNORE
    return {"idx": idx, "targets": targets}
