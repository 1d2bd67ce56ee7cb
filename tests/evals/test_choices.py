"""The parts of multiple-choice evaluations that the tests of the evaluations do not reach."""

import math
from typing import Any

import torch
from torch import nn

from pealm_char_transformer.config import TransformerConfig
from pealm_evals.choices import Question, credit, evaluate


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
