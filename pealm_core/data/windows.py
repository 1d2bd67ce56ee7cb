"""Windows of tokens for training and validation.

The shards are read as one stream. An epoch is the windows that lie side by side in it, each once. Where the first of
them begins (the phase) and the order in which they come are drawn from the seed and the epoch's number, so that a
sample is a pure function of the seed and its number, and nothing needs to be saved for a resume.
"""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate

import numpy as np

from pealm_core.contract.training_protocols import Batch
from pealm_core.data.order import combine, shuffled
from pealm_core.data.token_stream import Split


class Windows:
    """A source: windows of `block_size` inputs and their targets over the shards of a split."""

    def __init__(self, split: Split, block_size: int, *, seed: int = 0) -> None:
        """Raises ValueError if no shard has block_size + 1 tokens."""
        _check_length(split, block_size)
        self.split, self.block_size, self.seed, self.tokens = split, block_size, seed, len(split)
        # One window less than fits, so that there is room for all of them at every phase.
        self._per_epoch = max(1, self.tokens // block_size - 1)
        self._phases = min(block_size, self.tokens - self._per_epoch * block_size)

    def __len__(self) -> int:
        return self._per_epoch

    def rows(self, samples: Iterable[int]) -> Batch:
        """Return the windows with these numbers: idx and targets, each int64 of shape (n, T)."""
        epochs, windows = shuffled(samples, len(self), self.seed, 1)
        phases = {epoch: combine(self.seed, epoch, 2) % self._phases for epoch in np.unique(epochs).tolist()}
        numbers = zip(epochs.tolist(), windows.tolist(), strict=True)
        starts = [phases[epoch] + window * self.block_size for epoch, window in numbers]
        return self.split.rows([[(start, self.block_size + 1)] for start in starts], self.block_size)


class FixedWindows:
    """A source for validation: windows side by side, in order; none of them spans two shards."""

    def __init__(self, split: Split, block_size: int) -> None:
        """Raises ValueError if no shard has block_size + 1 tokens."""
        _check_length(split, block_size)
        self.split, self.block_size, self.tokens = split, block_size, len(split)
        lengths = [len(shard) for shard in split.shards]
        self._starts = [0, *accumulate(lengths)]  # of the shards in the stream
        self._ends = list(accumulate(max(0, length - 1) // block_size for length in lengths))  # windows by shard

    def __len__(self) -> int:
        return self._ends[-1]

    def rows(self, samples: Iterable[int]) -> Batch:
        """Return the windows with these numbers: idx and targets, each int64 of shape (n, T)."""
        return self.split.rows([[(self._start(n), self.block_size + 1)] for n in samples], self.block_size)

    def _start(self, number: int) -> int:
        shard = bisect_right(self._ends, number)
        return self._starts[shard] + (number - (self._ends[shard - 1] if shard else 0)) * self.block_size


def _check_length(split: Split, block_size: int) -> None:
    longest = max(map(len, split.shards), default=0)
    if longest <= block_size:
        raise ValueError(f"{longest} tokens are too few for a block of {block_size}, which needs {block_size + 1}")
