"""Mixtures of sources."""

from collections import Counter
from collections.abc import Iterable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pealm_core.contract.errors import PluginError
from pealm_core.contract.training_protocols import Batch
from pealm_core.data.mixture import BLOCK, Mixture, quotas


class Numbers:
    """A source whose rows are its own number and the sample's."""

    tokens, block_size = 100, 2

    def __init__(self, name: int, length: int = 10, key: str = "idx") -> None:
        self.name, self.length, self.key = name, length, key

    def __len__(self) -> int:
        return self.length

    def rows(self, samples: Iterable[int]) -> Batch:
        rows = torch.tensor([[self.name, sample] for sample in samples])
        return {self.key: rows, "targets": rows}


def mixture(*weights: float, seed: int = 0) -> Mixture:
    return Mixture([Numbers(i) for i in range(len(weights))], weights, seed=seed)


@given(st.lists(st.floats(0.1, 9), min_size=1, max_size=8))
def test_quotas_are_whole_and_as_near_as_they_can_be(weights: list[float]) -> None:
    found = quotas(weights)
    assert sum(found) == BLOCK
    assert all(abs(quota - BLOCK * w / sum(weights)) < 1 for quota, w in zip(found, weights, strict=True))


def test_the_largest_remainders_are_rounded_up() -> None:
    assert quotas([1, 1, 2.5]) == [222, 222, 556]  # of 222.2, 222.2 and 555.6
    assert quotas([1, 999]) == [1, 999] and quotas([1.5, 998.5]) == [2, 998]  # no source is left out


@given(st.lists(st.floats(0.1, 9), min_size=1, max_size=5), st.integers(0, 2**63), st.integers(0, 50))
def test_a_block_has_its_quotas_and_each_source_goes_on_where_it_was(
    weights: list[float], seed: int, block: int
) -> None:
    mixed = mixture(*weights, seed=seed)
    places = mixed.places(range(block * BLOCK, (block + 1) * BLOCK))
    assert Counter(source for source, _ in places) == dict(enumerate(mixed.quotas))
    for source, quota in enumerate(mixed.quotas):
        numbers = sorted(number for own, number in places if own == source)
        assert numbers == [*range(block * quota, (block + 1) * quota)]


def test_the_order_is_drawn_from_the_seed() -> None:
    assert Mixture([Numbers(0), Numbers(1)], [3, 1]).places(range(50)) == mixture(3, 1, seed=0).places(range(50))
    one, other = mixture(3, 1, seed=1), mixture(3, 1, seed=2)
    assert one.places(range(100)) == mixture(3, 1, seed=1).places(range(100)) != other.places(range(100))
    assert one.places(range(100)) != [(source, n - 750) for source, n in one.places(range(BLOCK, BLOCK + 100))]
    assert 60 < sum(source == 0 for source, _ in one.places(range(100))) < 90  # mixed within a block


def test_the_order_stays_what_it_was() -> None:
    """A run that is resumed with a newer version continues in the same order."""
    places = [(1, 8), (0, 224), (1, 121), (0, 64), (0, 474), (0, 388)]
    assert mixture(3, 1, seed=0).places(range(6)) == places
    assert mixture(3, 1, seed=0).places(range(1000, 1003)) == [(0, 1143), (0, 1257), (0, 1027)]


def test_rows_are_those_of_the_sources_for_any_number_of_processes() -> None:
    mixed = mixture(2, 1, 1)
    idx = mixed.rows(range(990, 1010))["idx"]
    assert idx.tolist() == [list(place) for place in mixed.places(range(990, 1010))]
    for size in (2, 4):
        parts = [mixed.rows(range(990 + rank, 1010, size))["idx"] for rank in range(size)]
        assert torch.equal(torch.stack(parts, 1).flatten(0, 1), idx)


def test_a_pass_has_passed_over_every_source() -> None:
    mixed = Mixture([Numbers(0, 75), Numbers(1, 100)], [3, 1])
    assert len(mixed) == 400 and mixed.tokens == 200


def test_a_weight_that_is_too_small_and_unlike_sources_are_refused() -> None:
    with pytest.raises(ValueError, match=r"weight 0.5 is less than a thousandth of their sum, 1000.5"):
        quotas([1000, 0.5])
    with pytest.raises(PluginError, match="can't be mixed"):
        Mixture([Numbers(0), Numbers(1, key="pixels")], [1, 1]).rows(range(50))


@given(st.lists(st.floats(0.1, 9), min_size=2, max_size=5), st.integers(0, 3 * BLOCK))
def test_what_was_drawn_is_counted(weights: list[float], samples: int) -> None:
    mixed = mixture(*weights, seed=5)
    counts = Counter(source for source, _ in mixed.places(range(samples)))
    assert mixed.drawn(samples) == [counts[source] for source in range(len(weights))]
