"""The engine: a small probabilistic grammar whose variables are bound where a story mentions them first.

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
"""

import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

END = "\n"  # the end mark; certain after a whole story, so it costs no nats, but it counts as a character

_HOLE = re.compile(r"<(\w+)>|\{(\w+)(?:\.(\w+))?\}")
_SENTENCE_END = re.compile(r'(?:[.!?]"?)$')
_BETWEEN_SENTENCES = re.compile(r'(?:(?<=[.!?])|(?<=[.!?]")) (?=["A-Z])')


@dataclass(frozen=True, slots=True)
class Mention:
    """A place that says a variable's word: what it says for each row of the variable's table."""

    variable: str
    says: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A place where a rule's alternative goes."""

    rule: str


Part = str | Mention | Call


@dataclass(frozen=True, slots=True)
class Alternative:
    """One way to write a rule: its source, and the same taken apart."""

    source: str
    parts: tuple[Part, ...]

    @property
    def is_sentence(self) -> bool:
        return bool(_SENTENCE_END.search(self.source))


@dataclass(frozen=True, slots=True)
class Choice:
    """One step of a derivation: `<rule>` or `{variable}`, what was picked, among how many, and where in the text."""

    name: str
    picked: str
    among: int
    at: int


@dataclass(frozen=True, slots=True)
class Derivation:
    """A story and the choices that make it, from left to right."""

    text: str
    choices: tuple[Choice, ...]

    @property
    def log_prob(self) -> float:
        """Nats; the end mark is included and certain."""
        return -sum(math.log(choice.among) for choice in self.choices)

    @property
    def plot(self) -> str:
        """The first rule that was picked: `<lost>`, for instance."""
        return self.choices[0].picked

    @property
    def skeleton(self) -> tuple[str, ...]:
        """The alternatives of its rules, without the words that its variables took."""
        return tuple(choice.picked for choice in self.choices if choice.name.startswith("<"))


# A linked list shares its tail, so that parses that part company keep what they have in common.
Rest = tuple[Part, "Rest"] | None
Trail = tuple[Choice, "Trail"] | None
Bindings = dict[str, int]  # variable -> row of its table


@dataclass(frozen=True, slots=True)
class Miss:
    """A place where a parse could not go on: `wanted` was to follow at `at` (None: the story's end)."""

    at: int
    wanted: str | None
    variable: str | None
    rest: Rest
    bindings: Bindings
    trail: Trail


