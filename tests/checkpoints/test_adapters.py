"""An adapter's checkpoint has only what was trained: its base is rebuilt, verified, and merged on request."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import pealm_core
from pealm_core import UserError
from pealm_core.checkpoints import folder as checkpoint
from pealm_core.checkpoints.tensors import read_tensors, read_tree

Pealm = Callable[..., Any]
SMALL = ("--model.block-size", 16, "--model.n-layer", 1, "--model.n-embd", 16, "--model.n-head", 2)
QUICK = ("--batch-size", 8, "--eval-every", 4, "--eval-tokens", 500, "--lr", 0.01, "--warmup-steps", 0)
LOW = """
    import pealm_core

    @pealm_core.hookimpl
    def pealm_adapters():
        return pealm_core.AdapterSpec(
            name="low", summary="low-rank updates", config="low_config:LowConfig", factory="low_adapter:Low"
        )
"""
CONFIG = """
from dataclasses import dataclass
import pealm_core

@dataclass(frozen=True)
class LowConfig:
    rank: int = pealm_core.setting(2, "rank of the update", at_least=1)
"""
ADAPTER = """
import torch
from torch import nn

class Updated(nn.Module):
    def __init__(self, inner, rank):
        super().__init__()
        self.inner = inner
        self.down = nn.Parameter(torch.randn(rank, inner.in_features) / 8)
        self.up = nn.Parameter(torch.zeros(inner.out_features, rank))
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x):
        return self.inner(x) + x @ self.down.T @ self.up.T * self.scale

class Low:
    def __init__(self, config):
        self.rank = config.rank

    def apply(self, model):
        model.requires_grad_(False)
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear) and not isinstance(module, Updated) and name != "head":
                    setattr(module, name, Updated(child, self.rank))

    def merge(self, model):
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, Updated):
                    with torch.no_grad():
                        child.inner.weight += child.up @ child.down * child.scale
                    setattr(module, name, child.inner)
