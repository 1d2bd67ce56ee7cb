"""Multiple choice: which of several continuations of a context does a model find likeliest?"""

from collections.abc import Callable, Sequence
from typing import Any

from pealm_core.inference.scoring import Score, score
from pealm_core.inference.statistics import mean

Question = tuple[Sequence[int], Sequence[Sequence[int]]]


def score_choices(
    model: Any,
    questions: Sequence[Question],
    judge: Callable[[int, Sequence[Score]], float],
    progress: Callable[[int, int, str], None],
) -> list[list[Score]]:
    """Score every choice of each (context, choices), all token ids, as `score` does; the scores by question.

    judge: called with a question's index and its scores as soon as this rank has them; returns the credit, 0 to 1.
    progress: called with (done, total, "accuracy 0.2950 ± 0.0051"), in questions.
    """
    place = [(number, choice) for number, (_, choices) in enumerate(questions) for choice in range(len(choices))]
    known: dict[int, dict[int, Score]] = {}
    credits: list[float] = []

    def add(request: int, result: Score) -> None:
        number, choice = place[request]
        scores = known.setdefault(number, {})
        scores[choice] = result
        if len(scores) == len(questions[number][1]):
            credits.append(judge(number, [scores[choice] for choice in sorted(scores)]))
            del known[number]

    def show(done: int, total: int) -> None:
        value, error = mean(credits)
        text = f"accuracy {value:.4f} ± {error:.4f}" if len(credits) > 1 else ""
        progress(len(questions) * done // total, len(questions), text)

    requests = [(context, choice) for context, choices in questions for choice in choices]
    scores = iter(score(model, requests, each=add, progress=show))
    return [[next(scores) for _ in choices] for _, choices in questions]


def credit(values: Sequence[float], label: int) -> float:
    """Return 1 if the value at `label` is the largest, 1/n if n share the largest value, else 0.

    So a model that finds everything equally likely scores chance.

    >>> credit([1.0, 3.0, 3.0], 1), credit([1.0, 2.0], 0)
    (0.5, 0.0)
    """
    best = max(values)
    return 1 / sum(value == best for value in values) if values[label] == best else 0.0
