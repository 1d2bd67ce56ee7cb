"""The kindergarten: its grammar, its stories by number, the split into training and validation, and its figures.

A story is one line of ASCII text; its end mark, a newline, is never part of the strings here.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Literal

from . import diagnosis, variety
from .grammar import Derivation, Grammar, sentences
from .measure import Exact
from .plots import RULES
from .words import TABLES, VARIABLES

Split = Literal["train", "val"]


@cache
def kindergarten() -> Grammar:
    """The grammar of the stories."""
    return Grammar(tables=TABLES, variables=VARIABLES, rules=RULES)


@cache
def exact() -> Exact:
    """Its exact figures."""
    return Exact(kindergarten())


def generate(rng: random.Random) -> str:
    """Draw a story."""
    return kindergarten().tell(rng).text


def story(seed: int, index: int) -> str:
    """The story with this number: always the same for the same seed and index."""
    return generate(random.Random(f"kindergarten {seed} {index}"))


def split(story: str) -> Split:
    """Where a story belongs, by its text alone (1 in 10 is "val"), so that no seed or number mixes the two."""
    digest = hashlib.blake2b(story.encode(), digest_size=8).digest()
    return "val" if int.from_bytes(digest, "big") % 10 == 0 else "train"


def stories(split_name: Split, seed: int, n: int) -> Iterator[str]:
    """The first n of the seed's stories that belong to the split."""
    return (told.text for _, told in tellings(split_name, seed, n))


def tellings(split_name: Split, seed: int, n: int) -> Iterator[tuple[int, Derivation]]:
    """Yield the numbers and derivations of these stories."""
    if split_name not in ("train", "val"):
        raise ValueError(f"split is {split_name!r}; it must be 'train' or 'val'")
    index = told = 0
    while told < n:
        derivation = kindergarten().tell(random.Random(f"kindergarten {seed} {index}"))
        if split(derivation.text) == split_name:
            told += 1
            yield index, derivation
        index += 1


def parse(story: str) -> Derivation | None:
    """The story's derivation, or None where the grammar has none."""
    return kindergarten().parse(story)


def derivations(story: str) -> int:
    """How many derivations the story has: 1, or 0 where it is none of the grammar's."""
    return kindergarten().derivations(story)


def log_prob(story: str) -> float:
    """Nats of the story with its end mark; -inf where the grammar does not tell it."""
    return kindergarten().log_prob(story)


def check_sentences(text: str) -> list[tuple[str, bool]]:
    """The text's sentences, each with whether it occurs in some story, whatever the others say."""
    return [(sentence, kindergarten().accepts_sentence(sentence)) for sentence in sentences(text)]


def problem(story: str) -> diagnosis.Problem | None:
    """Where the story stops making sense, or None where it makes sense to its end."""
    return diagnosis.problem(kindergarten(), story)


def explain(story: str) -> str:
    """The story's derivation, choice by choice, or where it stops making sense and why."""
    return diagnosis.explain(kindergarten(), story)


def diversity(stories: Sequence[str]) -> variety.Diversity:
    """How varied at least one story is; compare with as many of the grammar's own."""
    return variety.diversity(kindergarten(), stories)


def entropy() -> float:
    """Nats per story."""
    return exact().entropy


def mean_length() -> float:
    """Expected characters per story, end mark included."""
    return exact().mean_length


def max_length() -> int:
    """No story is longer than this, end mark included."""
    return exact().max_length


def entropy_floor() -> float:
    """Nats per character that no model can beat, each story scored from its start to its end mark."""
    return exact().floor
