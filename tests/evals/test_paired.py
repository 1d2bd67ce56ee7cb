"""The statistics of pairs against closed forms, scipy and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from pealm_core import UserError
from pealm_evals.paired import interval, mcnemar, value
from pealm_evals.rows import same_rows


def plain(values: object) -> np.ndarray:
    column = np.asarray(values, float)
    return np.stack([column, np.ones_like(column)], axis=1)


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (1, 0), (7, 2), (2, 7), (30, 45), (800, 700)])
def test_mcnemar_is_the_binomial_test_of_the_rows_that_differ(only_first: int, only_second: int) -> None:
    first = [True] * only_first + [False] * only_second + [True, False] * 40
    second = [False] * only_first + [True] * only_second + [True, False] * 40
    n = only_first + only_second
    expected = stats.binomtest(only_first, n).pvalue if n else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)


def test_the_interval_of_means_is_scipy_s_bootstrap_and_near_the_normal_one() -> None:
    random = np.random.default_rng(1)
    first = random.normal(size=300)
    second = first + 0.2 + random.normal(scale=0.5, size=300)
    low, high = interval(plain(first), plain(second))
    theirs = stats.bootstrap(
        ((second - first),), np.mean, method="percentile", n_resamples=9999, rng=3
    ).confidence_interval
    half = 1.96 * np.std(second - first, ddof=1) / math.sqrt(300)
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.006)
    assert high - low == pytest.approx(2 * half, rel=0.05)  # unpaired it would be four times as wide
    assert (low, high) == interval(plain(first), plain(second))  # the same every time
    middle, error = np.mean(second - first), half / 1.96
    for level in (0.5, 0.8, 0.95):  # as much is left out at each end
        z = stats.norm.ppf((1 + level) / 2)
        ends = interval(plain(first), plain(second), level=level)
        assert ends == pytest.approx((middle - z * error, middle + z * error), abs=0.1 * error)


def test_the_interval_covers_the_true_difference_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ratios of sums over passages of different sizes, as losses are."""
    monkeypatch.setattr("pealm_evals.paired.RESAMPLES", 1000)
    random, hits = np.random.default_rng(2), 0
    for trial in range(200):
        sizes = random.integers(50, 200, size=60)
        first = np.stack([sizes * (3.0 + random.normal(scale=0.3, size=60)), sizes], axis=1)
        second = first + np.stack([sizes * (0.1 + random.normal(scale=0.2, size=60)), 0 * sizes], axis=1)
        low, high = interval(first, second, seed=trial)
        hits += low <= 0.1 <= high
    assert 0.89 < hits / 200 < 0.985


def test_passages_that_are_divided_differently_are_joined() -> None:
    a = [{"document": 1, "end": e, "loss": [n, 1]} for e, n in ((10, 1.0), (20, 2.0), (30, 4.0))]
    a += [{"document": 2, "end": 5, "loss": [8.0, 1]}]
    b = [{"document": 1, "end": 20, "loss": [5.0, 2]}, {"document": 1, "end": 30, "loss": [6.0, 2]}]
    b += [{"document": 2, "end": 3, "loss": [1.0, 2]}, {"document": 2, "end": 5, "loss": [1.0, 2]}]
    first, second = same_rows("loss", [a, b])
    assert first.tolist() == [[3.0, 2.0], [4.0, 1.0], [8.0, 1.0]]
    assert second.tolist() == [[5.0, 2.0], [6.0, 2.0], [2.0, 4.0]]
    assert value(first) == pytest.approx(15 / 4)
    with pytest.raises(UserError, match="no rows in common"):
        same_rows("loss", [a, [{"document": 1, "end": 11, "loss": [1.0, 1]}]])
    with pytest.raises(UserError, match="two rows are at"):
        same_rows("acc", [[{"line": 1, "acc": 1}, {"line": 1, "acc": 0}]] * 2)
    unplaced = same_rows("acc", [[{"acc": 1}, {"acc": 0}], [{"acc": 0}, {"acc": 0}]])
    assert [rows[:, 0].tolist() for rows in unplaced] == [[1, 0], [0, 0]]
