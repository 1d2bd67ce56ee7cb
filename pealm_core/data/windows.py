"""Windows of tokens for training and validation.

The shards are read as one stream. An epoch is the windows that lie side by side in it, each once. Where the first of
them begins (the phase) and the order in which they come are drawn from the seed and the epoch's number, so that a
sample is a pure function of the seed and its number, and nothing needs to be saved for a resume.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pealm_core.contract.training_parts import Batch
from pealm_core.data.order import combine, permute
from pealm_core.data.token_cache import Shard


class Windows:
    """A source: windows of `block_size` inputs and their targets over 1-D arrays of token ids."""

    def __init__(self, shards: Sequence[Shard], block_size: int, *, seed: int = 0) -> None:
        """Raises ValueError if no shard has block_size + 1 tokens."""
        self.shards, self.block_size, self.seed = _usable(shards, block_size), block_size, seed
        self._ends = list(accumulate(map(len, self.shards)))  # of the shards in the stream
        self.tokens = self._ends[-1]  # in all shards
        # One window less than fits, so that there is room for all of them at every phase.
        self._per_epoch = max(1, self.tokens // block_size - 1)
        self._phases = min(block_size, self.tokens - self._per_epoch * block_size)

    def __len__(self) -> int:
        return self._per_epoch

    def rows(self, samples: Iterable[int]) -> Batch:
        """Return the windows with these numbers: idx and targets, each int64 of shape (n, T)."""
        numbers = np.fromiter(samples, np.int64)
        rows = np.empty((len(numbers), self.block_size + 1), np.int64)
        epochs = numbers // len(self)
        for epoch in np.unique(epochs).tolist():
            places = np.flatnonzero(epochs == epoch)
            order = permute(numbers[places] % len(self), len(self), combine(self.seed, epoch, 1))
            phase = combine(self.seed, epoch, 2) % self._phases
            for place, window in zip(places.tolist(), order.tolist(), strict=True):
                self._read(phase + window * self.block_size, rows[place])
        return _split(rows)

    def _read(self, start: int, row: NDArray[Any]) -> None:
        """Fill a row with the stream's tokens from `start` on, out of as many shards as it takes."""
        shard, done = bisect_right(self._ends, start), 0
        while done < len(row):
            offset = start + done - (self._ends[shard] - len(self.shards[shard]))
            tokens = self.shards[shard][offset : offset + len(row) - done]
            row[done : done + len(tokens)] = tokens
            shard, done = shard + 1, done + len(tokens)


class FixedWindows:
    """A source for validation: windows side by side, in order; none of them spans two shards."""

    def __init__(self, shards: Sequence[Shard], block_size: int) -> None:
        """Raises ValueError if no shard has block_size + 1 tokens."""
        self.shards, self.block_size = _usable(shards, block_size), block_size
        self.tokens = sum(map(len, self.shards))
        self._ends = list(accumulate((len(shard) - 1) // block_size for shard in self.shards))  # windows by shard

    def __len__(self) -> int:
        return self._ends[-1]

    def rows(self, samples: Iterable[int]) -> Batch:
        """Return the windows with these numbers: idx and targets, each int64 of shape (n, T)."""
        return _split(np.stack([self._window(number) for number in samples]).astype(np.int64))

    def _window(self, number: int) -> NDArray[Any]:
        shard = bisect_right(self._ends, number)
        start = (number - (self._ends[shard - 1] if shard else 0)) * self.block_size
        return self.shards[shard][start : start + self.block_size + 1]


def _usable(shards: Sequence[Shard], block_size: int) -> list[Shard]:
    longest = max(map(len, shards), default=0)
    if longest <= block_size:
        raise ValueError(f"{longest} tokens are too few for a block of {block_size}, which needs {block_size + 1}")
    return [shard for shard in shards if len(shard)]


def _split(rows: NDArray[np.int64]) -> Batch:
    tokens = torch.from_numpy(rows)
    return {"idx": tokens[:, :-1].contiguous(), "targets": tokens[:, 1:].contiguous()}
