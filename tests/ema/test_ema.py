"""The average of the weights: a closed form, what is validated and kept, and that a run resumes with it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pealm_core import ObserverSpec
from pealm_core.plugins.loading import PluginHost
from pealm_testing import ObserverConformance

SIZES = "--model.block-size 16 --model.n-layer 1 --model.n-embd 16 --model.n-head 2"
QUICK = f"{SIZES} --batch-size 4 --save-every 1 --keep 0 --eval-every 2 --eval-tokens 200 --warmup-steps 2 --lr 0.01"
DECAY = 0.75
CLOCKS = ("seconds", "tokens_per_second")


class TestConformance(ObserverConformance):
    spec = PluginHost.installed().find(ObserverSpec, "ema").spec


@pytest.fixture
def train(pealm: Callable[..., Any], book: Path, tmp_path: Path) -> Callable[..., Path]:
    def run(name: str, *words: object) -> Path:
        out = tmp_path / name
        line = ("train", "char-transformer", "--input.text", book, *QUICK.split(), "--dtype", "fp32")
        done = pealm(*line, "--schedule", "constant", *words, "--out", out)
        assert done.code == 0 and not done.err, done.err
        return out

    return run


def rows(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]


def test_best_has_the_average_of_the_weights(train: Callable[..., Path], pealm: Callable[..., Any]) -> None:
    run, plain = train("ema", "--steps", 4, "--observer.ema.decay", DECAY), train("plain", "--steps", 4)
    assert [row["loss"] for row in rows(run)[1:]] == [row["loss"] for row in rows(plain)[1:]]
    assert rows(run)[-1]["val_loss"] != rows(plain)[-1]["val_loss"]
    steps = [load_file(run / f"checkpoints/step-{n:08d}/model.safetensors") for n in range(1, 5)]
    best = load_file(run / "best" / "model.safetensors")
    for name, tensor in best.items():
        expected = steps[0][name]
        for later in steps[1:]:
            expected = DECAY * expected + (1 - DECAY) * later[name]
        assert torch.allclose(tensor, expected, atol=1e-6), name
    assert pealm("sample", "--ckpt", run, "-n", 5).code == 0


def test_a_run_resumes_with_its_average(train: Callable[..., Path], pealm: Callable[..., Any]) -> None:
    whole = train("whole", "--steps", 4, "--observer.ema.decay", DECAY)
    parts = train("parts", "--steps", 2, "--observer.ema.decay", DECAY)
    assert pealm("train", "--out", parts, "--steps", 4).code == 0
    assert rows(whole) == rows(parts)
    assert (whole / "best/model.safetensors").read_bytes() == (parts / "best/model.safetensors").read_bytes()


def test_a_plugin_with_the_averaged_weights_is_needed(
    train: Callable[..., Path], pealm: Callable[..., Any], stranger: Callable[..., None], book: Path, tmp_path: Path
) -> None:
    """Otherwise, a run would continue with other weights in best/ than those that were asked for."""
    hook = "@hookimpl\ndef {}(trainer):\n    {}\n"
    body = hook.format("pealm_run_start", "1 / 0") + hook.format("pealm_eval_model", "return None")
    stranger("pealm-broken", "from pealm_core import hookimpl\n" + body)
    done = pealm(
        "train", "char-bigram", "--input.text", book, "--block-size", 8, "--steps", 2, "--out", tmp_path / "r"
    )
    assert done.code == 3 and "pealm_run_start failed at step 0: ZeroDivisionError" in done.err
    assert len(done.err.splitlines()) == 1


def test_sharded_weights_are_refused(ranks: Callable[..., Any], book: Path, tmp_path: Path) -> None:
    words = ("train", "char-transformer", "--input.text", book, *QUICK.split(), "--strategy", "fsdp")
    done = ranks(2, *words, "--observer.ema.decay", DECAY, "--steps", 1, "--out", tmp_path / "r")
    assert [line for rank in done for line in rank.err.splitlines() if "waiting" not in line] == [
        "pealm: pealm-ema/ema: --observer.ema.decay needs all weights in each process; use --strategy ddp"
    ]
    assert 2 in {rank.code for rank in done}
