"""State of any structure resumes bit for bit; what can't be saved ends a run at its first step."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FACTORED = """
import torch
import pealm_core

class Factored(torch.optim.Optimizer):
    '''Keeps lists of matrices and a nested dict for each parameter, as Shampoo and SOAP do.'''

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr, "train_mode": False, "seen": ()})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    sizes = [p.numel()] if p.dim() < 2 else [p.shape[0], p.shape[1]]
                    state["factors"] = [torch.ones(size) for size in sizes]
                    state["more"] = {"mean": torch.zeros_like(p), "count": 0, "bad": BAD}
                g = p.grad.reshape(p.numel()) if p.dim() < 2 else p.grad
                for dim, factor in enumerate(state["factors"]):
                    other = tuple(d for d in range(g.dim()) if d != dim)
                    factor += (g * g).mean(other) if other else g * g
                state["more"]["mean"].mul_(0.9).add_(p.grad)
                state["more"]["count"] += 1
                scale = state["factors"][0].mean().sqrt() + state["more"]["count"]
                p -= group["lr"] * state["more"]["mean"] / scale

def build(model, lr):
    return Factored([p for p in model.parameters() if p.requires_grad], lr)

@pealm_core.hookimpl
def pealm_optimizers():
    return pealm_core.OptimizerSpec(name="factored", summary="lists and dicts as state", factory=build)
"""
SIZES = ("--model.block-size", 16, "--model.n-layer", 1, "--model.n-embd", 16, "--model.n-head", 2, "--batch-size", 8)
Pealm = Callable[..., Any]


@pytest.fixture
def train(pealm: Pealm, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def run(bad: str, out: Path, *options: object) -> Any:
        (tmp_path / "factored.py").write_text(FACTORED.replace("BAD", bad))
        monkeypatch.setenv("PEALM_PLUGINS", str(tmp_path / "factored.py"))
        monkeypatch.delitem(__import__("sys").modules, "factored", raising=False)
        args = ("--input.text", book, *SIZES, "--eval-tokens", 500, "--optimizer", "factored", "--lr", 0.01)
        return pealm("train", "char-transformer", *args, *options, "--out", out)

    return run


def test_a_run_with_nested_state_resumes_bit_for_bit(train: Callable[..., Any], pealm: Pealm, tmp_path: Path) -> None:
    done = train("None", tmp_path / "whole", "--steps", 10, "--save-every", 5)
    assert done.code == 0, done.err
    shutil.copytree(tmp_path / "whole", tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "checkpoints" / "step-00000010")
    done = pealm("train", "--out", tmp_path / "half")
    assert done.code == 0 and "step-00000005" in done.out, done.err
    whole, half = (tmp_path / run / "checkpoints" / "step-00000010" for run in ("whole", "half"))
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (whole / name).read_bytes() == (half / name).read_bytes()


def test_state_that_can_not_be_saved_ends_a_run_at_its_first_step(train: Callable[..., Any], tmp_path: Path) -> None:
    done = train("{1, 2}", tmp_path / "run", "--steps", 10)
    assert (
        done.code == 1 and "the optimizer's state.state.0.more.bad can't be saved: it is a builtins.set" in done.err
    )
    assert len(done.err.splitlines()) == 1
