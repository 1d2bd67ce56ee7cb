"""Statistics of two models on the same rows: differences with intervals by paired bootstrap, McNemar's exact test."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Pairs = NDArray[np.float64]  # (rows, 2): part and whole of each row; a plain value has the whole 1
RESAMPLES, LEAST = 10_000, 1_000
WORK = 2 * 10**8  # rows that are drawn at most, as far as LEAST resamples allow


def value(rows: Pairs) -> float:
    """Return the sum of the parts over the sum of the wholes.

    >>> value(np.array([[1.0, 1.0], [0.0, 1.0]]))
    0.5
    """
    return float(rows[:, 0].sum() / rows[:, 1].sum())


def interval(first: Pairs, second: Pairs, *, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Return the ends of the percentile bootstrap interval of value(second) - value(first) over the same rows.

    Rows are drawn with replacement, the same ones for both (Efron and Tibshirani 1993, chapter 13).

    >>> rows = np.array([[1.0, 1.0], [3.0, 1.0]])
    >>> interval(rows, rows + [[1.0, 0.0]])
    (1.0, 1.0)
    """
    n = len(first)
    resamples, random = min(RESAMPLES, max(LEAST, WORK // n)), np.random.default_rng(seed)
    both = np.hstack([first, second])
    differences: list[float] = []
    for start in range(0, resamples, size := max(1, 2**22 // n)):
        drawn = random.integers(n, size=(min(size, resamples - start), n))
        sums = both[drawn].sum(axis=1)  # (resamples, 4)
        differences += (sums[:, 2] / sums[:, 3] - sums[:, 0] / sums[:, 1]).tolist()
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Return the two-sided p-value of McNemar's exact test: are both right equally often on the same rows?

    Only rows on which they differ count (McNemar 1947; exact by the binomial distribution).

    >>> mcnemar([True] * 5, [False] * 5)
    0.0625
    """
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    n = only_first + only_second
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / (1 << n))
