"""Standard errors against simulation and closed forms: a dropped root or n for n - 1 would show."""

import random
from math import comb, sqrt
from statistics import fmean, stdev

import pytest

from pealm_core import credit, mcnemar, mean, paired, ratio


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
    assert mean([]) == (0.0, 0.0) and mean([5.0]) == (5.0, 0.0)
    assert ratio([3.0], [2]) == (1.5, 0.0)
    assert ratio([2.0, 4.0, 9.0], [1, 2, 4.5]) == (2.0, pytest.approx(0, abs=1e-12))
    equal = [1.0, 2.0, 3.0]
    assert ratio(equal, [1, 1, 1]) == (2.0, pytest.approx(mean(equal)[1]))
    assert paired([1, 2, 3], [2, 2, 5]) == (1.0, pytest.approx(stdev([1, 0, 2]) / sqrt(3)))
    with pytest.raises(ValueError, match="zip"):
        paired([1], [1, 2])


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (1, 0), (3, 3), (2, 9), (10, 1)])
def test_mcnemar_is_the_binomial_test_of_the_items_that_differ(only_first: int, only_second: int) -> None:
    n = only_first + only_second
    first = [True] * only_first + [False] * only_second + [True, False] * 5
    second = [False] * only_first + [True] * only_second + [True, False] * 5
    chances = [comb(n, k) / 2**n for k in range(n + 1)]
    expected = sum(chance for chance in chances if chance <= chances[only_first] + 1e-12)
    assert mcnemar(first, second) == pytest.approx(min(1.0, expected))
    assert mcnemar(second, first) == mcnemar(first, second)


def test_ties_share_the_credit() -> None:
    assert [credit([1.0, 1.0, 1.0, 1.0], label) for label in range(4)] == [0.25] * 4
    assert [credit([0.0, 2.0, 2.0], label) for label in range(3)] == [0.0, 0.5, 0.5]
    assert credit([float("-inf"), -3.0], 1) == 1.0
