"""`--on multiple-choice` against log-likelihoods worked out by hand from a table over bytes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pealm_char_transformer.config import TransformerConfig
from pealm_core import EvalResult, UserError
from pealm_evals.choices import encode
from pealm_multiple_choice.config import MultipleChoiceConfig
from pealm_multiple_choice.evaluator import MultipleChoice
from pealm_testing import Bytes

QUESTIONS = [
    {"question": "Which is a fruit?", "choices": ["pebble", "apple", "shoe"], "answer": 1},
    {"question": "Two and two?", "choices": ["four", "é"], "answer": "four", "hint": "count"},
    {"question": "A bird?", "choices": ["cow", "hen", "pig", "the robin"], "answer": 3},
    {"question": "A colour?", "choices": ["red", "seven"], "answer": 0},
]


class Bigram(nn.Module):
    """A table over bytes; of zeros, every choice of a length is equally likely."""

    def __init__(self, *, zeros: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.config = TransformerConfig(vocab_size=256, block_size=256)
        self.table = nn.Parameter(torch.zeros(256, 256) if zeros else torch.randn(256, 256))

    def forward(self, idx: torch.Tensor, targets: Any = None, *, cache: Any = None, at: Any = None) -> Any:
        return self.table[idx if at is None else idx[:, at]], None


def log_prob(model: Bigram, context: str, text: str) -> float:
    data = (context + text).encode()
    table = model.table.log_softmax(-1).detach()
    start = len(context.encode())
    return sum(float(table[data[i - 1], data[i]]) for i in range(start, len(data)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    return path


class Recorder(Bytes):
    """Keeps the texts that it encodes; it can't encode those with "bird"."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def encode(self, text: str) -> Any:
        self.texts.append(text)
        if text.startswith("A bird"):
            raise ValueError("no token for 'bird'")
        return super().encode(text)


def evaluate(model: Any, tokenizer: Any = None, **settings: Any) -> EvalResult:
    evaluation = MultipleChoice(MultipleChoiceConfig(**settings))
    return evaluation.evaluate(model, tokenizer or Bytes(), config={}, progress=lambda *_: None)


@pytest.mark.parametrize("normalize", ["characters", "bytes", "tokens", "unconditional"])
def test_accuracy_is_that_of_the_log_likelihoods(file: Path, normalize: Any) -> None:
    model, right, right_norm, all_norms = Bigram(), [], [], []
    separator = "" if normalize == "unconditional" else " "  # the table sees one byte back: the first of a choice
    for question in QUESTIONS:
        choices = [f"{separator}{choice}" for choice in question["choices"]]
        sums = [log_prob(model, f"{question['question']}\nAnswer:", choice) for choice in choices]
        norms = {
            "characters": [a / len(c) for a, c in zip(sums, question["choices"], strict=True)],
            "bytes": [a / len(c.encode()) for a, c in zip(sums, question["choices"], strict=True)],
            "tokens": [a / len(c.encode()) for a, c in zip(sums, choices, strict=True)],
            "unconditional": [a - log_prob(model, "So", c) for a, c in zip(sums, choices, strict=True)],
        }[normalize]
        answer = question["answer"]
        label = answer if isinstance(answer, int) else question["choices"].index(answer)
        right.append(float(sums.index(max(sums)) == label))
        right_norm.append(float(norms.index(max(norms)) == label))
        all_norms.append(norms)
    assert 0 < sum(right) < 4
    result = evaluate(model, file=file, normalize=normalize, separator=separator, unconditional="So", details=True)
    assert result.n == 4 and [row["acc"] for row in result.details] == right
    for row in result.details:
        for values, choice in (("log_likelihood", "choice"), ("normalized", "choice_norm")):
            assert row[values][row[choice]] == max(row[values])
    assert [row["normalized"] for row in result.details] == [pytest.approx(norms, abs=1e-5) for norms in all_norms]
    assert [result.metrics[name][0] for name in ("acc", "acc_norm")] == [sum(right) / 4, sum(right_norm) / 4]


