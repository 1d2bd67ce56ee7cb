"""A pseudorandom permutation of 0..n-1 that needs no memory, whatever n is.

A Feistel network permutes the next power of four; an index beyond n-1 is permuted again until it is within
(cycle walking, Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains").
"""

from collections.abc import Iterable
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROUNDS, MASK = 6, 2**64 - 1


def mix(values: Any, key: int) -> Any:
    """Return a hash of 64-bit values, an array or a number (the finalizer of SplitMix64, Steele et al. 2014)."""
    x = (values + (key + 1) * 0x9E3779B97F4A7C15 % 2**64) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def combine(*parts: int) -> int:
    """Return one 64-bit key for several numbers; their order matters.

    >>> combine(1, 2) != combine(2, 1)
    True
    """
    return reduce(lambda key, part: mix(0, key ^ part), parts, 0)


def noise(samples: Any, length: int, seed: int) -> NDArray[np.float32]:
    """Return (n, length) uniform random numbers in [0, 1), a row for each sample's number: 1-D integers.

    The same numbers for the same sample and seed, whatever the batch and the number of processes.

    >>> bool((noise([3, 7], 4, seed=1)[1] == noise([7], 4, seed=1)[0]).all())
    True
    """
    rows = mix(np.asarray(samples).astype(np.uint64), combine(seed, 3))[:, None]
    bits = mix(rows + np.arange(length, dtype=np.uint64) * np.uint64(0xD1342543DE82EF95), 0)
    values: NDArray[np.float32] = ((bits >> np.uint64(40)) / np.float32(2**24)).astype(np.float32)
    return values


def permute(index: NDArray[np.integer], n: int, key: int) -> NDArray[np.uint64]:
    """Return the place of each index of 0..n-1 in the permutation number `key`.

    >>> sorted(permute(np.arange(10), 10, key=7).tolist()) == list(range(10))
    True
    """
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    bits, mask = np.uint64(half), np.uint64(2**half - 1)
    out = np.asarray(index).astype(np.uint64)
    keys = [combine(key, turn) for turn in range(ROUNDS)]
    todo = np.ones(out.shape, bool)
    while todo.any():
        left, right = out[todo] >> bits, out[todo] & mask
        for turn in keys:
            left, right = right, left ^ (mix(right, turn) & mask)
        out[todo] = (left << bits) | right
        todo = out >= n
    return out


def shuffled(samples: Iterable[int], n: int, seed: int, label: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each sample which pass over n things it is in, and its place in that pass's own order.

    label: a number, so that different orders from one seed are independent.

    >>> passes, places = shuffled(range(6), 3, seed=0, label=1)
    >>> passes.tolist(), sorted(places.tolist())
    ([0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 2, 2])
    """
    numbers = np.fromiter(samples, np.int64)
    passes, places = numbers // n, np.empty(len(numbers), np.int64)
    for number in np.unique(passes).tolist():
        chosen = passes == number
        places[chosen] = permute(numbers[chosen] % n, n, combine(seed, number, label))
    return passes, places
