"""The exact figures of a grammar, computed from its rules: entropy, mean length, number of stories.

A choice has as many options as its rule has alternatives, or as its table has rows that are still free; neither
depends on *which* rows were drawn before, only on which variables have one. So it is enough to walk the rules with
the set of bound variables and to add up a few sums for each set that a part can leave behind. A mention of a
variable is as long as its form is on average: seen alone, each variable is uniform over its table (variables of
one table are drawn without replacement, and nothing else looks at their values).

What a register is set to is a part of the state: a sum of functions of variables. The length of its word is the mean
over the joint rows of these variables, which are uniform over the tuples that don't repeat a row of a table.
"""

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from .grammar import Grammar
from .parts import Alternative, Assign, Call, Mention, Part

Form = tuple[tuple[str, tuple[int, ...]], ...]  # variables, and what each adds by its row
State = tuple[frozenset[str], tuple[tuple[str, Form], ...]]  # bound variables; registers and what they are set to


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
        self._known: dict[tuple[str, State], dict[State, Sums]] = {}
        self._rows_of: dict[tuple[str, Form], dict[int, float]] = {}

    @cached_property
    def _story(self) -> Sums:
        total = Sums(mass=0.0, ways=0)
        for sums in self._rule("story", (frozenset(), ())).values():
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

    def _rule(self, rule: str, state: State) -> dict[State, Sums]:
        if (rule, state) not in self._known:
            options = self._grammar.rules[rule]
            pick = Sums(mass=1 / len(options), nats=math.log(len(options)) / len(options))
            result: dict[State, Sums] = {}
            for option in options:
                for after, sums in self._alternative(option, state).items():
                    _add(result, after, pick.then(sums))
            self._known[rule, state] = result
        return self._known[rule, state]

    def _alternative(self, alternative: Alternative, state: State) -> dict[State, Sums]:
        states = {state: Sums()}
        for part in alternative.parts:
            following: dict[State, Sums] = {}
            for before, sums in states.items():
                for after, more in self._part(part, before).items():
                    _add(following, after, sums.then(more))
            states = following
        return states

    def _part(self, part: Part, state: State) -> dict[State, Sums]:
        bound, forms = state
        if isinstance(part, str):
            return {state: Sums(chars=len(part), longest=len(part))}
        if isinstance(part, Call):
            return self._rule(part.rule, state)
        if isinstance(part, Assign):
            return {(bound, self._assign(part, state)): Sums()}
        if part.variable in self._grammar.registers:
            return {state: self._register(part, dict(forms))}
        return {(bound | {part.variable}, forms): self._mention(part, bound)}

    def _mention(self, mention: Mention, bound: frozenset[str]) -> Sums:
        lengths = [len(word) for word in mention.says]
        chars, longest = sum(lengths) / len(lengths), max(lengths)
        if mention.variable in bound:
            return Sums(chars=chars, longest=longest)
        taken = sum(rival in bound for rival in self._grammar.rivals(mention.variable))
        free = len(lengths) - taken
        return Sums(nats=math.log(free), chars=chars, ways=free, longest=longest)

    def _register(self, mention: Mention, forms: dict[str, Form]) -> Sums:
        if mention.variable not in forms:
            raise ValueError(f"{{{mention.variable}}} is mentioned before it is set")
        rows = self._rows(mention.variable, forms[mention.variable])
        chars = sum(p * len(mention.says[row]) for row, p in rows.items())
        return Sums(chars=chars, longest=max(len(mention.says[row]) for row in rows))

    def _assign(self, part: Assign, state: State) -> tuple[tuple[str, Form], ...]:
        bound, forms = state[0], dict(state[1])
        result = dict(forms)
        for register, terms in part.sums:
            total: dict[str, list[int]] = {}
            for term in terms:
                if term.name in forms:  # a sum of the same table, with a sign
                    sign = 1 if term.worth[-1] > 0 else -1
                    addends = [(name, [sign * n for n in worth]) for name, worth in forms[term.name]]
                elif term.name in bound:
                    addends = [(term.name, list(term.worth))]
                else:
                    raise ValueError(f"{{{register}}} is set to {{{term.name}}}, which no sentence before it has")
                for name, worth in addends:
                    total[name] = [a + b for a, b in zip(total.get(name, [0] * len(worth)), worth, strict=True)]
            result[register] = tuple(sorted((name, tuple(worth)) for name, worth in total.items() if any(worth)))
            self._rows(register, result[register])
        return tuple(sorted(result.items()))

    def _rows(self, register: str, form: Form) -> dict[int, float]:
        """Return the probability of each row of a register."""
        if (register, form) not in self._rows_of:
            counts = Counter[int]()
            variables = [name for name, _ in form]
            for rows in product(*(range(len(worth)) for _, worth in form)):
                drawn = dict(zip(variables, rows, strict=True))
                if all(row in self._grammar.free_rows(name, _without(drawn, name)) for name, row in drawn.items()):
                    counts[sum(worth[row] for (_, worth), row in zip(form, rows, strict=True))] += 1
            if wrong := [row for row in counts if not 0 <= row < self._grammar.rows(register)]:
                raise ValueError(f"{{{register}}} can be {wrong[0]}, for which its table has no word")
            self._rows_of[register, form] = {row: n / counts.total() for row, n in counts.items()}
        return self._rows_of[register, form]


def _without(rows: dict[str, int], name: str) -> dict[str, int]:
    return {other: row for other, row in rows.items() if other != name}


def _add(into: dict[State, Sums], key: State, sums: Sums) -> None:
    into[key] = into[key] | sums if key in into else sums
