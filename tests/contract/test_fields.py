"""Config dataclasses of every kind that Python has."""

from dataclasses import dataclass
from functools import cached_property

import pytest

from pealm_core.contract.fields import Setting, dump, settings_of


@dataclass(slots=True)
class Slots:
    vocab_size: int
    block_size: int = 8
    rate: float | None = None


@dataclass
class Cached:
    vocab_size: int
    block_size: int = 8
    rate: float | None = None

    @cached_property
    def area(self) -> int:
        return self.vocab_size * self.block_size


@pytest.mark.parametrize("kind", [Slots, Cached])
def test_slots_and_cached_properties_are_no_settings(kind: type[Slots | Cached]) -> None:
    assert list(settings_of(kind)) == ["vocab-size", "block-size", "rate"]
    config = kind(3)
    assert getattr(config, "area", 24) == 24
    assert dump(config) == {"vocab-size": 3, "block-size": 8}


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("type_", [int, float])
def test_a_number_of_400_digits_is_too_large(type_: type, text: bool) -> None:
    number = 10**400
    with pytest.raises(ValueError, match=r"must be (at most 1,000,000,000,000|a number|finite), not"):
        Setting("n", type_, False, 0).parse(str(number) if text else number, text=text)
