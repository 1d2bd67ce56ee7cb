"""fp16 with a loss scale: it learns, an overflow is a skipped step, and a resumed run continues with the same scale."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.checkpoints.tensors import read_tensors
from pealm_core.training.trainer import Trainer

SIZES = ["--model.block-size", 16, "--model.n-layer", 1, "--model.n-embd", 16, "--model.n-head", 2, "--batch-size", 8]
CONSTANT = ["--warmup-steps", 0, "--schedule", "constant", "--lr", 0.01]
START = 2.0**16  # torch's first scale


@pytest.fixture
def train(pealm: Callable[..., Any], book: Path) -> Callable[..., Any]:
    def run(out: Path, *args: object) -> Any:
        words = ["char-transformer", "--input.text", book, *SIZES, *CONSTANT, "--eval-tokens", 64]
        return pealm("train", *words, "--dtype", "fp16", "--out", out, *args)

    return run


def rows(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "tokens_per_second")} for line in lines[1:]]


def overflow(monkeypatch: pytest.MonkeyPatch, *steps: int) -> dict[int, list[torch.Tensor]]:
    """Make gradients overflow in these steps; return the weights before and after each of them."""
    gradients, optimize, weights = Trainer.gradients, Trainer._optimize, dict[int, list[torch.Tensor]]()

    def copy(trainer: Trainer) -> torch.Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])

    def broken(self: Trainer) -> Any:
        sums = gradients(self)
        if self.step + 1 in steps:
            next(self.model.parameters()).grad[0, 0] = float("inf")  # type: ignore[index]
        return sums

    def watched(self: Trainer, *args: Any) -> None:
        before = copy(self)
        optimize(self, *args)
        weights[self.step + 1] = [before, copy(self)]

    monkeypatch.setattr(Trainer, "gradients", broken)
    monkeypatch.setattr(Trainer, "_optimize", watched)
    return weights


def test_it_learns_as_fp32_does(train: Callable[..., Any], tmp_path: Path) -> None:
    assert train(tmp_path / "fp16", "--steps", 30).code == 0
    assert train(tmp_path / "fp32", "--steps", 30, "--dtype", "fp32").code == 0
    half, full = rows(tmp_path / "fp16"), rows(tmp_path / "fp32")
    assert [row["loss"] for row in half] == pytest.approx([row["loss"] for row in full], rel=0.02)
    assert [row["grad_norm"] for row in half[:9]] == pytest.approx([row["grad_norm"] for row in full[:9]], rel=0.05)
    assert any(one["loss"] != other["loss"] for one, other in zip(half, full, strict=True))  # it is another precision
    assert {row["loss_scale"] for row in half} == {START} and "loss_scale" not in full[0]
    assert json.loads((tmp_path / "fp16" / "run.json").read_text())["dtype"] == "float16"


def test_an_overflow_is_a_skipped_step(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = overflow(monkeypatch, 3)
    done = train(tmp_path / "r", "--steps", 5)
    assert done.code == 0 and "step 3: a gradient overflows in fp16; the step is skipped" in done.out
    assert [torch.equal(*weights[step]) for step in range(1, 6)] == [False, False, True, False, False]
    lines = rows(tmp_path / "r")
    assert [row["loss_scale"] for row in lines] == [START, START, START, START / 2, START / 2]
    assert [row["grad_norm"] is None for row in lines] == [False, False, True, False, False]
    assert [row["step"] for row in lines] == [1, 2, 3, 4, 5]


def test_a_gradient_that_always_overflows_ends_the_run(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overflow(monkeypatch, *range(2, 40))
    done = train(tmp_path / "r", "--steps", 40, "--save-every", 1)
    assert done.code == 1 and len(done.err.splitlines()) == 1
    assert "the gradient norm is not finite at step 19 (rank 0): inf" in done.err  # 2**16 halved 17 times is below 1
    newest, _ = checkpoint.newest(tmp_path / "r")
    assert newest is not None and newest.name == "step-00000018"
    assert all(bool(tensor.isfinite().all()) for tensor in read_tensors(newest / "model.safetensors")[0].values())


def test_a_resumed_run_continues_with_the_same_scale(
    train: Callable[..., Any], pealm: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overflow(monkeypatch, 2)
    train(tmp_path / "straight", "--steps", 6)
    train(tmp_path / "parts", "--steps", 4)
    assert pealm("train", "--out", tmp_path / "parts", "--steps", 6).code == 0
    straight, parts = (rows(tmp_path / name) for name in ("straight", "parts"))
    for row in straight + parts:  # the second one was validated at the end of its first part
        for name in [name for name in row if name.startswith("val_")]:
            del row[name]
    assert straight == parts
    assert straight[-1]["loss_scale"] == START / 2
    states = [checkpoint.verify(checkpoint.newest(tmp_path / name)[0] or tmp_path) for name in ("straight", "parts")]
    assert states[0]["scaler"] == states[1]["scaler"] and states[0]["scaler"]["_growth_tracker"] == 4
    assert pealm("train", "--out", tmp_path / "parts", "--steps", 7, "--dtype", "fp32").code == 0  # needs no scale
    assert pealm("train", "--out", tmp_path / "parts", "--steps", 8, "--dtype", "fp16").code == 0
    assert rows(tmp_path / "parts")[-1]["loss_scale"] == START  # a new one