class Grammar:
    """Rules, tables and variables, checked and ready to tell and to read; `story` is the rule that starts."""

    def __init__(
        self, *, tables: Mapping[str, str], variables: Mapping[str, str], rules: Mapping[str, Sequence[str]]
    ) -> None:
        self.variables = dict(variables)
        self._tables = {name: _read_table(name, table) for name, table in tables.items()}
        self._rivals = {  # the other variables of the same table, whose rows are taken
            name: tuple(v for v, table in variables.items() if table == variables[name] and v != name)
            for name in variables
        }
        self.rules = {
            rule: tuple(Alternative(source, self._parts(rule, source)) for source in sources)
            for rule, sources in rules.items()
        }
        if "story" not in self.rules:
            raise ValueError("a grammar needs the rule 'story'")
        self._check_calls("story", ())
        self._accepts_sentence = lru_cache(maxsize=1 << 16)(self._parses_as_sentence)

    def rows(self, variable: str) -> int:
        """How many rows the variable's table has."""
        return len(self._tables[self.variables[variable]])

    def free_rows(self, variable: str, bindings: Mapping[str, int]) -> list[int]:
        """The rows that a first mention may draw: those that no other variable of its table has taken."""
        taken = {bindings[rival] for rival in self._rivals[variable] if rival in bindings}
        return [row for row in range(self.rows(variable)) if row not in taken]

    def rivals(self, variable: str) -> tuple[str, ...]:
        """The other variables that draw from the same table."""
        return self._rivals[variable]

    def word(self, variable: str, row: int) -> str:
        """The first column of a row: the word by which a derivation names it."""
        return next(iter(self._tables[self.variables[variable]][row].values()))

    def parts(self, source: str) -> tuple[Part, ...]:
        """Take a text apart that is written as the alternatives of rules are."""
        return self._parts("text", source)

    # Telling.

    def tell(self, rng: random.Random) -> Derivation:
        """Draw a story. Uses `rng.random()` alone, whose sequence Python promises to keep across versions."""
        text, at = [], 0
        bindings: Bindings = {}
        choices = []
        rest: Rest = (Call("story"), None)
        while rest is not None:
            part, rest = rest
            if isinstance(part, Call):
                options = self.rules[part.rule]
                picked = options[int(rng.random() * len(options))]
                choices.append(Choice(f"<{part.rule}>", picked.source, len(options), at))
                rest = _before(picked.parts, rest)
                continue
            if isinstance(part, Mention):
                if part.variable not in bindings:
                    free = self.free_rows(part.variable, bindings)
                    row = free[int(rng.random() * len(free))]
                    bindings[part.variable] = row
                    word = self.word(part.variable, row)
                    choices.append(Choice(f"{{{part.variable}}}", word, len(free), at))
                part = part.says[bindings[part.variable]]
            text.append(part)
            at += len(part)
        return Derivation("".join(text), tuple(choices))

    # Reading.

    def parses(self, story: str) -> Iterator[Derivation]:
        """Every derivation of the story, found by trying all of them; an unambiguous grammar gives at most one."""
        return self._search(story, (Call("story"), None))

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

    def misses(self, story: str) -> list[Miss]:
        """The places furthest into the story at which its parses fail (where it is whole: behind its end)."""
        furthest: list[Miss] = []

        def note(miss: Miss) -> None:
            if furthest and miss.at > furthest[0].at:
                furthest.clear()
            if not furthest or miss.at == furthest[0].at:
                furthest.append(miss)

        for _ in self._search(story, (Call("story"), None), note):
            pass
        return furthest

    def accepts_sentence(self, sentence: str) -> bool:
        """Whether the sentence occurs in some story, its variables bound in any one consistent way."""
        return self._accepts_sentence(sentence)

    def _parses_as_sentence(self, sentence: str) -> bool:
        return any(
            next(self._search(sentence, _before(alternative.parts, None)), None) is not None
            for alternatives in self.rules.values()
            for alternative in alternatives
            if alternative.is_sentence
        )

    def _search(self, text: str, start: Rest, note: Callable[[Miss], None] | None = None) -> Iterator[Derivation]:
        """Depth first over all ways to read `text` as `start`; `note` hears of each dead end."""
        agenda: list[tuple[int, Rest, Bindings, Trail]] = [(0, start, {}, None)]
        while agenda:
            at, rest, bindings, trail = agenda.pop()
            while rest is not None:
                part, after = rest
                if isinstance(part, Call):
                    options = self.rules[part.rule]
                    for option in reversed(options):
                        choice = Choice(f"<{part.rule}>", option.source, len(options), at)
                        agenda.append((at, _before(option.parts, after), bindings, (choice, trail)))
                    break
                variable = None
                if isinstance(part, Mention):
                    variable = part.variable
                    if variable not in bindings:
                        for bound, choice in self._first_mentions(part, at, bindings):
                            said = part.says[bound[variable]]
                            if text.startswith(said, at):
                                agenda.append((at + len(said), after, bound, (choice, trail)))
                            elif note:
                                note(_miss(text, at, said, None, after, bound, trail))
                        break
                    part = part.says[bindings[variable]]
                if not text.startswith(part, at):
                    if note:
                        note(_miss(text, at, part, variable, after, bindings, trail))
                    break
                at += len(part)
                rest = after
            else:
                if at == len(text):
                    yield Derivation(text, _choices(trail))
                elif note:
                    note(Miss(at, None, None, None, bindings, trail))

    def _first_mentions(self, mention: Mention, at: int, bindings: Bindings) -> list[tuple[Bindings, Choice]]:
        name = mention.variable
        free = self.free_rows(name, bindings)
        return [({**bindings, name: row}, Choice(f"{{{name}}}", self.word(name, row), len(free), at)) for row in free]

    # Reading the data.

    def _parts(self, rule: str, source: str) -> tuple[Part, ...]:
        parts: list[Part] = []
        end = 0
        for hole in _HOLE.finditer(source):
            if hole.start() > end:
                parts.append(source[end : hole.start()])
            end = hole.end()
            called, variable, form = hole.groups()
            parts.append(Call(called) if called else self._mention(rule, variable, form))
        if end < len(source):
            parts.append(source[end:])
        return tuple(parts)

    def _mention(self, rule: str, variable: str, form: str | None) -> Mention:
        if variable not in self.variables:
            raise ValueError(f"<{rule}> mentions {{{variable}}}, which is no variable")
        table = self._tables[self.variables[variable]]
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


def sentences(text: str) -> list[str]:
    """Split a text into its sentences; `"Look!" said Mia.` is one.

    >>> sentences('It rained. "More, please!" said Mia.')
    ['It rained.', '"More, please!" said Mia.']
    """
    return _BETWEEN_SENTENCES.split(text) if text else []


def _before(parts: Sequence[Part], rest: Rest) -> Rest:
    for part in reversed(parts):
        rest = (part, rest)
    return rest


def _choices(trail: Trail) -> tuple[Choice, ...]:
    backwards = []
    while trail is not None:
        choice, trail = trail
        backwards.append(choice)
    return tuple(reversed(backwards))


def _miss(
    text: str, at: int, wanted: str, variable: str | None, rest: Rest, bindings: Bindings, trail: Trail
) -> Miss:
    """A miss at the start of the first word of `wanted` that the text does not have."""
    same = 0
    while same < len(wanted) and text.startswith(wanted[same], at + same):
        same += 1
    start = wanted.rfind(" ", 0, same) + 1
    return Miss(at + start, wanted[start:], variable, rest, bindings, trail)


def _read_table(name: str, table: str) -> tuple[dict[str, str], ...]:
    split = re.compile(r" {2,}" if re.search(r"\S {2,}\S", table) else r"\t")
    lines = [split.split(line.strip()) for line in table.strip().splitlines()]
    columns, rows = lines[0], lines[1:]
    if not rows:
        raise ValueError(f"table {name} has no rows")
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"table {name}: {row} does not fit its columns {columns}")
    return tuple(dict(zip(columns, row, strict=True)) for row in rows)
