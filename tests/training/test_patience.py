"""`--patience`: a run stops after so many validations without a lower loss, also one that was interrupted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Pealm = Callable[..., Any]


@pytest.fixture
def line(tmp_path: Path) -> tuple[object, ...]:
    """A run that can only get worse: it is validated on other letters than it learns."""
    book = tmp_path / "book.txt"
    book.write_text("ab" * 900 + "ba" * 5 + "cd" * 95)
    sizes = ("--block-size", 8, "--batch-size", 4, "--warmup-steps", 0, "--lr", 0.1, "--schedule", "constant")
    return ("train", "char-bigram", "--input.text", book, *sizes, "--eval-every", 2, "--eval-tokens", 160)


def losses(run: Path) -> dict[int, float]:
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["val_loss"] for row in lines if "val_loss" in row and row["step"]}


def test_a_run_stops_when_the_loss_gets_no_lower(pealm: Pealm, line: tuple[object, ...], tmp_path: Path) -> None:
    done = pealm(*line, "--steps", 100, "--patience", 3, "--out", tmp_path / "r")
    assert done.code == 0 and not done.err
    seen = losses(tmp_path / "r")
    best = min(seen, key=seen.__getitem__)
    assert list(seen)[-1] == best + 3 * 2 < 100
    assert f"stopped after step {best + 6}: 3 validations without a lower loss (--patience)" in done.out
    assert json.loads((tmp_path / "r" / "run.json").read_text())["status"] == "done"
    assert json.loads((tmp_path / "r" / "best" / "state.json").read_text())["step"] == best


def test_the_count_survives_a_resume(pealm: Pealm, line: tuple[object, ...], tmp_path: Path) -> None:
    run = tmp_path / "r"
    assert pealm(*line, "--steps", 100, "--patience", 3, "--out", tmp_path / "whole").code == 0
    last = list(losses(tmp_path / "whole"))[-1]
    assert pealm(*line, "--steps", last - 2, "--patience", 3, "--out", run).code == 0
    done = pealm("train", "--out", run, "--steps", 100)
    assert done.code == 0 and list(losses(run))[-1] == last, done.err
    again = pealm("train", "--out", run, "--patience", 0, "--steps", last + 4)  # it may change
    assert again.code == 0 and list(losses(run))[-1] == last + 4, again.err
