"""Reading: depth first over all ways in which a grammar could have written a text."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from .parts import Alternative, Assign, Call, Choice, Derivation, Part

# A linked list shares its tail: parses have their common beginning in memory once.
Rest = tuple[Part, "Rest"] | None
Trail = tuple[Choice, "Trail"] | None
Bindings = dict[str, int]  # variable or register -> row of its table


@dataclass(frozen=True, slots=True)
class Miss:
    """A place where a parse could not continue: `wanted` had to follow at `at` (None: the story's end)."""

    at: int
    wanted: str | None
    variable: str | None
    rest: Rest
    bindings: Bindings
    trail: Trail


class Source(Protocol):
    """What a search needs of a grammar."""

    @property
    def rules(self) -> Mapping[str, Sequence[Alternative]]: ...

    def free_rows(self, variable: str, bindings: Mapping[str, int]) -> list[int]: ...
    def word(self, variable: str, row: int) -> str: ...
    def assign(self, part: Assign, bindings: Bindings) -> Bindings | None: ...


def before(parts: Sequence[Part], rest: Rest) -> Rest:
    """Put parts in front of a list."""
    for part in reversed(parts):
        rest = (part, rest)
    return rest


def search(
    grammar: Source, text: str, start: Rest, note: Callable[[Miss], None] | None = None
) -> Iterator[Derivation]:
    """Yield every derivation of `text` from `start`; `note` is called with each dead end."""
    agenda: list[tuple[int, Rest, Bindings, Trail]] = [(0, start, {}, None)]
    while agenda:
        at, rest, bindings, trail = agenda.pop()
        while rest is not None:
            part, after = rest
            if isinstance(part, Call):
                options = grammar.rules[part.rule]
                for option in reversed(options):
                    choice = Choice(f"<{part.rule}>", option.source, len(options), at)
                    agenda.append((at, before(option.parts, after), bindings, (choice, trail)))
                break
            if isinstance(part, Assign):
                rest = after
                bound = grammar.assign(part, bindings)
                if bound is not None:  # of a sentence alone, what the terms are may be unknown
                    bindings = bound
                    for choice in settings(grammar, part, bindings, at):
                        trail = (choice, trail)
                continue
            variable = None
            if not isinstance(part, str):
                variable = part.variable
                if variable not in bindings:
                    free = grammar.free_rows(variable, bindings)
                    for row in free:
                        said = part.says[row]
                        if text.startswith(said, at):
                            choice = Choice(f"{{{variable}}}", grammar.word(variable, row), len(free), at)
                            agenda.append((at + len(said), after, {**bindings, variable: row}, (choice, trail)))
                        elif note:
                            note(_miss(text, at, said, None, after, {**bindings, variable: row}, trail))
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


def misses(grammar: Source, story: str) -> list[Miss]:
    """The places furthest into the story at which its parses fail (if it is accepted: after its end)."""
    furthest: list[Miss] = []

    def note(miss: Miss) -> None:
        if furthest and miss.at > furthest[0].at:
            furthest.clear()
        if not furthest or miss.at == furthest[0].at:
            furthest.append(miss)

    for _ in search(grammar, story, (Call("story"), None), note):
        pass
    return furthest


def settings(grammar: Source, part: Assign, bindings: Mapping[str, int], at: int) -> list[Choice]:
    """Return the steps of a derivation that an assignment makes."""
    return [Choice(f"{{{name}}}", grammar.word(name, bindings[name]), 1, at) for name, _ in part.sums]


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
