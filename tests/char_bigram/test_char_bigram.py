"""The bigram model learns the bigram statistics, no more and no less."""

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pealm_char_bigram.config import BigramConfig
from pealm_char_bigram.model import Bigram


def test_logits_are_rows_of_the_table() -> None:
    model = Bigram(BigramConfig(vocab_size=5, block_size=4))
    idx = torch.tensor([[1, 3, 0]])
    logits, loss = model(idx)
    assert loss is None and torch.equal(logits[0], model.table.weight[[1, 3, 0]])
    assert torch.equal(model(idx, at=[-1])[0], logits[:, -1:])
    assert model.table.weight.shape == (5, 5) and sum(p.numel() for p in model.parameters()) == 25


def test_the_loss_is_the_mean_cross_entropy() -> None:
    model = Bigram(BigramConfig(vocab_size=5, block_size=4))
    idx, targets = torch.tensor([[1, 3]]), torch.tensor([[3, 0]])
    log_p = model.table.weight.log_softmax(-1)
    torch.testing.assert_close(model(idx, targets)[1], -(log_p[1, 3] + log_p[3, 0]) / 2)


def test_training_reaches_the_bigram_entropy_of_the_text(pealm: Callable[..., Any], tmp_path: Path) -> None:
    text = ("abacabad" * 50 + "\n") * 20
    (tmp_path / "t.txt").write_text(text)
    pairs, firsts = Counter(itertools.pairwise(text)), Counter(text[:-1])
    entropy = -sum(n * math.log(n / firsts[a]) for (a, _), n in pairs.items()) / (len(text) - 1)
    result = pealm(
        "train", "char-bigram", "--input.text", tmp_path / "t.txt", "--steps", 300, "--out", tmp_path / "r"
    )
    assert result.code == 0, result.err
    last = json.loads((tmp_path / "r" / "metrics.jsonl").read_text().splitlines()[-1])
    assert entropy - 0.01 < last["val_loss"] < entropy + 0.02


def test_tinyshakespeare_reaches_249_in_two_epochs(
    pealm: Callable[..., Any], shakespeare: Path, tmp_path: Path
) -> None:
    result = pealm("train", "char-bigram", "--input.text", shakespeare, "--out", tmp_path / "r")
    assert result.code == 0, result.err
    last = json.loads((tmp_path / "r" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["tokens"] <= 2.01e6
    assert last["val_loss"] < 2.49
