"""The evaluation: score the choices of each question, choose the likeliest, count."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pealm_core import EvalResult, Tokenizer, UserError, score
from pealm_evals.choices import Question, encode, evaluate
from pealm_multiple_choice.config import MultipleChoiceConfig
from pealm_multiple_choice.questions import Asked, read_questions


class MultipleChoice:
    """Accuracy by log-likelihood (`acc`) and by normalized log-likelihood (`acc_norm`)."""

    def __init__(self, config: MultipleChoiceConfig) -> None:
        self.config = config

    def evaluate(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        config: Mapping[str, Any],
        progress: Callable[[int, int, str], None],
    ) -> EvalResult:
        """Score a model on the questions. Raises UserError for a bad question."""
        shots, asked = self._questions()
        before = "".join(f"{self._prompt(q)}{self.config.separator}{q.choices[q.label]}\n\n" for q in shots)
        questions = [self._encode(question, before, tokenizer) for question in asked]
        if self.config.normalize == "unconditional":
            questions = self._with_base(model, asked, questions, tokenizer)
        result = evaluate(model, questions, progress, details=self.config.details)
        chance = sum(1 / len(question.choices) for question in asked) / len(asked)
        note = f"chance is {chance:.4f}; acc_norm by {self.config.normalize}"
        return replace(result, notes=[note, *result.notes])

    def _questions(self) -> tuple[list[Asked], list[Asked]]:
        """Return the solved questions of a prompt and those to evaluate. Raises UserError."""
        if self.config.file is None:
            raise UserError("multiple-choice needs a file of questions: --eval.file QUESTIONS.jsonl")
        questions, count = read_questions(self.config.file), self.config.shots
        others = questions if self.config.shots_file is None else read_questions(self.config.shots_file)
        rest = questions[count:] if self.config.shots_file is None else questions
        if len(others) < count or not rest:
            where = self.config.shots_file or self.config.file
            raise UserError(f"--eval.shots {count}: {where} has only {len(others):,} questions")
        return others[:count], rest[: self.config.limit]

    def _prompt(self, question: Asked) -> str:
        try:
            return question.prompt(self.config.template)
        except ValueError as error:
            raise UserError(f"{self.config.file}, line {question.line:,}: {error}") from error

    def _encode(self, asked: Asked, before: str, tokenizer: Tokenizer) -> Question:
        prompt = before + self._prompt(asked)
        try:
            context, choices = encode(tokenizer, prompt, self.config.separator, asked.choices)
        except ValueError as error:
            raise UserError(f"{self.config.file}, line {asked.line:,}: {error}") from error
        lengths = {
            "characters": [len(choice) for choice in asked.choices],
            "bytes": [len(choice.encode()) for choice in asked.choices],
            "tokens": [len(ids) for ids in choices],
            "unconditional": [1 for _ in choices],
        }
        return Question(asked.line, asked.label, context, choices, lengths[self.config.normalize])

    def _with_base(
        self, model: Any, asked: Sequence[Asked], questions: Sequence[Question], tokenizer: Tokenizer
    ) -> list[Question]:
        """Return the questions with the log-likelihood of each choice after the unconditional prompt."""
        distinct = list(dict.fromkeys(choice for question in asked for choice in question.choices))
        context, ids = encode(tokenizer, self.config.unconditional, self.config.separator, distinct)
        scores = score(model, [(context, choice) for choice in ids])
        known = {choice: result.log_prob for choice, result in zip(distinct, scores, strict=True)}
        pairs = zip(questions, asked, strict=True)
        return [replace(question, base=[known[choice] for choice in own.choices]) for question, own in pairs]
