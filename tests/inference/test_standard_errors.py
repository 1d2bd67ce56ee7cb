"""Standard errors against simulation and closed forms: a dropped root or n for n - 1 would show."""

import random
from math import sqrt
from statistics import fmean, stdev

import pytest

from pealm_core import mean, ratio


def test_the_error_of_a_mean_is_the_deviation_of_means_of_new_samples() -> None:
    rng = random.Random(1)
    samples = [[rng.gauss(3, 2) for _ in range(8)] for _ in range(4000)]
    true = stdev(fmean(sample) for sample in samples)  # 2 / sqrt(8)
    assert true == pytest.approx(2 / sqrt(8), rel=0.05)
    squares = fmean(mean(sample)[1] ** 2 for sample in samples)
    assert sqrt(squares) == pytest.approx(true, rel=0.03)  # with n for n - 1, it would be 6 % smaller


def test_the_error_of_a_ratio_is_the_deviation_of_ratios_of_new_samples() -> None:
    rng = random.Random(2)

    def sample() -> tuple[list[float], list[float]]:
        sizes = [float(rng.randint(5, 50)) for _ in range(40)]
        return [size * 1.5 + rng.gauss(0, sqrt(size)) for size in sizes], sizes

    results = [ratio(*sample()) for _ in range(3000)]
    true = stdev(value for value, _ in results)
    assert fmean(value for value, _ in results) == pytest.approx(1.5, abs=0.01)
    assert sqrt(fmean(error**2 for _, error in results)) == pytest.approx(true, rel=0.04)


def test_exact_values() -> None:
    flags = [True] * 3 + [False] * 7
    assert mean(flags) == (pytest.approx(0.3), pytest.approx(sqrt(0.3 * 0.7 / 9)))
    assert mean([]) == (0.0, 0.0) and mean([5.0]) == (5.0, 0.0) and mean([1.0, 2.0]) == (1.5, 0.5)
    assert ratio([1.0, 3.0], [1, 1]) == (2.0, pytest.approx(1.0))
    assert ratio([3.0], [2]) == (1.5, 0.0)
    assert ratio([2.0, 4.0, 9.0], [1, 2, 4.5]) == (2.0, pytest.approx(0, abs=1e-12))
    equal = [1.0, 2.0, 3.0]
    assert ratio(equal, [1, 1, 1]) == (2.0, pytest.approx(mean(equal)[1]))
    with pytest.raises(ValueError, match="zip"):
        ratio([1, 2], [1, 2, 3])