"""


@pytest.fixture
def low(stranger: Any, tmp_path: Path) -> None:
    stranger("pealm-low", LOW)
    site = tmp_path / "site-pealm-low"
    (site / "low_config.py").write_text(CONFIG)
    (site / "low_adapter.py").write_text(ADAPTER)
    stranger.also("low_config", "low_adapter")


@pytest.fixture
def base(pealm: Pealm, book: Path, tmp_path: Path) -> Path:
    run = tmp_path / "base"
    done = pealm("train", "char-transformer", "--input.text", book, *SMALL, *QUICK, "--steps", 8, "--out", run)
    assert done.code == 0, done.err
    return run


@pytest.fixture
def adapted(low: None, pealm: Pealm, base: Path, book: Path, tmp_path: Path) -> Path:
    run = tmp_path / "adapted"
    done = pealm(*TRAIN, book, "--init", base, "--adapter", "low", "--steps", 8, "--out", run)
    assert done.code == 0, done.err
    return run


TRAIN = ("train", "char-transformer", *QUICK, "--input.text")


def text(path: Path, **more: Any) -> str:
    return str(pealm_core.load(path, device="cpu", dtype="fp32", **more).generate("the", seed=1, max_new_tokens=20))


def test_a_checkpoint_has_only_what_was_trained(adapted: Path, base: Path) -> None:
    tensors = load_file(adapted / "best" / "model.safetensors")
    assert {name.rpartition(".")[2] for name in tensors} == {"down", "up", "scale"}
    table = checkpoint_config(adapted / "best")["adapter"]
    digest = checkpoint.state_of(base / "best")["files"]["model.safetensors"][1]
    assert table == {"name": "low", "rank": 2, "base": str(base / "best"), "base-hash": digest}
    assert checkpoint_config(adapted)["adapter"] == table


def checkpoint_config(folder: Path) -> Any:
    import tomllib

    return tomllib.loads((folder / "config.toml").read_text())


def test_a_resumed_run_is_equal_to_the_bit(low: None, pealm: Pealm, base: Path, book: Path, tmp_path: Path) -> None:
    start = (*TRAIN, book, "--init", base, "--adapter", "low", "--adapter.rank", 3)
    assert pealm(*start, "--steps", 10, "--save-every", 5, "--out", tmp_path / "whole").code == 0
    # A schedule depends on the number of steps: the first half is a copy of the run at step 5.
    shutil.copytree(tmp_path / "whole", tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "checkpoints" / "step-00000010")
    done = pealm("train", "--out", tmp_path / "half")
    assert done.code == 0 and "step-00000005" in done.out, done.err
    whole, half = (tmp_path / run / "checkpoints" / "step-00000010" for run in ("whole", "half"))
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (whole / name).read_bytes() == (half / name).read_bytes()
    assert (
        len(read_tree(whole / "optimizer.safetensors")["state"])
        == len(load_file(whole / "model.safetensors")) // 3 * 2
    )


def test_it_samples_evaluates_and_merges(pealm: Pealm, adapted: Path, base: Path, book: Path, tmp_path: Path) -> None:
    assert text(adapted) != text(base)
    assert pealm("sample", "--ckpt", adapted, "-n", 3).code == 0
    scores = []
    assert pealm("convert", adapted, tmp_path / "merged").code == 0
    for path in (adapted, tmp_path / "merged", base):
        lm = pealm_core.load(path, device="cpu", dtype="fp32")
        scores.append(torch.tensor(lm.logprobs("the quick brown fox")))
        assert pealm("eval", "--ckpt", path, "--on", "perplexity", "--input.text", book).code == 0
    torch.testing.assert_close(scores[0], scores[1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(scores[0], scores[2], atol=1e-3)
    assert "adapter" not in checkpoint_config(tmp_path / "merged")
    assert (
        load_file(tmp_path / "merged" / "model.safetensors").keys()
        == load_file(base / "best" / "model.safetensors").keys()
    )


def test_read_and_write_checkpoint_know_adapters(adapted: Path, base: Path, tmp_path: Path) -> None:
    saved = pealm_core.read_checkpoint(adapted)
    assert saved.adapter is not None and saved.adapter["name"] == "low" and "adapter" not in saved.config
    pealm_core.write_checkpoint(tmp_path / "plain", model=saved.model, config=saved.config, tokenizer=saved.tokenizer)
    assert pealm_core.read_checkpoint(tmp_path / "plain").adapter is None
    tensors, _ = read_tensors(adapted / "best" / "model.safetensors")
    config = {**saved.config, "adapter": {"name": "low", "base": str(base)}}
    pealm_core.write_checkpoint(tmp_path / "part", model=tensors, config=config, tokenizer=saved.tokenizer)
    assert text(tmp_path / "part") == text(adapted)
    assert checkpoint_config(tmp_path / "part")["adapter"] == saved.adapter
    with pytest.raises(UserError, match="does not fit the model"):
        pealm_core.write_checkpoint(tmp_path / "x", model=saved.model, config=config, tokenizer=saved.tokenizer)


def test_a_missing_or_changed_base_is_one_line(pealm: Pealm, adapted: Path, base: Path, tmp_path: Path) -> None:
    before = text(adapted)
    moved = base.rename(tmp_path / "elsewhere")
    commands: tuple[Any, ...] = (
        ("sample", "--ckpt", adapted, "-n", 2),
        ("eval", "--ckpt", adapted, "--on", "perplexity", "--input.text", tmp_path / "book.txt"),
        ("convert", adapted, tmp_path / "merged"),
        ("train", "--out", adapted, "--steps", 9),
    )
    for command in commands:
        done = pealm(*command)
        assert done.code == 2 and "the base of adapter low" in done.err and "--base PATH" in done.err
        assert str(base) in done.err and len(done.err.splitlines()) == 1
    assert text(adapted, base=moved) == before
    for command in commands:
        done = pealm(*command, "--base", moved)
        assert done.code == 0, done.err
    assert checkpoint_config(adapted)["adapter"]["base"] == str(moved / "best")  # training has recorded it
    shutil.copytree(checkpoint.steps(moved)[-1], tmp_path / "other")
    saved = pealm_core.read_checkpoint(moved)
    tensors = {name: tensor * 1.5 for name, tensor in saved.model.items()}
    shutil.rmtree(tmp_path / "other")
    pealm_core.write_checkpoint(tmp_path / "other", model=tensors, config=saved.config, tokenizer=saved.tokenizer)
    done = pealm("sample", "--ckpt", adapted, "--base", tmp_path / "other")
    assert done.code == 2 and "is not the base of adapter low: its weights have changed" in done.err
    done = pealm("sample", "--ckpt", moved, "--base", tmp_path / "other")
    assert done.code == 2 and "only a checkpoint with an adapter has a base" in done.err
    for command in (("convert", moved, tmp_path / "x"), ("train", "--out", moved, "--steps", 9)):
        done = pealm(*command, "--base", tmp_path / "other")
        assert done.code == 2 and "has a base" in done.err and len(done.err.splitlines()) == 1


def test_base_is_not_a_setting_of_an_adapter(low: None, pealm: Pealm, tmp_path: Path) -> None:
    (tmp_path / "site-pealm-low" / "low_config.py").write_text(CONFIG.replace("rank:", "base:"))
    done = pealm("train", "char-bigram", "--adapter", "low", "--print-config")
    assert done.code == 3 and "has a field 'base', which is reserved" in done.err


def test_an_adapter_needs_weights(low: None, pealm: Pealm, book: Path, tmp_path: Path) -> None:
    done = pealm(*TRAIN, book, *SMALL, "--adapter", "low", "--out", tmp_path / "r")
    assert done.code == 2 and "--adapter low needs the weights that it adapts: --init" in done.err
    assert not (tmp_path / "r").exists()


def test_training_continues_from_merged_weights(pealm: Pealm, adapted: Path, book: Path, tmp_path: Path) -> None:
    """Without an adapter, --init merges; with one, the base must be merged before."""
    done = pealm(*TRAIN, book, "--init", adapted, "--adapter", "low", "--out", tmp_path / "on")
    assert done.code == 2 and f"pealm convert {adapted} OUT" in done.err and len(done.err.splitlines()) == 1
    assert pealm("convert", adapted, tmp_path / "plain").code == 0
    merged = torch.tensor(pealm_core.load(adapted, device="cpu", dtype="fp32").logprobs("the lazy dog"))
    for name, init, options in (("two", tmp_path / "plain", ("--adapter", "low")), ("all", adapted, ())):
        run = tmp_path / name
        # Too low a learning rate to change anything.
        steps = ("--steps", 1, "--lr", 1e-12)
        done = pealm(*TRAIN, book, "--init", init, *options, *steps, "--out", run)
        assert done.code == 0, done.err
        lm = pealm_core.load(run, device="cpu", dtype="fp32")
        torch.testing.assert_close(torch.tensor(lm.logprobs("the lazy dog")), merged, atol=1e-4, rtol=1e-4)


def test_a_checkpoint_that_names_itself_as_its_base_is_one_line(pealm: Pealm, adapted: Path) -> None:
    best, saved = adapted / "best", pealm_core.read_checkpoint(adapted)
    digest = checkpoint.state_of(best)["files"]["model.safetensors"][1]
    config = {**saved.config, "adapter": {"name": "low", "base": str(best), "base-hash": digest}}
    tensors, state = read_tensors(best / "model.safetensors")[0], {"step": 8}
    checkpoint.save(best, model=tensors, config=config, tokenizer=saved.tokenizer, state=state, replace=True)
    done = pealm("sample", "--ckpt", adapted)
    assert done.code == 2 and "has an adapter itself" in done.err and len(done.err.splitlines()) == 1


def test_clean_keeps_a_base(pealm: Pealm, adapted: Path, base: Path, tmp_path: Path) -> None:
    done = pealm("clean", tmp_path, "--yes")
    assert done.code == 0 and not (adapted / "best").exists() and (base / "best").exists(), done.out
    assert "base of" in done.out
    assert pealm("clean", tmp_path, "--yes").code == 0 and not base.exists()


def test_a_vocabulary_that_grew_below_an_adapter(
    low: None, pealm: Pealm, base: Path, tmp_path: Path, stranger: Any
) -> None:
    stranger("pealm-more", MORE)
    other = tmp_path / "other.txt"
    other.write_text("the quick brown fox jumps over the lazy dog! " * 200)
    for name, options in (("low", ("--adapter", "low")), ("full", ())):
        run = tmp_path / name
        init = ("--init", base, "--tokenizer", "wide", "--steps", 4, *options, "--out", run)
        done = pealm(*TRAIN, other, *init)
        assert done.code == 0, done.err
        assert "vocabulary 28 → 128: 100 rows are new" in done.out and "tokenizer char → wide" in done.out
        first, again = (pealm_core.load(run, device="cpu", dtype="fp32").logprobs("the dog") for _ in range(2))
        assert first == again
    tensors, own = load_file(tmp_path / "low" / "best" / "model.safetensors"), pealm_core.read_checkpoint(base).model
    tables = [name for name in tensors if tensors[name].shape == (128, 16)]
    assert len(tables) == 2
    for name in tables:  # rows by id, which are trained: the new ones are random at first
        difference = tensors[name][:28] - own[name]
        assert 0 < difference.abs().max() < 0.1 and len(tensors[name].unique(dim=0)) == 128


MORE = """
    import pealm_core

    class Wide:
        vocab_size = 128
        def encode(self, text):
            return [min(ord(c), 127) for c in text]
        def decode(self, ids):
            return "".join(map(chr, ids))

    @pealm_core.hookimpl
    def pealm_tokenizers():
        return pealm_core.TokenizerSpec(name="wide", summary="ASCII", factory="pealm_more_plugin:Wide")
