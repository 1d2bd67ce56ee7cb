"""The exact figures of a grammar, computed from its rules: entropy, mean length, number of stories.

A choice has as many options as its rule has alternatives, or as its table has rows that are still free; neither
depends on *which* rows were drawn before, only on which variables have one. So it is enough to walk the rules with
the set of bound variables and to add up a few sums for each set that a part can leave behind. A mention of a
variable is as long as its form is on average: seen alone, each variable is uniform over its table (variables of
one table are drawn without replacement, and nothing else looks at their values).
"""

import math
from dataclasses import dataclass
from functools import cached_property

from .grammar import Alternative, Call, Grammar, Mention, Part

Bound = frozenset[str]


@dataclass(frozen=True, slots=True)
class Sums:
    """Over all ways to write a part: their probability; nats and characters weighted by it; number; the longest."""

    mass: float = 1.0
    nats: float = 0.0
    chars: float = 0.0
    ways: int = 1
    longest: int = 0

    def then(self, other: "Sums") -> "Sums":
        """One part after the other."""
        return Sums(
            mass=self.mass * other.mass,
            nats=self.nats * other.mass + self.mass * other.nats,
            chars=self.chars * other.mass + self.mass * other.chars,
            ways=self.ways * other.ways,
            longest=self.longest + other.longest,
        )

    def __or__(self, other: "Sums") -> "Sums":
        """One part or the other."""
        return Sums(
            mass=self.mass + other.mass,
            nats=self.nats + other.nats,
            chars=self.chars + other.chars,
            ways=self.ways + other.ways,
            longest=max(self.longest, other.longest),
        )


class Exact:
    """Exact figures of a grammar; a story's end mark counts as a character."""

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._known: dict[tuple[str, Bound], dict[Bound, Sums]] = {}

    @cached_property
    def _story(self) -> Sums:
        total = Sums(mass=0.0, ways=0)
        for sums in self._rule("story", frozenset()).values():
            total |= sums
        return total

    @property
    def entropy(self) -> float:
        """Nats per story."""
        return self._story.nats

    @property
    def mean_length(self) -> float:
        """Expected characters per story, end mark included."""
        return self._story.chars + 1

    @property
    def floor(self) -> float:
        """Nats per character that no model can beat, each story scored from its start to its end mark."""
        return self.entropy / self.mean_length

    @property
    def max_length(self) -> int:
        """No story is longer than this, end mark included."""
        return self._story.longest + 1

    @property
    def stories(self) -> int:
        """How many derivations there are: the number of distinct stories, where the grammar is unambiguous."""
        return self._story.ways

    def _rule(self, rule: str, bound: Bound) -> dict[Bound, Sums]:
        if (rule, bound) not in self._known:
            options = self._grammar.rules[rule]
            pick = Sums(mass=1 / len(options), nats=math.log(len(options)) / len(options))
            result: dict[Bound, Sums] = {}
            for option in options:
                for after, sums in self._alternative(option, bound).items():
                    _add(result, after, pick.then(sums))
            self._known[rule, bound] = result
        return self._known[rule, bound]

    def _alternative(self, alternative: Alternative, bound: Bound) -> dict[Bound, Sums]:
        state = {bound: Sums()}
        for part in alternative.parts:
            following: dict[Bound, Sums] = {}
            for before, sums in state.items():
                for after, more in self._part(part, before).items():
                    _add(following, after, sums.then(more))
            state = following
        return state

    def _part(self, part: Part, bound: Bound) -> dict[Bound, Sums]:
        if isinstance(part, str):
            return {bound: Sums(chars=len(part), longest=len(part))}
        if isinstance(part, Call):
            return self._rule(part.rule, bound)
        return {bound | {part.variable}: self._mention(part, bound)}

    def _mention(self, mention: Mention, bound: Bound) -> Sums:
        lengths = [len(word) for word in mention.says]
        chars, longest = sum(lengths) / len(lengths), max(lengths)
        if mention.variable in bound:
            return Sums(chars=chars, longest=longest)
        taken = sum(rival in bound for rival in self._grammar.rivals(mention.variable))
        free = len(lengths) - taken
        return Sums(nats=math.log(free), chars=chars, ways=free, longest=longest)


def _add(into: dict[Bound, Sums], key: Bound, sums: Sums) -> None:
    into[key] = into[key] | sums if key in into else sums
