"""Finetuning: `pealm train gpt2 --init gpt2-pretrained` gives a checkpoint of gpt2."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import pealm_core
from pealm_core import UserError
from pealm_core.checkpoints import folder as checkpoint
from pealm_core.checkpoints.initial_weights import read_initial_weights
from pealm_core.checkpoints.tensors import read_tensors
from pealm_core.config.resolve_job import plan
from pealm_core.config.toml_layers import Layer
from pealm_core.plugins.loading import PluginHost

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
    lm: Any = pealm_core.load(run)
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
    lm: Any = pealm_core.load(run)
    assert lm.model.config.block_size == 8
    idx = torch.randint(50257, (2, 8))
    with torch.no_grad():
        torch.testing.assert_close(lm.model(idx)[0], weights(idx).logits, atol=1e-4, rtol=1e-4)


def test_the_pretrained_model_itself_is_not_trained(pealm: Callable[..., Any], book: Path, tmp_path: Path) -> None:
    done = pealm("train", "gpt2-pretrained", "--input.text", book, "--out", tmp_path / "run")
    assert done.code == 2 and "pealm train gpt2 --init gpt2-pretrained" in done.err
    assert checkpoint.steps(tmp_path / "run") == []


ADAPTER = """
import pealm_core

class TopOnly:
    def apply(self, model):
        model.requires_grad_(False)
        model.ln_f.requires_grad_(True)

    def merge(self, model):
        model.requires_grad_(True)

@pealm_core.hookimpl
def pealm_adapters():
    return pealm_core.AdapterSpec(name="top-only", summary="trains the last norm", factory="top_only:TopOnly")
"""


def test_published_weights_are_an_adapter_s_base_by_name(
    weights: Any, pealm: Callable[..., Any], book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "top_only.py").write_text(ADAPTER)
    monkeypatch.setenv("PEALM_PLUGINS", str(tmp_path / "top_only.py"))
    init = ("--init", "gpt2-pretrained", "--adapter", "top-only", "--input.text", book)
    done = pealm("train", "gpt2", *init, "--steps", 2, "--out", tmp_path / "run", *ARGS)
    assert done.code == 0, done.err
    assert tomllib.loads((tmp_path / "run" / "config.toml").read_text())["adapter"]["base"] == "gpt2-pretrained"
    (step,) = checkpoint.steps(tmp_path / "run")
    assert read_tensors(step / "model.safetensors")[0].keys() == {"ln_f.weight", "ln_f.bias"}
    merged = pealm_core.read_checkpoint(step).model
    assert torch.equal(merged["wte.weight"][:50257], weights.transformer.wte.weight)
    assert not torch.equal(merged["ln_f.weight"], weights.transformer.ln_f.weight)
    done = pealm("convert", step, tmp_path / "hf", "--to", "hf")
    assert done.code == 0, done.err
    theirs = load_file(tmp_path / "hf" / "model.safetensors")
    assert torch.equal(theirs["transformer.ln_f.weight"], merged["ln_f.weight"])


@pytest.mark.parametrize("preset", [None, "medium", "xl"])
def test_a_run_s_own_config_fetches_the_size_that_it_was_made_with(
    preset: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(size: str) -> Path:
        raise UserError(f"asked for {size}")

    monkeypatch.setattr("pealm_gpt2.pretrained.download", download)
    host = PluginHost.installed()
    first = plan(("model",), host=host, preset=preset, words={"model": {"name": "gpt2"}})
    again = plan(("model",), host=host, file=Layer("config.toml", first.tables()))
    for job in (first, again):
        with pytest.raises(UserError, match=f"asked for {preset or 'small'}"):
            read_initial_weights(job, "gpt2-pretrained")


def nanogpt(path: Path, *, vocab_size: int, rows: int, prefix: str = "_orig_mod.", **changes: Any) -> Any:
    """Write a `ckpt.pt` as nanoGPT's train.py does, of its model: tied head, linear layers, no biases."""
    torch.manual_seed(0)
    width, layers, block = 16, 2, 24
    args = {"n_layer": layers, "n_head": 2, "n_embd": width, "block_size": block, "bias": False}
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (rows, width),
        "transformer.wpe.weight": (block, width),
    }
    for layer in range(layers):
        at = f"transformer.h.{layer}"
        shapes |= {f"{at}.ln_1.weight": (width,), f"{at}.attn.c_attn.weight": (3 * width, width)}
        shapes |= {f"{at}.attn.c_proj.weight": (width, width), f"{at}.ln_2.weight": (width,)}
        shapes |= {f"{at}.mlp.c_fc.weight": (4 * width, width), f"{at}.mlp.c_proj.weight": (width, 4 * width)}
    shapes["transformer.ln_f.weight"] = (width,)
    state = {name: 0.2 * torch.randn(shape) + (len(shape) == 1) for name, shape in shapes.items()}
    state["transformer.h.0.attn.bias"] = torch.tril(torch.ones(block, block)).view(1, 1, block, block)
    state["lm_head.weight"] = state["transformer.wte.weight"]
    content = {
        "model": {prefix + name: tensor for name, tensor in state.items()},
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0)}},
            "param_groups": [{"lr": 6e-4, "betas": (0.9, 0.95)}],
        },
        "model_args": {**args, "vocab_size": rows, "dropout": 0.0, **changes},
        "iter_num": 3,
        "best_val_loss": torch.tensor(4.2),
        "config": {"out_dir": "out", "dataset": "openwebtext"},
    }
    torch.save(content, path)
    return state


