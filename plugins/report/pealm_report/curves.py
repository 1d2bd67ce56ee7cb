"""Curves of any length as few points: no spike is lost, and a noisy curve also gets a smooth line."""

import math
from collections.abc import Sequence
from itertools import accumulate


def thin(values: Sequence[float], buckets: int) -> list[int]:
    """The places of the lowest and highest value of each bucket, of the first and of the last; NaN is left out.

    >>> thin([5, 4, 9, 4, 3, 2, 2, 1], buckets=2)
    [0, 1, 2, 4, 7]
    >>> thin([1.0, math.nan, 2.0], buckets=10)
    [0, 2]
    """
    places = [place for place, value in enumerate(values) if math.isfinite(value)]
    if len(places) <= 2 * buckets:
        return places
    kept = {places[0], places[-1]}
    for number in range(buckets):
        bucket = places[number * len(places) // buckets : (number + 1) * len(places) // buckets]
        kept |= {min(bucket, key=values.__getitem__), max(bucket, key=values.__getitem__)}
    return sorted(kept)


def smooth(values: Sequence[float], points: int) -> list[tuple[int, float]]:
    """(place, mean of its neighbourhood) at so many places: a fiftieth of all to both sides; NaN is left out.

    Near the start, where a loss falls fast, it is fewer to both sides; at the end there is only one side.

    >>> smooth([1.0, math.nan, 2.0, 3.0], points=5)
    [(0, 1.0), (2, 2.0), (3, 3.0)]
    """
    places = [place for place, value in enumerate(values) if math.isfinite(value)]
    sums = [0.0, *accumulate(values[place] for place in places)]
    reach, found = len(places) // 50, []
    for middle in spread(len(places), points):
        half = min(reach, middle)
        start, end = middle - half, min(middle + half + 1, len(places))
        found.append((places[middle], (sums[end] - sums[start]) / (end - start)))
    return found


def spread(length: int, points: int) -> list[int]:
    """Places from first to last, at even distances, all of them where they are few.

    >>> spread(11, 3), spread(3, 10), spread(5, 1)
    ([0, 5, 10], [0, 1, 2], [4])
    """
    if length <= points:
        return list(range(length))
    if points == 1:
        return [length - 1]
    return [round(number * (length - 1) / (points - 1)) for number in range(points)]
