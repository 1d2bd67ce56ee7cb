"""Targets that are not learned: each scored token counts the same, however the batch is divided."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pealm_core.contract.training_protocols import IGNORE

DATA = '''
"""Turns of a conversation: a question, which is not learned, and an answer, which is."""

from dataclasses import dataclass

from pealm_core import DatasetSpec, Segment, hookimpl, setting


@dataclass(frozen=True)
class Config:
    learned: str = setting("answers", "what is learned: answers, all, nothing or rare")
    packed: bool = setting(False, "whole documents in rows")


class Turns:
    specials = ("<|user|>", "<|end|>")

    def __init__(self, config):
        self.config, self.packed = config, config.packed

    def documents(self, split):
        for i in range(120 if split == "train" else 12):
            learn = {"answers": True, "all": True, "nothing": split == "val", "rare": i == 7 or split == "val"}
            learn = learn[self.config.learned]
            yield [
                Segment(special="<|user|>", learn=self.config.learned == "all"),
                Segment("how much is %d and %d?" % (i % 7, i % 5), learn=self.config.learned == "all"),
                Segment(" it is %d." % (i % 7 + i % 5) * (1 + i % 3), learn=learn),
                Segment(special="<|end|>", learn=learn),
            ]


@hookimpl
def pealm_datasets():
    return DatasetSpec(name="turns", summary="turns", config=Config, factory=Turns)
'''
TINY = ("--model.block-size", 24, "--model.n-layer", 1, "--model.n-embd", 16, "--model.n-head", 2)
RATE = ("--schedule", "constant", "--warmup-steps", 0, "--lr", 0.01, "--dtype", "fp32", "--eval-tokens", 96)


def rows(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in ("seconds", "tokens_per_second")} for line in lines
    ]


@pytest.fixture
def turns(local: Callable[..., Path]) -> Path:
    return local("turns_data", DATA)


@pytest.fixture
def train(pealm: Callable[..., Any], turns: Path, tmp_path: Path) -> Callable[..., Any]:
    def run(out: str, *args: object, steps: int = 4) -> Any:
        begin = ("--plugin", turns, "train", "char-transformer", "--input.turns", *TINY, *RATE)
        return pealm(*begin, "--out", tmp_path / out, "--batch-size", 8, "--steps", steps, "--eval-every", 2, *args)

    return run


def close(one: list[dict[str, Any]], two: list[dict[str, Any]], keys: tuple[str, ...] = ("loss", "val_loss")) -> bool:
    pairs = [(a.get(key), b.get(key)) for a, b in zip(one, two, strict=True) for key in keys]
    return all(a == b or a == pytest.approx(b, rel=2e-6) for a, b in pairs)


@pytest.mark.parametrize("packed", ["true", "false"])
@pytest.mark.parametrize("learned", ["answers", "rare"])
def test_accumulation_changes_nothing(train: Callable[..., Any], tmp_path: Path, learned: str, packed: str) -> None:
    data = ("--input.learned", learned, "--input.packed", packed)
    assert train("whole", *data).code == 0
    assert train("parts", *data, "--micro-batch-size", 1).code == 0  # many a pass has no scored target
    assert close(rows(tmp_path / "whole"), rows(tmp_path / "parts"))


def test_two_processes_equal_one(
    train: Callable[..., Any], ranks: Callable[..., Any], turns: Path, tmp_path: Path
) -> None:
    """The ranks have different numbers of scored targets, sometimes none; so have the passes of validation."""
    data = ("--input.learned", "rare", "--input.packed", "true")
    assert train("one", *data, steps=6).code == 0
    words = ["--plugin", turns, "train", "char-transformer", "--input.turns", *TINY, *RATE, *data, "--batch-size", 8]
    words += ["--out", tmp_path / "two", "--steps", 6, "--eval-every", 2, "--micro-batch-size", 2]
    assert [done.err for done in ranks(2, *words) if done.code] == []
    assert close(rows(tmp_path / "one"), rows(tmp_path / "two"))


def test_a_batch_without_a_scored_target_is_skipped(train: Callable[..., Any], tmp_path: Path) -> None:
    result = train("r", "--input.learned", "nothing", steps=3)
    assert result.code == 0, result.err
    assert "step 3: no token of the batch is scored; the step is skipped" in result.out
    lines = rows(tmp_path / "r")
    assert [line["loss"] for line in lines if line["step"]] == [None] * 3
    assert lines[0]["val_loss"] == lines[-1]["val_loss"]  # nothing was changed


def test_only_what_is_learned_is_scored(train: Callable[..., Any], tmp_path: Path) -> None:
    """A fixed end mark after each answer is soon known; questions cost more. The losses differ from unmasked ones."""
    assert train("answers", steps=2).code == 0 and train("all", "--input.learned", "all", steps=2).code == 0
    answers, everything = rows(tmp_path / "answers"), rows(tmp_path / "all")
    assert answers[0]["val_loss"] != everything[0]["val_loss"]


def test_a_resumed_run_equals_one_that_never_stopped(train: Callable[..., Any], tmp_path: Path) -> None:
    data = ("--input.packed", "true")
    assert train("whole", *data, steps=6).code == 0
    assert train("parts", *data, steps=3).code == 0 and train("parts", *data, steps=6).code == 0
    assert [r for r in rows(tmp_path / "whole") if r["step"] > 3] == [
        r for r in rows(tmp_path / "parts") if r["step"] > 3
    ]


def test_the_value_of_ignore_is_torchs() -> None:
    import torch

    assert torch.nn.functional.cross_entropy(torch.zeros(1, 2), torch.tensor([IGNORE])).isnan()
