"""From a row to a question in tokens, in one of two styles."""

import re

from pealm_core import Tokenizer
from pealm_evals.choices import Question, checked, ids
from pealm_evals.choices import encode as encode_together
from pealm_hellaswag.rows import Row


def encode(row: Row, style: str, tokenizer: Tokenizer) -> Question:
    """Return the row as a question. Raises ValueError for what the tokenizer can't express."""
    if style == "harness":  # cleaned texts, encoded together, divided by the ending's characters
        query = clean(f"{row.activity_label}: {row.ctx_a} {row.ctx_b.capitalize()}")
        texts = [clean(ending) for ending in row.endings]
        context, endings = encode_together(tokenizer, query, " ", texts)
        return Question(row.line, row.label, context, endings, [*map(len, texts)])
    # The raw context; a space and the ending, encoded alone; divided by tokens (Karpathy's build-nanogpt).
    own = [ids(tokenizer, " " + ending) for ending in row.endings]
    context, endings = checked(ids(tokenizer, row.ctx), own, row.endings, tokenizer)
    return Question(row.line, row.label, context, endings, [*map(len, endings)])


def clean(text: str) -> str:
    """Return a text without WikiHow's markers, as the harness cleans it.

    >>> clean("How to bake [title] Mix. [step] Take  flour.")
    'How to bake. Mix. Take flour.'
    """
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")
