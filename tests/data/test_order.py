"""Orders and noise: exact values, so that a run resumed by another version sees the same, and statistics."""

import numpy as np
import pytest

from pealm_core import noise
from pealm_core.data.order import combine, mix, permute, shuffled

NOISE = [
    0.6084609031677246,
    0.3758115768432617,
    0.5129222273826599,
    0.735689640045166,
    0.02776634693145752,
    0.2502783536911011,
]


def test_hashes_are_those_of_splitmix64() -> None:
    """The first outputs of the reference generator with seed 0 (Vigna's splitmix64.c)."""
    first = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [mix(0, key) for key in range(3)] == first
    gamma = 0x9E3779B97F4A7C15
    assert mix(np.array([0, gamma, 2 * gamma % 2**64], np.uint64), 0).tolist() == first
    assert combine(5) == mix(0, 5) and combine(5, 7) == mix(0, mix(0, 5) ^ 7)


def test_values_stay_as_they_are() -> None:
    assert permute(np.arange(10), 10, key=7).tolist() == [2, 8, 1, 7, 4, 5, 6, 0, 9, 3]
    assert permute(np.arange(5), 5, key=3).tolist() == [2, 0, 4, 3, 1]
    assert permute(np.arange(16), 16, key=3).tolist() == [12, 0, 4, 5, 7, 11, 14, 8, 15, 3, 1, 6, 2, 9, 13, 10]
    assert permute(np.arange(17), 17, key=3).tolist() == [9, 5, 0, 12, 2, 11, 7, 6, 16, 3, 1, 14, 13, 8, 4, 15, 10]
    passes, places = shuffled(range(4, 10), 6, seed=3, label=2)
    assert (passes.tolist(), places.tolist()) == ([0, 0, 1, 1, 1, 1], [1, 4, 4, 1, 2, 3])
    assert noise([0, 5], 3, seed=1).ravel().tolist() == NOISE


def test_each_pass_has_an_order_of_its_own_and_each_label_too() -> None:
    _, places = shuffled(range(300), 100, seed=1, label=1)
    orders = [places[:100].tolist(), places[100:200].tolist(), places[200:].tolist()]
    for seed, label in ((1, 2), (2, 1)):
        orders.append(shuffled(range(100), 100, seed=seed, label=label)[1].tolist())
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert len({tuple(order) for order in orders}) == len(orders)
    assert shuffled(range(250, 260), 100, seed=1, label=1)[1].tolist() == orders[2][50:60]


def test_permutations_are_like_random_ones() -> None:
    """Where the first thing goes, and how often a thing stays in its place: once on average."""
    n, keys = 10, range(3000)
    places = np.array([permute(np.arange(n), n, key) for key in keys])
    counts = np.bincount(places[:, 0].astype(int), minlength=n)
    assert abs(counts - 300).max() < 5 * 300**0.5
    fixed = (places == np.arange(n)).sum(1)
    assert fixed.mean() == pytest.approx(1, abs=0.1) and fixed.var() == pytest.approx(1, abs=0.15)


def test_noise_is_uniform_and_independent() -> None:
    values = noise(range(500), 40, seed=4).astype(float)
    assert values.shape == (500, 40) and values.min() >= 0 and values.max() < 1
    counts, _ = np.histogram(values, 20, (0, 1))
    assert abs(counts - 1000).max() < 5 * 1000**0.5
    centred = values - 0.5
    for a, b in (
        (centred[:, :-1], centred[:, 1:]),  # neighbours in a row
        (centred[:-1], centred[1:]),  # one sample and the next
        (centred, noise(range(500), 40, seed=5) - 0.5),
    ):
        assert abs((a * b).mean()) * 12 < 5 / a.size**0.5
