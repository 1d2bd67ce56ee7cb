"""What a grammar's rules and its stories consist of."""

import math
import re
from dataclasses import dataclass

END = "\n"  # the end mark; certain after a whole story, so it costs no nats, but it counts as a character

_ASSIGNMENT = re.compile(r"\{[^{}]*=[^{}]*\}")
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


@dataclass(frozen=True, slots=True)
class Term:
    """Part of a sum: a variable or register, and the number that it adds, by row of its table."""

    name: str
    worth: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Assign:
    """A place without text that sets registers, all at once, to sums of terms."""

    sums: tuple[tuple[str, tuple[Term, ...]], ...]


Part = str | Mention | Call | Assign


@dataclass(frozen=True, slots=True)
class Alternative:
    """One way to write a rule: its source, and the same taken apart."""

    source: str
    parts: tuple[Part, ...]

    @property
    def is_sentence(self) -> bool:
        return bool(_SENTENCE_END.search(_ASSIGNMENT.sub("", self.source)))


@dataclass(frozen=True, slots=True)
class Choice:
    """One step of a derivation: `<rule>` or `{variable}`, what was picked, among how many, and where in the text.

    A register that is set is a choice among one.
    """

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


def sentences(text: str) -> list[str]:
    """Split a text into its sentences; `"Look!" said Mia.` is one.

    >>> sentences('It rained. "More, please!" said Mia.')
    ['It rained.', '"More, please!" said Mia.']
    """
    return _BETWEEN_SENTENCES.split(text) if text else []


def read_table(name: str, table: str) -> tuple[dict[str, str], ...]:
    """Return the rows of a table, each with its words by column."""
    split = re.compile(r" {2,}" if re.search(r"\S {2,}\S", table) else r"\t")
    lines = [split.split(line.strip()) for line in table.strip().splitlines()]
    columns, rows = lines[0], lines[1:]
    if not rows:
        raise ValueError(f"table {name} has no rows")
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"table {name}: {row} does not fit its columns {columns}")
    return tuple(dict(zip(columns, row, strict=True)) for row in rows)
