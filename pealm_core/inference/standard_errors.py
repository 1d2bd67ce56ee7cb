"""Means over scored items with their standard errors."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev


def mean(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error, the sample's deviation (n - 1) over the root of n.

    Of one value or none the error is 0. Values may be True and False, or a fraction for a tie.

    >>> mean([True, False, True, True])
    (0.75, 0.25)
    """
    if len(values) < 2:
        return (float(values[0]) if values else 0.0), 0.0
    return fmean(values), stdev(map(float, values)) / math.sqrt(len(values))


def ratio(parts: Sequence[float], wholes: Sequence[float]) -> tuple[float, float]:
    """Return sum(parts) / sum(wholes) and its standard error over items, for instance nats over tokens of documents.

    The error is that of the ratio estimator, linearised (Cochran 1977, section 2.11); of one item it is 0.

    >>> ratio([1.0, 2.0, 6.0], [1, 2, 3])
    (1.5, 0.38188130791298663)
    """
    whole = math.fsum(wholes)
    value = math.fsum(parts) / whole
    if len(parts) < 2:
        return value, 0.0
    residuals = [part - value * size for part, size in zip(parts, wholes, strict=True)]
    return value, stdev(residuals, 0.0) * math.sqrt(len(parts)) / whole
