"""The grades: their grammars, their stories by number, the split into training and validation, and their figures.

A story is one line of ASCII text; its end mark, a newline, is never part of the strings here.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib import import_module
from typing import Any, Literal

from . import diagnosis, variety
from .grammar import Grammar
from .measure import Exact
from .parts import Derivation, sentences

Split = Literal["train", "val"]


class Grade:
    """The stories of a grammar. name: that of the dataset; modules: where its rules and its words are."""

    def __init__(self, name: str, *modules: str) -> None:
        self.name, self._modules = name, modules

    @cached_property
    def grammar(self) -> Grammar:
        """The grammar of the stories."""
        data: dict[str, Any] = {}
        for module in self._modules:
            data |= vars(import_module(f"pealm_kindergarten.{module}"))
        return Grammar(
            tables=data["TABLES"],
            variables=data["VARIABLES"],
            registers=data.get("REGISTERS"),
            apart=data.get("APART", ()),
            rules=data["RULES"],
        )

    @cached_property
    def exact(self) -> Exact:
        """Its exact figures."""
        return Exact(self.grammar)

    def generate(self, rng: random.Random) -> str:
        """Draw a story."""
        return self.grammar.tell(rng).text

    def telling(self, seed: int, index: int) -> Derivation:
        """The derivation of the story with this number."""
        return self.grammar.tell(random.Random(f"{self.name} {seed} {index}"))

    def story(self, seed: int, index: int) -> str:
        """The story with this number: always the same for the same seed and index."""
        return self.telling(seed, index).text

    def stories(self, split_name: Split, seed: int, n: int) -> Iterator[str]:
        """The first n of the seed's stories that belong to the split."""
        return (told.text for _, told in self.tellings(split_name, seed, n))

    def tellings(self, split_name: Split, seed: int, n: int) -> Iterator[tuple[int, Derivation]]:
        """Yield the numbers and derivations of these stories."""
        if split_name not in ("train", "val"):
            raise ValueError(f"split is {split_name!r}; it must be 'train' or 'val'")
        index = told = 0
        while told < n:
            derivation = self.telling(seed, index)
            if split(derivation.text) == split_name:
                told += 1
                yield index, derivation
            index += 1

    def parse(self, story: str) -> Derivation | None:
        """The story's derivation, or None where the grammar has none."""
        return self.grammar.parse(story)

    def derivations(self, story: str) -> int:
        """How many derivations the story has: 1, or 0 where it is none of the grammar's."""
        return self.grammar.derivations(story)

    def log_prob(self, story: str) -> float:
        """Nats of the story with its end mark; -inf where the grammar does not tell it."""
        return self.grammar.log_prob(story)

    def check_sentences(self, text: str) -> list[tuple[str, bool]]:
        """The text's sentences, each with whether it occurs in some story, whatever the others say."""
        return [(sentence, self.grammar.accepts_sentence(sentence)) for sentence in sentences(text)]

    def problem(self, story: str) -> diagnosis.Problem | None:
        """Where the story stops making sense, or None where it makes sense to its end."""
        return diagnosis.problem(self.grammar, story)

    def explain(self, story: str) -> str:
        """The story's derivation, choice by choice, or where it stops making sense and why."""
        return diagnosis.explain(self.grammar, story)

    def diversity(self, stories: Sequence[str]) -> variety.Diversity:
        """How varied at least one story is; compare with as many of the grammar's own."""
        return variety.diversity(self.grammar, stories)

    def entropy(self) -> float:
        """Nats per story."""
        return self.exact.entropy

    def mean_length(self) -> float:
        """Expected characters per story, end mark included."""
        return self.exact.mean_length

    def max_length(self) -> int:
        """No story is longer than this, end mark included."""
        return self.exact.max_length

    def entropy_floor(self) -> float:
        """Nats per character that no model can beat, each story scored from its start to its end mark."""
        return self.exact.floor


def split(story: str) -> Split:
    """Where a story belongs, by its text alone (1 in 10 is "val"), so that no seed or number mixes the two."""
    digest = hashlib.blake2b(story.encode(), digest_size=8).digest()
    return "val" if int.from_bytes(digest, "big") % 10 == 0 else "train"


KINDERGARTEN = Grade("kindergarten", "plots", "words")
SECOND_GRADE = Grade("second-grade", "second_grade")

# The functions of the package are the kindergarten's.
check_sentences, derivations, diversity = (
    KINDERGARTEN.check_sentences,
    KINDERGARTEN.derivations,
    KINDERGARTEN.diversity,
)
entropy, entropy_floor, explain = KINDERGARTEN.entropy, KINDERGARTEN.entropy_floor, KINDERGARTEN.explain
generate, log_prob, parse = KINDERGARTEN.generate, KINDERGARTEN.log_prob, KINDERGARTEN.parse
max_length, mean_length, problem = KINDERGARTEN.max_length, KINDERGARTEN.mean_length, KINDERGARTEN.problem
stories, story, tellings = KINDERGARTEN.stories, KINDERGARTEN.story, KINDERGARTEN.tellings
