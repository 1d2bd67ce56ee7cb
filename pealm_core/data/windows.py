"""Windows of tokens for training and validation.

The shards are read as one stream. An epoch is the windows that lie side by side in it, each once. Where the first of
them begins (the phase) and the order in which they come are drawn from the seed and the epoch's number, so that what
step k sees is a pure function of (seed, k) and nothing needs to be saved for a resume.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pealm_core.data.order import combine, permute
from pealm_core.data.token_cache import Shard

Batch = tuple[torch.Tensor, torch.Tensor]


class Windows:
    """Windows of `block_size` inputs and their targets over 1-D arrays of token ids."""

    def __init__(self, shards: Sequence[Shard], block_size: int, *, seed: int = 0) -> None:
        """Raises ValueError if no shard has block_size + 1 tokens."""
        self.shards, self.block_size, self.seed = [shard for shard in shards if len(shard)], block_size, seed
        longest = max(map(len, shards), default=0)
        if longest <= block_size:
            raise ValueError(
                f"{longest} tokens are too few for a block of {block_size}, which needs {block_size + 1}"
            )
        self._ends = list(accumulate(map(len, self.shards)))  # of the shards in the stream
        self.tokens = self._ends[-1]  # in all shards
        # One window less than fits, so that there is room for all of them at every phase.
        self.per_epoch = max(1, self.tokens // block_size - 1)
        self._phases = min(block_size, self.tokens - self.per_epoch * block_size)

    def batch(self, step: int, batch_size: int, *, rank: int = 0, world_size: int = 1) -> Batch:
        """Return this rank's rows of a step: (idx, targets), each int64 of shape (batch_size / world_size, T).

        The global batch is drawn first and then divided, so that it is the same for any number of ranks.
        """
        local = batch_size // world_size
        samples = np.arange(local, dtype=np.int64) + step * batch_size + rank * local
        rows = np.empty((local, self.block_size + 1), np.int64)
        epochs = samples // self.per_epoch
        for epoch in np.unique(epochs).tolist():
            places = np.flatnonzero(epochs == epoch)
            order = permute(samples[places] % self.per_epoch, self.per_epoch, combine(self.seed, epoch, 1))
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

    def fixed(self, max_tokens: int) -> list[tuple[int, int]]:
        """Return evenly spaced windows for validation as (shard, start): the same each time, at most max_tokens.

        None of them spans two shards.
        """
        ends = list(accumulate((len(shard) - 1) // self.block_size for shard in self.shards))  # windows by shard
        count = min(ends[-1], max(1, max_tokens // self.block_size))
        places = []
        for window in (i * ends[-1] // count for i in range(count)):
            shard = bisect_right(ends, window)
            places.append((shard, (window - (ends[shard - 1] if shard else 0)) * self.block_size))
        return places

    def rows(self, places: Sequence[tuple[int, int]]) -> Batch:
        """Return the windows at these places: (idx, targets), each int64 of shape (len(places), T)."""
        return _split(
            np.stack([self.shards[p][start : start + self.block_size + 1] for p, start in places]).astype(np.int64)
        )


def _split(rows: NDArray[np.int64]) -> Batch:
    tokens = torch.from_numpy(rows)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
