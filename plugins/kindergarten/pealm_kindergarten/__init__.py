"""Little stories from an unambiguous grammar, whose exact probabilities and entropy are known.

The names below arrive on first use, so that pealm finds the plugin without loading the grammar.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .corpus import (
        check_sentences,
        derivations,
        diversity,
        entropy,
        entropy_floor,
        exact,
        explain,
        generate,
        kindergarten,
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
    from .grammar import END, Choice, Derivation, Grammar
    from .measure import Exact
    from .variety import Diversity

_HOME = {
    "Choice": "grammar",
    "Derivation": "grammar",
    "Diversity": "variety",
    "END": "grammar",
    "Exact": "measure",
    "Grammar": "grammar",
    "Problem": "diagnosis",
    "check_sentences": "corpus",
    "derivations": "corpus",
    "diversity": "corpus",
    "entropy": "corpus",
    "entropy_floor": "corpus",
    "exact": "corpus",
    "explain": "corpus",
    "generate": "corpus",
    "kindergarten": "corpus",
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
    "Choice",
    "Derivation",
    "Diversity",
    "Exact",
    "Grammar",
    "Problem",
    "check_sentences",
    "derivations",
    "diversity",
    "entropy",
    "entropy_floor",
    "exact",
    "explain",
    "generate",
    "kindergarten",
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
