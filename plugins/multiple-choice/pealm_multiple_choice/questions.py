"""Questions in a file: a JSON object on each line, all of them checked before any is used."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pealm_core import UserError
from pealm_evals.choices import read_lines


@dataclass(frozen=True)
class Asked:
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


def read_questions(path: Path) -> list[Asked]:
    """Return a file's questions. Raises UserError with a line for each bad one."""
    questions = read_lines(path, _question)
    if not questions:
        raise UserError(f"{path} has no questions")
    return questions


def _question(number: int, values: Mapping[str, Any]) -> Asked:
    if missing := [name for name in ("question", "choices", "answer") if name not in values]:
        raise ValueError(f"has no {' and no '.join(map(repr, missing))}")
    choices, answer = values["choices"], values["answer"]
    if not isinstance(values["question"], str):
        raise ValueError(f"'question' must be text, not {values['question']!r:.60}")
    texts = isinstance(choices, list) and all(isinstance(choice, str) and choice.strip() for choice in choices)
    if not texts or len(choices) < 2:
        raise ValueError(f"'choices' must be a list of two or more texts, not {choices!r:.60}")
    if isinstance(answer, str) and choices.count(answer) == 1:
        answer = choices.index(answer)
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise ValueError(f"'answer' must be one of the choices or 0 to {len(choices) - 1}, not {answer!r:.60}")
    return Asked(number, values, tuple(choices), answer)
