"""Little stories from an unambiguous grammar, whose exact probabilities and entropy are known.

The names below arrive on first use, so that pealm finds the plugin without loading the grammar.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .corpus import (
        KINDERGARTEN,
        SECOND_GRADE,
        Grade,
        check_sentences,
        derivations,
        diversity,
        entropy,
        entropy_floor,
        explain,
        generate,
        log_prob,
        max_length,
        mean_length,
        parse,
        problem,
        split,
        stories,
        story,
    )
    from .diagnosis import Problem
    from .grammar import Grammar
    from .measure import Exact
    from .parts import END, Choice, Derivation
    from .variety import Diversity

_HOME = {
    "Choice": "parts",
    "Derivation": "parts",
    "Diversity": "variety",
    "END": "parts",
    "Exact": "measure",
    "Grade": "corpus",
    "Grammar": "grammar",
    "KINDERGARTEN": "corpus",
    "Problem": "diagnosis",
    "SECOND_GRADE": "corpus",
    "check_sentences": "corpus",
    "derivations": "corpus",
    "diversity": "corpus",
    "entropy": "corpus",
    "entropy_floor": "corpus",
    "explain": "corpus",
    "generate": "corpus",
    "log_prob": "corpus",
    "max_length": "corpus",
    "mean_length": "corpus",
    "parse": "corpus",
    "problem": "corpus",
    "split": "corpus",
    "stories": "corpus",
    "story": "corpus",
}

__all__ = [
    "END",
    "KINDERGARTEN",
    "SECOND_GRADE",
    "Choice",
    "Derivation",
    "Diversity",
    "Exact",
    "Grade",
    "Grammar",
    "Problem",
    "check_sentences",
    "derivations",
    "diversity",
    "entropy",
    "entropy_floor",
    "explain",
    "generate",
    "log_prob",
    "max_length",
    "mean_length",
    "parse",
    "problem",
    "split",
    "stories",
    "story",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pealm_kindergarten' has no attribute {name!r}")
    return getattr(import_module(f"pealm_kindergarten.{_HOME[name]}"), name)