"""


def test_of_new_tokens_only_the_new_rows_are_trained_and_saved(
    low: None, pealm: Pealm, base: Path, tmp_path: Path
) -> None:
    talk, run = tmp_path / "talk.jsonl", tmp_path / "run"
    talk.write_text("".join(f'{{"instruction": "the {word}", "output": "dog"}}\n' for word in ("fox", "dog", "cat")))
    line = ("train", "char-transformer", *QUICK, "--input.conversations", talk, "--save-every", 2)
    start = (*line, "--tokenizer.unknown", "replace", "--init", base, "--adapter", "low", "--steps", 4)
    done = pealm(*start, "--out", run)
    assert done.code == 0 and "vocabulary 28 → 32: 4 rows are new" in done.out, done.err
    saved = load_file(run / "best" / "model.safetensors")
    rows = {name: tensor for name, tensor in saved.items() if name.endswith("rows")}
    assert {len(tensor) for tensor in rows.values()} == {4}
    assert {name.rpartition(".")[2] for name in saved} == {"down", "up", "scale", "rows"}
    moments = read_tree(run / "checkpoints" / "step-00000004" / "optimizer.safetensors")["state"].values()
    assert (4, 16) in (shapes := [tuple(state["exp_avg"].shape) for state in moments]) and (32, 16) not in shapes
    own, merged = pealm_core.read_checkpoint(base).model, pealm_core.read_checkpoint(run).model
    for name, tensor in merged.items():
        if tensor.shape != own[name].shape:
            assert tensor.shape[0] == 32 and torch.equal(tensor[:28], own[name])
            (there,) = [new for key, new in rows.items() if key.startswith(name.rpartition(".")[0])]
            assert torch.equal(tensor[28:], there)
    assert pealm("convert", run, tmp_path / "plain").code == 0
    lms = [pealm_core.load(path, device="cpu", dtype="fp32") for path in (run, tmp_path / "plain")]
    first, second = (torch.tensor(lm.logprobs("the dog")) for lm in lms)
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)
    assert lms[0].chat([{"role": "user", "content": "the"}], seed=1, max_new_tokens=4) is not None
    int8 = pealm_core.load(run, device="cpu", dtype="fp32", quantize="int8").logprobs("the dog")
    torch.testing.assert_close(torch.tensor(int8), first, atol=0.1, rtol=0.1)
    shutil.copytree(run, tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "checkpoints" / "step-00000004")
    done = pealm("train", "--out", tmp_path / "half")
    assert done.code == 0, done.err
    for name in ("model.safetensors", "optimizer.safetensors"):
        ends = [(folder / "checkpoints" / "step-00000004" / name).read_bytes() for folder in (run, tmp_path / "half")]
        assert ends[0] == ends[1]
