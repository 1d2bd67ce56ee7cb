"""Windows of tokens over memory-mapped shards: what step k sees is a pure function of (seed, k).

An epoch is every non-overlapping window once. Where the windows of an epoch begin (its phase) and the order in
which they come are drawn from the seed, so that no state but the step has to be kept.
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
        """Raises ValueError where no shard holds block_size + 1 tokens."""
        self.shards = [shard for shard in shards if len(shard) > block_size]
        self.block_size, self.seed = block_size, seed
        if not self.shards:
            longest = max(map(len, shards), default=0)
            raise ValueError(
                f"{longest} tokens are too few for a block of {block_size}, which needs {block_size + 1}"
            )
        # One window less than fit, so that every phase up to a whole block leaves room for all of them.
        self._counts = [max(1, len(shard) // block_size - 1) for shard in self.shards]
        self._ends = np.cumsum(self._counts)

    @property
    def tokens(self) -> int:
        """Tokens in all shards."""
        return sum(map(len, self.shards))

    @property
    def per_epoch(self) -> int:
        """Windows in an epoch."""
        return int(self._ends[-1])

    def batch(self, step: int, batch_size: int, *, rank: int = 0, world_size: int = 1) -> Batch:
        """This rank's rows of step's global batch: (idx, targets), each int64 of shape (batch_size / world_size, T).

        The global batch is drawn first and then cut, so that the number of ranks does not change what is learned.
        """
        share = batch_size // world_size
        sample = np.arange(share, dtype=np.int64) + step * batch_size + rank * share
        rows = np.empty((share, self.block_size + 1), np.int64)
        for epoch in np.unique(sample // self.per_epoch):
            mine = np.flatnonzero(sample // self.per_epoch == epoch)
            order = permute(sample[mine] % self.per_epoch, self.per_epoch, combine(self.seed, int(epoch), 1))
            phase = combine(self.seed, int(epoch), 2)
            for row, window in zip(mine, order.astype(np.int64), strict=True):
                rows[row] = self._window(int(window), phase)
        return _split(rows)

    def _window(self, window: int, phase: int) -> NDArray[Any]:
        place = int(np.searchsorted(self._ends, window, side="right"))
        shard, count = self.shards[place], self._counts[place]
        slack = min(self.block_size, len(shard) - count * self.block_size)
        start = phase % slack + (window - (int(self._ends[place]) - count)) * self.block_size
        return shard[start : start + self.block_size + 1]

    def fixed(self, max_tokens: int) -> list[tuple[int, int]]:
        """Return evenly spaced windows for validation as (shard, start): the same each time, at most max_tokens."""
        ends = list(accumulate((len(shard) - 1) // self.block_size for shard in self.shards))  # windows by shard
        count = min(ends[-1], max(1, max_tokens // self.block_size))
        places = []
        for window in (i * ends[-1] // count for i in range(count)):
            shard = bisect_right(ends, window)
            places.append((shard, (window - (ends[shard - 1] if shard else 0)) * self.block_size))
        return places

    def rows(self, places: Sequence[tuple[int, int]]) -> Batch:
        """The windows at these places: (idx, targets), each of shape (len(places), T)."""
        return _split(
            np.stack([self.shards[p][start : start + self.block_size + 1] for p, start in places]).astype(np.int64)
        )


def _split(rows: NDArray[np.int64]) -> Batch:
    tokens = torch.from_numpy(rows)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
