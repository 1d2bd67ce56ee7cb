"""A small probabilistic grammar whose variables are bound where a story mentions them first.

A grammar is data: rules with equally likely alternatives, tables of words, and variables that stand for a row of a
table. Telling a story rewrites `<story>` from left to right. Each rule, and each first mention of a variable, is a
choice between equally likely options; a later mention repeats the row. So a story's probability is the product of
1 / (number of options) over its derivation:

>>> tiny = Grammar(
...     tables={"PET": "pet  sound\\ncat  purred\\ndog  barked"},
...     variables={"pet": "PET"},
...     rules={"story": ["<home> The {pet} {pet.sound}."], "home": ["A {pet} came home.", "I saw a {pet}."]},
... )
>>> found = tiny.parse("I saw a dog. The dog barked.")
>>> [(c.name, c.picked, c.among) for c in found.choices if c.among > 1]
[('<home>', 'I saw a {pet}.', 2), ('{pet}', 'dog', 2)]
>>> tiny.parse("I saw a dog. The dog purred.") is None
True

Registers are set by a rule, `{owner=child}`, and mentioned as variables are. One whose table no variable has can be a
sum, `{sum=sum+few-lost}`; its table has the words for 0, 1, 2 and so on. Assignments add no text and are no choices.

>>> count = Grammar(
...     tables={"NUMBER": "n\\nno\\none\\ntwo\\nthree\\nfour", "FEW": "n\\none\\ntwo"},
...     variables={"few": "FEW", "more": "FEW"},
...     registers={"sum": "NUMBER"},
...     rules={"story": ["I had {few}.{sum=few} I got {more} more.{sum=sum+more} Now I have {sum}."]},
... )
>>> count.derivations("I had two. I got one more. Now I have three.")
1
>>> count.derivations("I had two. I got one more. Now I have two.")
0
"""

import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from .parts import Alternative, Assign, Call, Choice, Derivation, Mention, Part, Term, read_table
from .search import Bindings, Rest, before, search, settings

_HOLE = re.compile(r"<(\w+)>|\{([\w,]+)=([\w,+-]+)\}|\{(\w+)(?:\.(\w+))?\}")