def test_a_model_that_knows_nothing_scores_chance(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    rows = [{"question": "?", "choices": ["aa", "bb", "cc", "dd"], "answer": n % 2} for n in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = evaluate(Bigram(zeros=True), file=path)
    assert result.metrics["acc"] == result.metrics["acc_norm"] == (0.25, 0.0)
    assert "chance is 0.2500" in result.notes[0] and "in 6 of 6 questions several" in result.notes[1]


def test_solved_questions_come_first(file: Path) -> None:
    model, tokenizer = Bigram(), Recorder()
    result = evaluate(model, tokenizer, file=file, shots=2, separator=" = ", template="{question}", details=True)
    assert [row["line"] for row in result.details] == [3, 4]
    prompt = "Which is a fruit? = apple\n\nTwo and two? = four\n\nA bird?"
    assert tokenizer.texts[:2] == [prompt, f"{prompt} = cow"]
    assert result.details[0]["log_likelihood"] == pytest.approx(
        [log_prob(model, prompt, f" = {choice}") for choice in QUESTIONS[2]["choices"]], abs=1e-4
    )
    with pytest.raises(UserError, match=r"--eval.shots 4: .*questions.jsonl has only 4 questions"):
        evaluate(model, file=file, shots=4)
    assert evaluate(model, file=file, shots=4, shots_file=file, limit=2).n == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: "),
        ("[1]", "line 1: is not a JSON object"),
        ('{"question": "x"}', "line 1: has no 'choices' and no 'answer'"),
        ('{"question": 3, "choices": ["a", "b"], "answer": 0}', "'question' must be text, not 3"),
        ('{"question": "x", "choices": ["a"], "answer": 0}', "'choices' must be a list of two or more texts"),
        ('{"question": "x", "choices": ["a", ""], "answer": 0}', "'choices' must be a list of two or more texts"),
        ('{"question": "x", "choices": ["a", "b"], "answer": 2}', "'answer' must be one of the choices or 0 to 1"),
        ('{"question": "x", "choices": ["a", "b"], "answer": true}', "'answer' must be one of the choices"),
        ('{"question": "x", "choices": ["a", "a"], "answer": "a"}', "'answer' must be one of the choices"),
        ("", "has no questions"),
    ],
)
def test_bad_questions(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(line)
    with pytest.raises(UserError, match=f"q.jsonl.*{message}"):
        evaluate(Bigram(), file=path)


def test_files_and_texts_that_can_not_be_used(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a regular file"):
        evaluate(Bigram(), file=tmp_path)
    with pytest.raises(UserError, match=r"none.jsonl: can't be read: No such file"):
        evaluate(Bigram(), file=tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="choice 1 has no token: ''"):
        encode(Bytes(), "a", "", ["b", ""])
    assert encode(Bytes(), "", "", ["b"]) == ([256], [[98]])  # after end-of-text


def test_a_template_needs_the_fields_of_every_question(file: Path) -> None:
    with pytest.raises(UserError, match=r"line 1: the template '{hint}' needs 'hint'"):
        evaluate(Bigram(), file=file, template="{hint}")
    with pytest.raises(UserError, match=r"questions.jsonl, line 3: no token for 'bird'"):
        evaluate(Bigram(), Recorder(), file=file)
    with pytest.raises(UserError, match=r"multiple-choice needs a file of questions"):
        evaluate(Bigram())


def test_from_the_command_line(pealm: Callable[..., Any], file: Path, book: Path, tmp_path: Path) -> None:
    text = "".join(json.dumps(question, ensure_ascii=False) for question in QUESTIONS)
    book.write_text(f"{book.read_text()}\nAnswer: {text}" * 9)
    assert pealm("train", "char-bigram", "--input.text", book, "--steps", 5, "--out", tmp_path / "r").code == 0
    result = pealm("eval", "--ckpt", tmp_path / "r", "--on", "multiple-choice", "--eval.file", file)
    assert result.code == 0, result.err
    lines = [line.split() for line in result.out.splitlines()]
    assert [line[0] for line in lines[1:3]] == ["acc", "acc_norm"]
    assert 0 <= float(lines[1][1]) <= 1
