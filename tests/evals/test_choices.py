"""The parts of multiple-choice evaluations that the tests of the evaluations do not reach."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pealm_char_transformer.config import TransformerConfig
from pealm_core import UserError
from pealm_evals.choices import Question, credit, evaluate, read_lines


def test_ties_share_the_credit() -> None:
    assert [credit([1.0, 1.0, 1.0, 1.0], label) for label in range(4)] == [0.25] * 4
    assert [credit([0.0, 2.0, 2.0], label) for label in range(3)] == [0.0, 0.5, 0.5]
    assert credit([float("-inf"), -3.0], 1) == 1.0


def test_a_choice_is_normalized_by_its_base_and_its_length() -> None:
    question = Question(1, 0, [0], [[1], [2], [3]], lengths=[2, 0, 4])
    assert question.normalized([-3.0, -1.0, -2.0]) == [-1.5, -math.inf, -0.5]
    based = Question(1, 0, [0], [[1], [2], [3]], lengths=[1, 1, 2], base=[-1.0, -4.0, 2.0])
    assert based.normalized([-3.0, -1.0, -2.0]) == [-2.0, 3.0, -2.0]


class Bigram(nn.Module):
    """A table over ten tokens."""

    def __init__(self, block_size: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config, self.table = (
            TransformerConfig(vocab_size=10, block_size=block_size),
            nn.Parameter(torch.randn(10, 10)),
        )

    def forward(self, idx: torch.Tensor, targets: Any = None, *, cache: Any = None, at: Any = None) -> Any:
        return self.table[idx if at is None else idx[:, at]], None


def test_notes_count_the_questions_that_tie_and_those_that_are_cut() -> None:
    same, other = [[1], [1]], [[1], [2]]
    questions = [
        Question(1, 0, [0, 3], same, [1, 1]),
        Question(2, 1, [0] * 9, other, [1, 1]),
        Question(3, 1, [0] * 8, [[1], [2, 3]], [1, 2]),  # one choice is cut
        Question(4, 1, [0] * 8, other, [1, 1]),
    ]
    told: list[tuple[int, int, str]] = []
    result = evaluate(Bigram(8), questions, lambda *step: told.append(step), details=False)
    assert result.notes == [
        "in 1 of 4 questions several choices are equally likely and share the credit",
        "2 of 4 questions are longer than the model's context and lose their beginning",
    ]
    assert result.details == () and result.n == 4
    value, error = result.metrics["acc_norm"]
    assert told[-1] == (4, 4, f"accuracy {value:.4f} ± {error:.4f}")
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    [alone] = evaluate(Bigram(8), questions[:1], lambda *step: told.append(step), details=True).details
    assert told[-1] == (1, 1, "") and (alone["acc"], alone["acc_norm"]) == (0.5, 0.5)
    assert evaluate(Bigram(8), questions[1:2], lambda *_: None, details=True).notes == [
        "1 of 1 questions are longer than the model's context and lose their beginning"
    ]


def test_the_accuracy_shown_is_that_of_the_result_whatever_the_order_of_the_choices() -> None:
    told: list[str] = []
    choices = [[place, place] for place in (9, 2, 7, 1, 4)]
    for label in range(5):  # the shorter the length, the worse its normalized log-likelihood
        pair = [Question(line, label, [line], choices, lengths=[8, 1, 2, 16, 3]) for line in (1, 2)]
        value, error = evaluate(Bigram(8), pair, lambda *step: told.append(step[2]), details=False).metrics[
            "acc_norm"
        ]
        assert told[-1] == f"accuracy {value:.4f} ± {error:.4f}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a": "\xff"}', "byte 0xff in column 8 is not UTF-8"),
        (b'{"a": 1', "broken JSON: Expecting ',' delimiter in column 8"),
        (b"[" * 100_000, "broken JSON: nested too deeply"),
        (b"[1]", "is not a JSON object"),
    ],
)
def test_a_line_that_is_no_object_is_named_with_its_place(line: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_bytes(b'{"a": 1}\n\n' + line + b"\n")
    with pytest.raises(UserError) as caught:
        read_lines(path, lambda number, values: values)
    assert str(caught.value) == f"{path}, line 3: {message}"


@pytest.mark.parametrize("count", [1, 10, 11, 1200])
def test_ten_mistakes_are_listed_and_the_others_counted(count: int, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"a": 1}\n' + "[]\n" * count)
    with pytest.raises(UserError) as caught:
        read_lines(path, lambda number, values: values)
    listed = [f"{path}, line {number}: is not a JSON object" for number in range(2, 2 + min(count, 10))]
    more = {1: [], 10: [], 11: ["and 1 more"], 1200: ["and 1,190 more"]}[count]
    assert str(caught.value).splitlines() == listed + more
