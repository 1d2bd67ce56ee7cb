"""`--epochs N`: steps from the number of samples, in presets, when resuming, and beside other limits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pealm_core.config.settings import TrainSettings
from pealm_core.training.learning_rate import in_steps

Pealm = Callable[..., Any]
SMALL = ("--model.block-size", 16, "--model.n-layer", 1, "--model.n-embd", 16, "--model.n-head", 2)


def steps(run: Path) -> int:
    return int(json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"])


def test_epochs_are_passes_over_the_data() -> None:
    s = in_steps(TrainSettings(steps=None, epochs=1.5, batch_size=8), 100)
    assert (s.steps, s.epochs) == (19, None)  # 150 samples
    assert in_steps(TrainSettings(), 100) == TrainSettings()


def test_a_run_of_epochs_resumes(pealm: Pealm, book: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    start = ("train", "char-transformer", "--input.text", book, *SMALL, "--batch-size", 64, "--eval-every", 0)
    assert pealm(*start, "--epochs", 1, "--out", run).code == 0
    one = steps(run)
    assert one == 8  # 8,100 characters in windows of 16, 64 a step
    assert (
        "epochs = 1.0" in (run / "config.toml").read_text() and "\nsteps =" not in (run / "config.toml").read_text()
    )
    assert "A larger --epochs resumes it" in pealm("train", "--out", run).out
    done = pealm("train", "--out", run, "--epochs", 2)
    assert done.code == 0 and steps(run) == 2 * one and "--epochs 1.0 → 2.0" in done.out
    done = pealm("train", "--out", run, "--steps", 2 * one + 1)
    assert done.code == 0 and steps(run) == 2 * one + 1, done.err


@pytest.mark.parametrize("model", ["sprout", "gpt2"])
def test_the_preset_chat(model: str, pealm: Pealm) -> None:
    line = ("train", model, "--preset", "chat", "--input.conversations", "x.jsonl", "--print-config")
    out = pealm(*line).out
    assert "epochs = " in out and "\nsteps = " not in out
    out = pealm(*line, "--steps", 7).out
    assert "\nsteps = 7" in out and "epochs = " not in out
