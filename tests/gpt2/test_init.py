"""Finetuning: `pealm train gpt2 --init gpt2-pretrained` gives a checkpoint of gpt2."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import pealm_core
from pealm_core import UserError
from pealm_core.checkpoints import folder as checkpoint
from pealm_core.checkpoints.start import read_start
from pealm_core.config.job import host_for, plan
from pealm_core.config.layers import Layer

ARGS = ("--batch-size", 2, "--warmup-steps", 0, "--lr", 1e-3, "--eval-tokens", 100)


@pytest.fixture
def weights(peer: Callable[..., Any], bpe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A small model of GPT-2's vocabulary, where the hub's cache would have OpenAI's."""
    theirs = peer(vocab_size=50257, n_positions=16, n_layer=1, n_head=2, n_embd=8)
    theirs.save_pretrained(tmp_path / "hub")
    monkeypatch.setattr("pealm_gpt2.pretrained.download", lambda size: tmp_path / "hub")
    return theirs


def test_finetuning_starts_from_the_weights_and_gives_a_gpt2(
    weights: Any, pealm: Callable[..., Any], book: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = pealm(
        "train", "gpt2", "--init", "gpt2-pretrained", "--input.text", book, "--steps", 2, "--out", run, *ARGS
    )
    assert done.code == 0, done.err
    tables = tomllib.loads((run / "config.toml").read_text())
    assert (
        tables["model"]["name"] == "gpt2" and tables["model"]["n-layer"] == 1 and tables["model"]["block-size"] == 16
    )
    before = float(done.out.split("validation loss ")[1].split()[0])
    assert before == pytest.approx(10.8, abs=0.3)
    lm = pealm_core.load(run)
    assert lm.model.config.n_embd == 8 and lm.tokenizer.vocab_size == 50257
    assert pealm("train", "--out", run, "--steps", 3).code == 0  # goes on from its own checkpoint, not from the hub's
    done = pealm("sample", "gpt2", "--ckpt", run, "-n", 3)
    assert done.code == 0, done.err


def test_nothing_is_lost_on_the_way(weights: Any, pealm: Callable[..., Any], book: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    args = ("--steps", 1, "--out", run, "--batch-size", 2, "--warmup-steps", 0, "--lr", 1e-12, "--eval-tokens", 100)
    assert (
        pealm("train", "gpt2", "--init", "gpt2-pretrained", "--input.text", book, "--model.block-size", 8, *args).code
        == 0
    )
    lm = pealm_core.load(run)
    assert lm.model.config.block_size == 8
    idx = torch.randint(50257, (2, 8))
    with torch.no_grad():
        torch.testing.assert_close(lm.model(idx)[0], weights(idx).logits, atol=1e-4, rtol=1e-4)


def test_the_pretrained_model_itself_is_not_trained(pealm: Callable[..., Any], book: Path, tmp_path: Path) -> None:
    done = pealm("train", "gpt2-pretrained", "--input.text", book, "--out", tmp_path / "run")
    assert done.code == 2 and "pealm train gpt2 --init gpt2-pretrained" in done.err
    assert checkpoint.steps(tmp_path / "run") == []


@pytest.mark.parametrize("preset", [None, "medium", "xl"])
def test_a_run_s_own_config_fetches_the_size_that_it_was_made_with(
    preset: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(size: str) -> Path:
        raise UserError(f"asked for {size}")

    monkeypatch.setattr("pealm_gpt2.pretrained.download", download)
    host = host_for(None)
    first = plan(("model",), host=host, preset=preset, words={"model": {"name": "gpt2"}})
    again = plan(("model",), host=host, file=Layer("config.toml", first.tables()))
    for job in (first, again):
        with pytest.raises(UserError, match=f"asked for {preset or 'small'}"):
            read_start(job, "gpt2-pretrained")
