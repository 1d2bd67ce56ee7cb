"""From a row to what is scored: its context, and of each ending the tokens and the length that it is divided by."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pealm_core import Tokenizer, start_token
from pealm_hellaswag.rows import Row


@dataclass(frozen=True)
class Item:
    """A row in tokens. endings: four; lengths: theirs, in the unit that the style normalises by."""

    context: Sequence[int]
    endings: tuple[Sequence[int], ...]
    lengths: tuple[int, ...]


def encode(row: Row, style: str, tokenizer: Tokenizer) -> Item:
    """The row in a style. Raises ValueError for what the tokenizer can't express."""
    item = _harness(row, tokenizer) if style == "harness" else _completion(row, tokenizer)
    for place, ids in enumerate(item.endings):
        if not len(ids):
            raise ValueError(f"ending {place} has no token: {row.endings[place]!r:.60}")
    return item


def _completion(row: Row, tokenizer: Tokenizer) -> Item:
    """The raw context; a space and the ending, encoded alone; divided by tokens (Karpathy's build-nanogpt)."""
    endings = tuple(_ids(tokenizer, " " + ending) for ending in row.endings)
    return Item(_ids(tokenizer, row.ctx) or [start_token(tokenizer)], endings, tuple(map(len, endings)))


def _harness(row: Row, tokenizer: Tokenizer) -> Item:
    """As lm-evaluation-harness has it: cleaned texts, encoded together, divided by the ending's characters."""
    query = clean(f"{row.activity_label}: {row.ctx_a} {row.ctx_b.capitalize()}")
    context = _ids(tokenizer, query.rstrip())  # spaces at the end belong to the ending's first token
    choices = [clean(ending) for ending in row.endings]
    endings = tuple(_ids(tokenizer, f"{query} {choice}")[len(context) :] for choice in choices)
    return Item(context or [start_token(tokenizer)], endings, tuple(map(len, choices)))


def clean(text: str) -> str:
    """WikiHow's markers taken out as the harness does it.

    >>> clean("How to bake [title] Mix. [step] Take  flour.")
    'How to bake. Mix. Take flour.'
    """
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return [int(token) for token in tokenizer.encode(text)]
