"""The evaluation: score the choices of each question, choose the likeliest, count."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pealm_core import EvalResult, Score, Tokenizer, UserError, credit, mean, score, score_choices, start_token
from pealm_multiple_choice.config import MultipleChoiceConfig
from pealm_multiple_choice.questions import Question, read_questions

Item = tuple[list[int], list[list[int]]]  # the ids of a context and of its choices


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
        shots, questions = self._questions()
        before = "".join(f"{self._prompt(q)}{self.config.separator}{q.choices[q.label]}\n\n" for q in shots)
        items = [self._encode(question, before, tokenizer) for question in questions]
        lengths = [self._lengths(question, choices) for question, (_, choices) in zip(questions, items, strict=True)]
        chance = self._unconditional(model, questions, tokenizer)

        def normalized(number: int, scores: Sequence[Score]) -> list[float]:
            sums = [result.log_prob for result in scores]
            if chance:
                return [a - b for a, b in zip(sums, chance[number], strict=True)]
            return [a / length for a, length in zip(sums, lengths[number], strict=True)]

        def judge(number: int, scores: Sequence[Score]) -> float:
            return credit(normalized(number, scores), questions[number].label)

        scores = score_choices(model, items, judge, progress)
        sums = [[result.log_prob for result in row] for row in scores]
        norms = [normalized(number, row) for number, row in enumerate(scores)]
        pairs = {"acc": sums, "acc_norm": norms}
        credits = {
            name: [credit(values, question.label) for values, question in zip(table, questions, strict=True)]
            for name, table in pairs.items()
        }
        rows = [dict(zip(credits, row, strict=True)) for row in zip(*credits.values(), strict=True)]
        details = [
            {"line": q.line, "answer": q.label, "choice": own.index(max(own)), "log_likelihood": own, **right}
            for q, own, right in zip(questions, sums, rows, strict=True)
        ]
        return EvalResult(
            metrics={name: mean(values) for name, values in credits.items()},
            n=len(questions),
            notes=list(self._notes(questions, scores, norms)),
            details=details if self.config.details else (),
        )

    def _questions(self) -> tuple[list[Question], list[Question]]:
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

    def _prompt(self, question: Question) -> str:
        try:
            return question.prompt(self.config.template)
        except ValueError as error:
            raise UserError(f"{self.config.file}, line {question.line:,}: {error}") from error

    def _encode(self, question: Question, before: str, tokenizer: Tokenizer) -> Item:
        try:
            return encode(tokenizer, before + self._prompt(question), self.config.separator, question.choices)
        except ValueError as error:
            raise UserError(f"{self.config.file}, line {question.line:,}: {error}") from error

    def _lengths(self, question: Question, choices: Sequence[Sequence[int]]) -> list[int]:
        match self.config.normalize:
            case "bytes":
                return [len(choice.encode()) for choice in question.choices]
            case "tokens":
                return [len(ids) for ids in choices]
        return [len(choice) for choice in question.choices]

    def _unconditional(
        self, model: Any, questions: Sequence[Question], tokenizer: Tokenizer
    ) -> list[list[float]] | None:
        """Return the log-likelihood of each choice after the unconditional prompt, where that is asked for."""
        if self.config.normalize != "unconditional":
            return None
        distinct = list(dict.fromkeys(choice for question in questions for choice in question.choices))
        context, ids = encode(tokenizer, self.config.unconditional, self.config.separator, distinct)
        scores = score(model, [(context, choice) for choice in ids])
        known = {choice: result.log_prob for choice, result in zip(distinct, scores, strict=True)}
        return [[known[choice] for choice in question.choices] for question in questions]

    def _notes(
        self, questions: Sequence[Question], scores: Sequence[Sequence[Score]], norms: Sequence[Sequence[float]]
    ) -> list[str]:
        n = len(questions)
        chance = sum(1 / len(question.choices) for question in questions) / n
        notes = [f"chance is {chance:.4f}; acc_norm by {self.config.normalize}"]
        if ties := sum(row.count(max(row)) > 1 for row in map(list, norms)):
            notes.append(f"in {ties:,} of {n:,} questions several choices are equally likely and share the credit")
        if cut := sum(any(result.cut for result in row) for row in scores):
            notes.append(f"{cut:,} of {n:,} questions were longer than the model's block and lost their left end")
        return notes


def encode(tokenizer: Tokenizer, prompt: str, separator: str, choices: Sequence[str]) -> Item:
    """Return the ids of a prompt and of each choice, encoded together as lm-evaluation-harness does it.

    Raises ValueError for text that the tokenizer can't express.
    """
    context = _ids(tokenizer, prompt.rstrip())  # spaces at the end belong to the first token of a choice
    ids = [_ids(tokenizer, f"{prompt}{separator}{choice}")[len(context) :] for choice in choices]
    if not all(ids):
        raise ValueError(f"choice {ids.index([])} has no token")
    return context or [start_token(tokenizer)], ids


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return [int(token) for token in tokenizer.encode(text)]
