"""How varied a list of stories is, to set a model's beside the grammar's own of the same number."""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from .grammar import Grammar


@dataclass(frozen=True, slots=True)
class Diversity:
    """Figures of a sample; each depends on the sample's size, so compare samples of one size only.

    `distinct` is the fraction of distinct stories, `distinct_3` of distinct triples of words among all triples,
    `plots` and `skeletons` are the entropies in nats of the accepted stories' plots and of their rules' alternatives
    without the words put in (0.0 where no story is accepted).
    """

    n: int
    accepted: int
    distinct: float
    distinct_3: float
    plots: float
    skeletons: float


def diversity(grammar: Grammar, stories: Sequence[str]) -> Diversity:
    """Measure a list of at least one story."""
    if not stories:
        raise ValueError("diversity needs at least one story")
    accepted = [derivation for text in stories if (derivation := grammar.parse(text)) is not None]
    triples = [triple for text in stories for triple in _triples(text.split())]
    return Diversity(
        n=len(stories),
        accepted=len(accepted),
        distinct=len(set(stories)) / len(stories),
        distinct_3=len(set(triples)) / max(1, len(triples)),
        plots=_entropy(derivation.plot for derivation in accepted),
        skeletons=_entropy(derivation.skeleton for derivation in accepted),
    )


def _triples(words: Sequence[str]) -> list[tuple[str, str, str]]:
    return list(zip(words, words[1:], words[2:], strict=False))


def _entropy(things: Iterable[Hashable]) -> float:
    counts = Counter(things).values()
    total = sum(counts)
    return sum(count / total * math.log(total / count) for count in counts)
