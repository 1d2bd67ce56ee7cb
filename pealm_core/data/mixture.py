"""A mixture of sources: whole-number quotas in every block of 1,000 samples, in an order drawn from the seed.

>>> quotas([3, 1])
[750, 250]
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from pealm_core.contract.errors import PluginError
from pealm_core.contract.training_protocols import Batch, Source
from pealm_core.data.order import shuffled

BLOCK = 1000  # samples


def quotas(weights: Sequence[float]) -> list[int]:
    """Return how many samples of a block each source has: the largest remainders are rounded up.

    Raises ValueError for a weight that is less than a sample in a block.
    """
    exact = [BLOCK * weight / sum(weights) for weight in weights]
    if min(exact) < 1:
        raise ValueError(f"weight {min(weights):g} is less than a thousandth of their sum, {sum(weights):g}")
    whole = [int(value) for value in exact]
    for place in sorted(range(len(exact)), key=lambda i: whole[i] - exact[i])[: BLOCK - sum(whole)]:
        whole[place] += 1
    return whole


class Mixture:
    """A source whose samples are those of several sources of one block size, each in its own order."""

    def __init__(self, sources: Sequence[Source], weights: Sequence[float], *, seed: int = 0) -> None:
        """Raises ValueError for a weight that is less than a thousandth of their sum."""
        self.sources, self.seed, self.quotas = sources, seed, quotas(weights)
        self.block_size, self.tokens = sources[0].block_size, sum(source.tokens for source in sources)
        self._starts = np.cumsum([0, *self.quotas])  # of the sources in a block before it is shuffled

    def __len__(self) -> int:
        """The number of samples in which each source has been passed over once."""
        return max(-(-len(source) * BLOCK // quota) for source, quota in zip(self.sources, self.quotas, strict=True))

    def places(self, samples: Iterable[int]) -> list[tuple[int, int]]:
        """Return for each sample the index of its source, and its number there."""
        blocks, slots = shuffled(samples, BLOCK, self.seed, 3)
        sources = np.searchsorted(self._starts, slots, "right") - 1
        numbers = blocks * np.array(self.quotas)[sources] + slots - self._starts[sources]
        return list(zip(sources.tolist(), numbers.tolist(), strict=True))

    def drawn(self, samples: int) -> list[int]:
        """Return how many of the first samples are those of each source."""
        last = [source for source, _ in self.places(range(samples - samples % BLOCK, samples))]
        return [samples // BLOCK * quota + last.count(source) for source, quota in enumerate(self.quotas)]

    def rows(self, samples: Iterable[int]) -> Batch:
        """Return the samples with these numbers, (n, ...) each of what all of the sources give."""
        places, rows = self.places(samples), dict[str, torch.Tensor]()
        for source in sorted({source for source, _ in places}):
            chosen = [row for row, (own, _) in enumerate(places) if own == source]
            part = self.sources[source].rows([places[row][1] for row in chosen])
            rows = rows or {key: value.new_empty(len(places), *value.shape[1:]) for key, value in part.items()}
            if part.keys() != rows.keys():
                raise PluginError(f"inputs with {sorted(rows)} and with {sorted(part)} can't be mixed")
            for key, value in part.items():
                rows[key][chosen] = value
        return rows
