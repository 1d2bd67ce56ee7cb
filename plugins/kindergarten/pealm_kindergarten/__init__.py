"""Little stories from an unambiguous grammar, whose exact probabilities and entropy are known."""

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
