"""Why a story is accepted, readably, or where it stops making sense and what could have followed."""

import re
from dataclasses import dataclass

from .grammar import Grammar
from .parts import Assign, Call, sentences
from .search import Miss, misses

THE_END = "the end of the story"
ANOTHER = "another sentence"

_WORD = re.compile(r"\"?[A-Za-z']+|[^\sA-Za-z]+")
_SHOWN = 8  # expectations named before the rest is only counted


@dataclass(frozen=True, slots=True)
class Problem:
    """The first word that no story of the grammar has there, after everything before it.

    `at` is its position in the text, `sentence` counts from 1; `expected` are the words that could have
    followed, `because` says which variables ask for them, and `example` is a sentence that would have done.
    """

    at: int
    sentence: int
    read: str
    expected: tuple[str, ...]
    because: tuple[str, ...]
    example: str


def problem(grammar: Grammar, story: str) -> Problem | None:
    """Where the story stops making sense, or None where it makes sense to its end."""
    if grammar.parse(story) is not None:
        return None
    failed = misses(grammar, story)
    at = failed[0].at
    start = at
    while start and story[start - 1 : start + 1].isalpha() and at < len(story):
        start -= 1  # the story goes on in the middle of a word: read the whole word
    first = failed[0]
    expected = tuple(dict.fromkeys(_expected(story[start:at], miss) for miss in failed))
    if first.wanted is None:
        number, example = len(sentences(story[:at])) + 1, THE_END
    else:  # a whole story shows the sentences as they ought to be
        whole = story[:at] + first.wanted + _finish(grammar, first)
        number = _sentence_at(whole, start + (expected[0] == ANOTHER))
        example = sentences(whole)[number - 1]
    because = tuple(dict.fromkeys(filter(None, (_because(story, miss) for miss in failed))))
    return Problem(start, number, _first_word(story[start:]), expected, because, example)


def explain(grammar: Grammar, story: str) -> str:
    """The story's derivation, choice by choice, or its problem."""
    found = grammar.parse(story)
    if found is None:
        return _tell_problem(grammar, story)
    width = max(len(choice.name) for choice in found.choices)
    lines = [
        f"{choice.name:<{width}}  {choice.picked}  (1 of {choice.among})"
        for choice in found.choices
        if choice.among > 1
    ]
    nats, chars = -found.log_prob, len(story) + 1
    lines += ["", f"One derivation: {nats:.2f} nats, {chars} characters with the end mark."]
    return "\n".join(lines)


def _tell_problem(grammar: Grammar, story: str) -> str:
    found = problem(grammar, story)
    assert found is not None
    named = [word if word in (THE_END, ANOTHER) else f"'{word}'" for word in found.expected]
    expected = ", ".join(named[:_SHOWN])
    if len(named) > _SHOWN:
        expected += f" or {len(named) - _SHOWN} more"
    read = f"'{found.read}'" if found.read else THE_END
    from_here = story[found.at :]
    shown = story[max(0, found.at - 40) : found.at]
    lines = [
        f"It stops making sense in sentence {found.sentence}, at character {found.at}:",
        f"  {shown}{from_here[:30]}",
        f"  {' ' * len(shown)}{'^' * max(1, len(found.read))}",
        f"read {read}; expected {expected}",
    ]
    lines += [f"because {reason}" for reason in found.because]
    if found.example != THE_END:
        lines.append(f"for example: {found.example}")
    told = sentences(story)
    if found.sentence <= len(told):
        sentence = told[found.sentence - 1]
        known = grammar.accepts_sentence(sentence)
        lines.append(
            "by itself the sentence is fine; it does not fit what came before"
            if known
            else "no story has this sentence"
        )
    return "\n".join(lines)


def _sentence_at(text: str, at: int) -> int:
    """The number, from 1, of the sentence that holds this position."""
    number, end = 0, 0
    for sentence in sentences(text):
        number += 1
        end += len(sentence) + 1
        if at < end:
            break
    return number


def _first_word(text: str) -> str:
    found = _WORD.match(text.lstrip())
    return found.group() if found else ""


def _expected(begun: str, miss: Miss) -> str:
    if miss.wanted is None:
        return THE_END
    if not miss.wanted.strip():
        return ANOTHER
    if begun:  # the grammar's word ends here, or goes on with other letters
        letters = re.match(r"[A-Za-z]*", miss.wanted)
        return begun + (letters.group() if letters else "")
    return _first_word(miss.wanted)


def _because(story: str, miss: Miss) -> str:
    """The reason why a bound variable could not be said in another way."""
    trail = miss.trail
    while trail is not None:
        choice, trail = trail
        if choice.name == f"{{{miss.variable}}}":
            sentence = sentences(story)[_sentence_at(story, choice.at) - 1]
            return f"the {choice.name[1:-1].replace('_', ' ')} is {choice.picked}: {sentence}"
    return ""


def _finish(grammar: Grammar, miss: Miss) -> str:
    """The rest of the story, with the first option wherever there is a choice."""
    text, rest, bindings = [], miss.rest, dict(miss.bindings)
    while rest is not None:
        part, rest = rest
        if isinstance(part, Call):
            for piece in reversed(grammar.rules[part.rule][0].parts):
                rest = (piece, rest)
        elif isinstance(part, str):
            text.append(part)
        elif isinstance(part, Assign):
            bindings = grammar.assign(part, bindings) or bindings
        else:
            if part.variable not in bindings:
                bindings[part.variable] = grammar.free_rows(part.variable, bindings)[0]
            text.append(part.says[bindings[part.variable]])
    return "".join(text)