class Grammar:
    """Rules, tables, variables and registers, checked; `story` is the rule that starts.

    apart: registers that never have the same row, for reading a sentence by itself.
    """

    def __init__(
        self,
        *,
        tables: Mapping[str, str],
        variables: Mapping[str, str],
        rules: Mapping[str, Sequence[str]],
        registers: Mapping[str, str] | None = None,
        apart: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.variables, self.registers = dict(variables), dict(registers or {})
        self._tables = {name: read_table(name, table) for name, table in tables.items()}
        self._table_of = self.variables | self.registers
        self._rivals: dict[str, tuple[str, ...]] = {  # names whose rows a first mention can't draw
            name: tuple(other for other in variables if other != name and variables[other] == variables[name])
            for name in variables
        }
        for name in self.registers:
            self._rivals[name] = tuple(other for pair in apart if name in pair for other in pair if other != name)
        self.rules = {
            rule: tuple(Alternative(source, self._parts(rule, source)) for source in sources)
            for rule, sources in rules.items()
        }
        if "story" not in self.rules:
            raise ValueError("a grammar needs the rule 'story'")
        self._check_calls("story", ())
        self._accepts_sentence = lru_cache(maxsize=1 << 16)(self._parses_as_sentence)

    def rows(self, variable: str) -> int:
        """How many rows the table of a variable or register has."""
        return len(self._tables[self._table_of[variable]])

    def free_rows(self, variable: str, bindings: Mapping[str, int]) -> list[int]:
        """The rows that a first mention may draw: those that no other variable of its table has taken."""
        taken = {bindings[rival] for rival in self._rivals[variable] if rival in bindings}
        return [row for row in range(self.rows(variable)) if row not in taken]

    def rivals(self, variable: str) -> tuple[str, ...]:
        """The other variables of the same table."""
        return self._rivals[variable]

    def word(self, variable: str, row: int) -> str:
        """The first column of a row: the word by which a derivation names it."""
        return next(iter(self._tables[self._table_of[variable]][row].values()))

    def parts(self, source: str) -> tuple[Part, ...]:
        """Take a text apart that is written as the alternatives of rules are."""
        return self._parts("text", source)

    def assign(self, part: Assign, bindings: Bindings) -> Bindings | None:
        """The bindings after an assignment; None if one of its terms is not bound, or a sum is not in the table."""
        rows = {}
        for register, terms in part.sums:
            if any(term.name not in bindings for term in terms):
                return None
            rows[register] = sum(term.worth[bindings[term.name]] for term in terms)
            if not 0 <= rows[register] < self.rows(register):
                return None
        return {**bindings, **rows}

    # Telling.

    def tell(self, rng: random.Random) -> Derivation:
        """Draw a story. Uses `rng.random()` alone, whose sequence Python promises to keep across versions."""
        text: list[str] = []
        choices: list[Choice] = []
        bindings: Bindings = {}
        at = 0
        rest: Rest = (Call("story"), None)
        while rest is not None:
            part, rest = rest
            if isinstance(part, Call):
                options = self.rules[part.rule]
                picked = options[int(rng.random() * len(options))]
                choices.append(Choice(f"<{part.rule}>", picked.source, len(options), at))
                rest = before(picked.parts, rest)
                continue
            if isinstance(part, Assign):
                bound = self.assign(part, bindings)
                if bound is None:
                    raise ValueError(f"{{{part.sums[0][0]}}} can't be set after: {''.join(text)}")
                bindings = bound
                choices += settings(self, part, bindings, at)
                continue
            if isinstance(part, Mention):
                if part.variable not in bindings:
                    free = self.free_rows(part.variable, bindings)
                    row = free[int(rng.random() * len(free))]
                    bindings = {**bindings, part.variable: row}
                    choices.append(Choice(f"{{{part.variable}}}", self.word(part.variable, row), len(free), at))
                part = part.says[bindings[part.variable]]
            text.append(part)
            at += len(part)
        return Derivation("".join(text), tuple(choices))

    # Reading.

    def parses(self, story: str) -> Iterator[Derivation]:
        """Every derivation of the story, by trying all of them; an unambiguous grammar gives at most one."""
        return search(self, story, (Call("story"), None))

    def parse(self, story: str) -> Derivation | None:
        """The story's derivation, or None where the grammar has none."""
        return next(self.parses(story), None)

    def derivations(self, story: str) -> int:
        """How many derivations the story has."""
        return sum(1 for _ in self.parses(story))

    def log_prob(self, story: str) -> float:
        """Nats of the story with its end mark; -inf where the grammar does not tell it."""
        found = self.parse(story)
        return -math.inf if found is None else found.log_prob

    def accepts_sentence(self, sentence: str) -> bool:
        """Whether the sentence occurs in some story, its variables bound in any one consistent way."""
        return self._accepts_sentence(sentence)

    def _parses_as_sentence(self, sentence: str) -> bool:
        return any(
            next(search(self, sentence, before(alternative.parts, None)), None) is not None
            for alternatives in self.rules.values()
            for alternative in alternatives
            if alternative.is_sentence
        )

    # Reading the data.

    def _parts(self, rule: str, source: str) -> tuple[Part, ...]:
        parts: list[Part] = []
        end = 0
        for hole in _HOLE.finditer(source):
            if hole.start() > end:
                parts.append(source[end : hole.start()])
            end = hole.end()
            called, targets, sums, variable, form = hole.groups()
            if targets:
                parts.append(self._assign(rule, targets.split(","), sums.split(",")))
            else:
                parts.append(Call(called) if called else self._mention(rule, variable, form))
        if end < len(source):
            parts.append(source[end:])
        return tuple(parts)

    def _assign(self, rule: str, registers: list[str], sums: list[str]) -> Assign:
        if unknown := [name for name in registers if name not in self.registers]:
            raise ValueError(f"<{rule}> sets {{{unknown[0]}}}, which is not a register")
        if len(registers) != len(sums):
            raise ValueError(f"<{rule}> sets {len(registers)} registers to {len(sums)} sums")
        terms = [tuple(re.findall(r"([+-]?)(\w+)", text)) for text in sums]
        return Assign(
            tuple(
                (register, tuple(self._term(rule, register, sign, name, len(its)) for sign, name in its))
                for register, its in zip(registers, terms, strict=True)
            )
        )

    def _term(self, rule: str, register: str, sign: str, name: str, terms: int) -> Term:
        if name not in self._table_of:
            raise ValueError(f"<{rule}> sets {{{register}}} to {{{name}}}, which is no variable")
        counts = self.registers[register] not in self.variables.values()
        same = self._table_of[name] == self._table_of[register]
        if not counts and (terms > 1 or sign == "-"):
            raise ValueError(f"<{rule}> sets {{{register}}} to a sum, but its words are no numbers")
        if not same and not (counts and name in self.variables):
            raise ValueError(f"<{rule}> sets {{{register}}} to {{{name}}}, which is of another table")
        words = [self.word(register, row) for row in range(self.rows(register))]
        theirs = [self.word(name, row) for row in range(self.rows(name))]
        if missing := {*theirs} - {*words}:
            raise ValueError(f"<{rule}> sets {{{register}}} to {{{name}}}, but its table has no {missing.pop()!r}")
        return Term(name, tuple(-words.index(word) if sign == "-" else words.index(word) for word in theirs))

    def _mention(self, rule: str, variable: str, form: str | None) -> Mention:
        if variable not in self._table_of:
            raise ValueError(f"<{rule}> mentions {{{variable}}}, which is no variable")
        table = self._tables[self._table_of[variable]]
        column = form or next(iter(table[0]))
        if column.lower() not in table[0]:
            raise ValueError(f"<{rule}> wants {{{variable}.{form}}}; its forms are {', '.join(table[0])}")
        words = tuple(row[column.lower()] for row in table)
        if column != column.lower():
            words = tuple(word[0].upper() + word[1:] for word in words)
        return Mention(variable, words)

    def _check_calls(self, rule: str, callers: tuple[str, ...]) -> None:
        if rule in callers:
            raise ValueError(f"<{rule}> calls itself; stories are finite")
        if rule not in self.rules:
            raise ValueError(f"<{callers[-1]}> calls <{rule}>, which is no rule")
        for alternative in self.rules[rule]:
            for part in alternative.parts:
                if isinstance(part, Call):
                    self._check_calls(part.rule, (*callers, rule))
