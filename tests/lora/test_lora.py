"""LoRA: on every model family, small checkpoints, resume to the bit, two processes, and merging."""

# ruff: noqa: RUF012 (class attributes of the kit are never modified)

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import pealm_core
from pealm_core import UserError
from pealm_lora.adapter import Lora, LoraLinear
from pealm_lora.config import LoraConfig
from pealm_testing import AdapterConformance

Pealm = Callable[..., Any]
SIZES = {"block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 16}
SMALL = ("--model.block-size", 16, "--model.n-layer", 1, "--model.n-embd", 16, "--model.n-head", 2)
QUICK = ("--batch-size", 8, "--eval-every", 0, "--eval-tokens", 500, "--lr", 0.01, "--warmup-steps", 0)
MODELS = ("char-transformer", "gpt2", "sprout")


class TestSmall(AdapterConformance):
    spec = "lora"
    config = {"targets": "all"}


class TestCharTransformer(AdapterConformance):
    spec = "lora"
    model, sizes = "char-transformer", SIZES


class TestGPT2(AdapterConformance):
    spec = "lora"
    config = {"targets": "all", "rank": 3}
    model, sizes = "gpt2", SIZES


class TestSprout(AdapterConformance):
    spec = "lora"
    config = {"targets": "all", "alpha": 4.0}
    model, sizes = "sprout", {**SIZES, "untied": False}


def updated(model: nn.Module, **config: Any) -> list[str]:
    """Return the names of the matrices that got an update."""
    Lora(LoraConfig(**config)).apply(model)
    return sorted(
        name.removesuffix(".a") for name, p in model.named_parameters() if p.requires_grad and name[-1] == "a"
    )


def made(name: str, **more: Any) -> nn.Module:
    from pealm_testing.core import Layer, make_model, plan

    job = plan(
        ("model", "tokenizer"), file=Layer("the test", {"model": {"name": name, **SIZES, "n_layer": 1, **more}})
    )
    return make_model(job, 19)[0]


def test_targets() -> None:
    assert updated(made("gpt2")) == ["h.0.attn.c_attn.lora", "h.0.attn.c_proj.lora"]
    assert len(updated(made("gpt2"), targets="all")) == 4
    attention = ["blocks.0.attention.parametrizations.qkv.0", "blocks.0.attention.proj.lora"]
    assert updated(made("sprout")) == attention
    for untied in (True, False):  # neither the head nor the temperatures of the heads
        assert updated(made("sprout", untied=untied), targets="all") == [
            *attention,
            "blocks.0.down.lora",
            "blocks.0.up.lora",
        ]
    with pytest.raises(UserError, match=r"has no layers named attn or attention; try --adapter.targets all"):
        updated(nn.Sequential(nn.Linear(3, 3)))
    with pytest.raises(UserError, match="no linear layers"):
        updated(nn.Sequential(nn.Embedding(3, 3)), targets="all")


def test_merging_is_exact_to_rounding() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 32).double()
    layer = LoraLinear(linear, LoraConfig(rank=4, alpha=3.0))
    nn.init.normal_(layer.lora.b)
    model, x = nn.Sequential(layer), torch.randn(5, 7, 64).double()
    before = model(x)
    by_definition = x @ (linear.weight + 3 / 4 * layer.lora.b @ layer.lora.a).T + linear.bias
    torch.testing.assert_close(before, by_definition, rtol=1e-12, atol=1e-12)
    Lora().merge(model)
    assert model[0] is linear
    torch.testing.assert_close(model(x), before, rtol=1e-12, atol=1e-12)


def test_dropout_is_for_training() -> None:
    layer = LoraLinear(nn.Linear(8, 8), LoraConfig(rank=2, dropout=0.5))
    nn.init.normal_(layer.lora.b)
    x = torch.ones(1, 8)
    assert not torch.equal(layer(x), layer(x)) and torch.equal(layer.eval()(x), layer(x))


@pytest.mark.parametrize("model", MODELS)
def test_from_training_to_merged_weights(model: str, pealm: Pealm, book: Path, tmp_path: Path) -> None:
    tokenizer = ("--tokenizer", "char") if model == "gpt2" else ()
    optimizer = ("--optimizer", "adamw") if model == "sprout" else ()
    start = ("train", model, *QUICK, *optimizer, *tokenizer, "--input.text", book, "--steps", 4)
    base, run = tmp_path / "base", tmp_path / "run"
    assert pealm(*start, *SMALL, "--out", base).code == 0
    done = pealm(
        *start, "--init", base, "--adapter", "lora", "--adapter.targets", "all", "--save-every", 2, "--out", run
    )
    assert done.code == 0, done.err
    shutil.copytree(run, tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "checkpoints" / "step-00000004")
    done = pealm("train", "--out", tmp_path / "half")
    assert done.code == 0 and "step-00000002" in done.out, done.err
    for name in ("model.safetensors", "optimizer.safetensors"):
        ends = [(folder / "checkpoints" / "step-00000004" / name).read_bytes() for folder in (run, tmp_path / "half")]
        assert ends[0] == ends[1]
    tensors = load_file(run / "best" / "model.safetensors")
    assert {name[-2:] for name in tensors} == {".a", ".b"}
    assert pealm("convert", run, tmp_path / "merged").code == 0
    scores = [
        torch.tensor(pealm_core.load(path, device="cpu", dtype="fp32").logprobs("the quick brown fox"))
        for path in (run, tmp_path / "merged", base)
    ]
    torch.testing.assert_close(scores[0], scores[1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(scores[0], scores[2], atol=1e-3)
    bf16 = pealm_core.load(run, device="cpu", dtype="bf16").logprobs("the quick brown fox")
    torch.testing.assert_close(torch.tensor(bf16), scores[0], atol=0.1, rtol=0.1)
    int8 = pealm_core.load(run, device="cpu", dtype="fp32", quantize="int8").logprobs("the quick brown fox")
    torch.testing.assert_close(torch.tensor(int8), scores[0], atol=0.1, rtol=0.1)


def test_muon_takes_the_updates(pealm: Pealm, book: Path, tmp_path: Path) -> None:
    start = ("train", "sprout", *QUICK, "--input.text", book, "--steps", 2)
    assert pealm(*start, *SMALL, "--out", tmp_path / "base").code == 0
    done = pealm(*start, "--init", tmp_path / "base", "--adapter", "lora", "--out", tmp_path / "run")
    assert done.code == 0, done.err


def test_two_processes_learn_the_same(pealm: Pealm, ranks: Any, book: Path, tmp_path: Path) -> None:
    start = ("train", "char-transformer", *QUICK, "--input.text", book, "--steps", 3, "--dtype", "fp32")
    assert pealm(*start, *SMALL, "--out", tmp_path / "base").code == 0
    start = (*start, "--init", tmp_path / "base", "--adapter", "lora")
    assert pealm(*start, "--out", tmp_path / "one").code == 0
    assert [done.err for done in ranks(2, *start, "--out", tmp_path / "two") if done.code] == []
    one, two = (load_file(tmp_path / run / "best" / "model.safetensors") for run in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:  # Adam divides rounding errors by small gradients
        torch.testing.assert_close(one[name], two[name], atol=1e-3, rtol=1e-3)