def reference(state: Any, idx: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """nanoGPT's forward pass, written out."""
    get = {name.removeprefix("transformer."): tensor for name, tensor in state.items()}
    t, f = idx.shape[1], torch.nn.functional
    x = get["wte.weight"][idx] + get["wpe.weight"][:t]
    for layer in range(2):
        part = {name.removeprefix(f"h.{layer}."): tensor for name, tensor in get.items()}
        y = f.layer_norm(x, (16,), part["ln_1.weight"])
        q, k, v = (part["attn.c_attn.weight"] @ y.mT).mT.split(16, dim=2)
        q, k, v = (z.view(len(idx), t, 2, 8).transpose(1, 2) for z in (q, k, v))
        y = f.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(len(idx), t, 16)
        x = x + f.linear(y, part["attn.c_proj.weight"])
        y = f.gelu(f.linear(f.layer_norm(x, (16,), part["ln_2.weight"]), part["mlp.c_fc.weight"]))
        x = x + f.linear(y, part["mlp.c_proj.weight"])
    return f.linear(f.layer_norm(x, (16,), get["ln_f.weight"]), get["lm_head.weight"])[..., :vocab_size]


KEPT = ("--steps", 1, "--batch-size", 2, "--warmup-steps", 0, "--lr", 1e-12, "--eval-tokens", 100)


@pytest.mark.parametrize("rows", [50257, 50304])
def test_nanogpts_own_checkpoint_loads(
    bpe: Any, pealm: Callable[..., Any], book: Path, tmp_path: Path, rows: int
) -> None:
    state = nanogpt(tmp_path / "ckpt.pt", vocab_size=50257, rows=rows)
    base = ("train", "gpt2", "--init", tmp_path / "ckpt.pt", "--input.text", book, "--out", tmp_path / "run", *KEPT)
    done = pealm(*base)
    assert done.code == 0, done.err
    model: Any = pealm_core.load(tmp_path / "run", device="cpu").model
    config = model.config
    assert (config.n_layer, config.n_head, config.n_embd, config.block_size, config.bias) == (2, 2, 16, 24, False)
    assert float(model.wte.weight[50257:].detach().abs().max()) == 0
    idx = torch.randint(50257, (2, 20))
    with torch.no_grad():  # nanoGPT has the exact GELU, and GPT-2 the tanh form, which differs by up to 5e-4
        torch.testing.assert_close(model(idx)[0], reference(state, idx, 50257), atol=2e-2, rtol=1e-2)


def test_a_small_vocabulary_of_nanogpt_loads(pealm: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("abcdefghij klm." * 60)
    nanogpt(tmp_path / "ckpt.pt", vocab_size=15, rows=15, prefix="module._orig_mod.")
    base = ("train", "gpt2", "--tokenizer", "char", "--input.text", tmp_path / "text.txt", *KEPT)
    init = ("--init", tmp_path / "ckpt.pt")
    done = pealm(*base, *init, "--model.block-size", 8, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert pealm_core.read_checkpoint(tmp_path / "run").model["wpe.weight"].shape == (8, 16)
    done = pealm(*base, *init, "--model.n-head", 4, "--out", tmp_path / "on")
    assert done.code == 2 and f"--model.n-head 4: the weights of --init {tmp_path / 'ckpt.pt'} have 2" in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layer": "many"}, "the settings of --init"),
        ({"n_head": 3}, "n-head 3 does not divide n-embd 16"),
        ({"n_layer": 3}, "h.2.ln_1.weight is missing"),
    ],
)
def test_sizes_that_make_no_sense_are_one_line(
    pealm: Callable[..., Any], book: Path, tmp_path: Path, changes: Any, message: str
) -> None:
    nanogpt(tmp_path / "ckpt.pt", vocab_size=15, rows=128, **changes)
    base = ("train", "gpt2", "--tokenizer", "char", "--input.text", book, *KEPT, "--out", tmp_path / "on")
    done = pealm(*base, "--init", tmp_path / "ckpt.pt")
    assert done.code == 2 and message in done.err and len(done.err.splitlines()) == 1


def test_an_untied_head_is_refused(pealm: Callable[..., Any], book: Path, tmp_path: Path) -> None:
    nanogpt(tmp_path / "ckpt.pt", vocab_size=15, rows=128)
    content = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    content["model"]["_orig_mod.lm_head.weight"] = torch.zeros(128, 16)
    torch.save(content, tmp_path / "ckpt.pt")
    base = ("train", "gpt2", "--tokenizer", "char", "--input.text", book, *KEPT, "--out", tmp_path / "on")
    done = pealm(*base, "--init", tmp_path / "ckpt.pt")
    assert done.code == 2 and "lm_head.weight differs from wte.weight" in done.err
