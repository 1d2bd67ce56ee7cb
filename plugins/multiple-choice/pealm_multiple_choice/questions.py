"""Questions in a file: a JSON object on each line, all of them checked before any is used."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pealm_core import UserError

SHOWN = 10  # mistakes listed at most


@dataclass(frozen=True)
class Question:
    """line: its number in the file. fields: what a template may use. label: the index of the right choice."""

    line: int
    fields: Mapping[str, Any]
    choices: tuple[str, ...]
    label: int

    def prompt(self, template: str) -> str:
        """Return the prompt. Raises ValueError for a field that the question doesn't have."""
        try:
            return template.format_map(self.fields)
        except (KeyError, IndexError, AttributeError) as error:
            raise ValueError(f"the template {template!r} needs {error}, which the question does not have") from None


def read_questions(path: Path) -> list[Question]:
    """Return a file's questions. Raises UserError with a line for each bad one."""
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: is not a regular file")
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}") from error
    questions, mistakes = [], list[str]()
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                questions.append(_question(number, json.loads(line)))
            except (ValueError, RecursionError) as error:  # also broken JSON and text that isn't UTF-8
                mistakes.append(f"{path}, line {number:,}: {error}")
    if mistakes:
        more = [f"and {len(mistakes) - SHOWN:,} more"] if len(mistakes) > SHOWN else []
        raise UserError("\n".join(mistakes[:SHOWN] + more))
    if not questions:
        raise UserError(f"{path} has no questions")
    return questions


def _question(number: int, values: Any) -> Question:
    if not isinstance(values, dict):
        raise ValueError("is not a JSON object")
    if missing := [name for name in ("question", "choices", "answer") if name not in values]:
        raise ValueError(f"has no {' and no '.join(map(repr, missing))}")
    choices, answer = values["choices"], values["answer"]
    if not isinstance(values["question"], str):
        raise ValueError(f"'question' must be text, not {values['question']!r:.60}")
    if (
        not isinstance(choices, list)
        or len(choices) < 2
        or not all(isinstance(c, str) and c.strip() for c in choices)
    ):
        raise ValueError(f"'choices' must be a list of two or more texts, not {choices!r:.60}")
    if isinstance(answer, str) and choices.count(answer) == 1:
        answer = choices.index(answer)
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise ValueError(f"'answer' must be one of the choices or 0 to {len(choices) - 1}, not {answer!r:.60}")
    return Question(number, values, tuple(choices), answer)
