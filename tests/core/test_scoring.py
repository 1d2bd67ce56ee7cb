"""Scores against closed forms, whatever the batch."""

import math
import sys
from pathlib import Path

import pytest
import torch

from pealm_core.scoring import score

sys.path.insert(0, str(Path(__file__).parent))
from fakes import Config, Table, Uniform


def test_a_uniform_model_scores_log_v_for_each_token() -> None:
    model = Uniform(Config(vocab_size=7, block_size=8))
    scores = score(model, [([0], [1, 2, 3]), ([0, 1], [0])])
    assert [s.log_prob for s in scores] == pytest.approx([-3 * math.log(7), -math.log(7)])
    assert [s.tokens for s in scores] == [3, 1]


def test_a_table_scores_the_sum_of_its_log_probabilities() -> None:
    torch.manual_seed(0)
    logits = torch.randn(7, 7)
    log_p = logits.log_softmax(-1)
    requests = [([0, 3], [1, 2]), ([5], [6]), ([1, 1, 1, 1], [2, 2, 2])]
    expected = [
        float(log_p[3, 1] + log_p[1, 2]),
        float(log_p[5, 6]),
        float(log_p[1, 2] + log_p[2, 2] + log_p[2, 2]),
    ]
    for batch_tokens in (1, 8, 1000):
        got = [s.log_prob for s in score(Table(logits), requests, batch_tokens=batch_tokens)]
        assert got == pytest.approx(expected, abs=1e-5)


def test_greedy_says_whether_argmax_would_write_it() -> None:
    logits = torch.eye(7).roll(1, dims=1) * 9  # i is followed by i + 1
    assert [s.greedy for s in score(Table(logits), [([0], [1, 2]), ([0], [1, 3])])] == [True, False]


def test_a_long_context_loses_its_left_end() -> None:
    model = Table(torch.zeros(7, 7), block_size=4)
    score(model, [([0, 1, 2, 3, 4, 5], [6, 0])])
    assert model.windows == [[3, 4, 5, 6]]


def test_requests_that_cannot_be_scored() -> None:
    model = Uniform(Config(block_size=4))
    for request in (([], [1]), ([1], []), ([1], [1, 2, 3, 4, 5])):
        with pytest.raises(ValueError, match="1 to 4 tokens to score"):
            score(model, [request])
