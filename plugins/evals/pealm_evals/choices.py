"""Multiple choice, for evaluators: questions from a file, their tokens, and which choice a model finds likeliest."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pealm_core import EvalResult, Score, Tokenizer, UserError, mean, score, start_token

T = TypeVar("T")
SHOWN = 10  # mistakes listed at most


@dataclass(frozen=True)
class Question:
    """A question in tokens. line: its number in the file. label: the index of the right choice.

    A choice's normalized log-likelihood is its log-likelihood less its `base`, over its `length`.
    """

    line: int
    label: int
    context: Sequence[int]
    choices: Sequence[Sequence[int]]
    lengths: Sequence[int]
    base: Sequence[float] = ()

    def normalized(self, scores: Sequence[float]) -> list[float]:
        """Return the normalized log-likelihood of each choice; a choice without a length is never the best one."""
        rows = zip(scores, self.base or [0.0] * len(scores), self.lengths, strict=True)
        return [(value - base) / length if length else -math.inf for value, base, length in rows]


def evaluate(
    model: Any, questions: Sequence[Question], progress: Callable[[int, int, str], None], *, details: bool
) -> EvalResult:
    """Return the accuracy by log-likelihood (`acc`) and by normalized log-likelihood (`acc_norm`).

    progress: called with (done, total, "accuracy 0.2950 ± 0.0051"), by normalized log-likelihood.
    """
    requests = [(question.context, choice) for question in questions for choice in question.choices]
    owners = [number for number, question in enumerate(questions) for _ in question.choices]
    known: dict[int, dict[int, float]] = {}  # by question: its requests' scores, until it has all
    credits: list[float] = []

    def add(request: int, result: Score) -> None:
        question, scores = questions[owners[request]], known.setdefault(owners[request], {})
        scores[request] = result.log_prob
        if len(scores) == len(question.choices):
            credits.append(credit(question.normalized([scores[key] for key in sorted(scores)]), question.label))
            del known[owners[request]]

    def show(done: int, total: int) -> None:
        value, error = mean(credits)
        text = f"accuracy {value:.4f} ± {error:.4f}" if len(credits) > 1 else ""
        progress(len(questions) * done // total, len(questions), text)

    results = iter(score(model, requests, each=add, progress=show))
    scored = [[next(results) for _ in question.choices] for question in questions]
    rows = [
        _row(question, [result.log_prob for result in own]) for question, own in zip(questions, scored, strict=True)
    ]
    notes, n = [], len(questions)
    if ties := sum(row["ties"] for row in rows):
        notes.append(f"in {ties:,} of {n:,} questions several choices are equally likely and share the credit")
    if cut := sum(any(result.cut for result in own) for own in scored):
        notes.append(f"{cut:,} of {n:,} questions are longer than the model's context and lose their beginning")
    return EvalResult(
        metrics={name: mean([row[name] for row in rows]) for name in ("acc", "acc_norm")},
        n=n,
        notes=notes,
        details=[{key: value for key, value in row.items() if key != "ties"} for row in rows] if details else (),
    )


def _row(question: Question, scores: list[float]) -> dict[str, Any]:
    """Return the details of a question."""
    norms = question.normalized(scores)
    return {
        "line": question.line,
        "label": question.label,
        "log_likelihood": scores,
        "normalized": norms,
        "choice": scores.index(max(scores)),
        "choice_norm": norms.index(max(norms)),
        "acc": credit(scores, question.label),
        "acc_norm": credit(norms, question.label),
        "ties": norms.count(max(norms)) > 1,
    }


def credit(values: Sequence[float], label: int) -> float:
    """Return 1 if the value at `label` is the largest, 1/n if n share the largest value, else 0.

    So a model that finds everything equally likely scores chance.

    >>> credit([1.0, 3.0, 3.0], 1), credit([1.0, 2.0], 0)
    (0.5, 0.0)
    """
    best = max(values)
    return 1 / sum(value == best for value in values) if values[label] == best else 0.0


def encode(
    tokenizer: Tokenizer, prompt: str, separator: str, choices: Sequence[str]
) -> tuple[list[int], list[list[int]]]:
    """Return the ids of a prompt and of each choice, encoded together as lm-evaluation-harness does it.

    Raises ValueError for text that the tokenizer can't express.
    """
    context = ids(tokenizer, prompt.rstrip())  # spaces at the end belong to the first token of a choice
    ends = [ids(tokenizer, f"{prompt}{separator}{choice}")[len(context) :] for choice in choices]
    return checked(context, ends, choices, tokenizer)


def checked(
    context: list[int], ends: list[list[int]], choices: Sequence[str], tokenizer: Tokenizer
) -> tuple[list[int], list[list[int]]]:
    """Return the ids, with a start token in place of an empty context. Raises ValueError for a choice without ids."""
    for place, own in enumerate(ends):
        if not own:
            raise ValueError(f"choice {place} has no token: {choices[place]!r:.60}")
    return context or [start_token(tokenizer)], ends


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the ids of a text."""
    return [int(token) for token in tokenizer.encode(text)]


def read_lines(path: Path, parse: Callable[[int, Mapping[str, Any]], T]) -> list[T]:
    """Return what `parse` makes of each line's number and JSON object; it raises ValueError for a bad one.

    Raises UserError with a line for each bad one.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: is not a regular file")
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}") from error
    rows, mistakes = list[T](), list[str]()
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                rows.append(parse(number, _object(line)))
            except ValueError as error:
                mistakes.append(f"{path}, line {number:,}: {error}")
    if mistakes:
        more = [f"and {len(mistakes) - SHOWN:,} more"] if len(mistakes) > SHOWN else []
        raise UserError("\n".join(mistakes[:SHOWN] + more))
    return rows


def _object(line: bytes) -> Mapping[str, Any]:
    try:
        values = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {line[error.start]:#04x} in column {error.start + 1:,} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"broken JSON: {error.msg} in column {error.colno:,}") from None
    except RecursionError:
        raise ValueError("broken JSON: nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError("is not a JSON object")
    return values
