"""GPT-2 as GGUF: our file read by the gguf package, and back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

import pealm_core
from pealm_core import UserError
from pealm_gpt2.gguf_file import is_gguf, read_gguf

TEXT = "First Citizen:\n\n  Before 2,345 naïve 日本語 🦊 don't\t\t."
SIZES = {"vocab_size": 50257, "n_positions": 64, "n_layer": 2, "n_head": 2, "n_embd": 32}


@pytest.fixture
def ours(bpe: Any, peer: Callable[..., Any], tmp_path: Path) -> tuple[Any, Path]:
    from pealm_gpt2.convert import import_folder

    theirs = peer(**SIZES)
    theirs.save_pretrained(tmp_path / "theirs")
    import_folder(tmp_path / "theirs", tmp_path / "ours")
    return theirs, tmp_path / "ours"


@pytest.fixture
def small(pealm: Callable[..., Any], book: Path, tmp_path: Path) -> Path:
    """Train a model without biases, with few tokens of its own: reading GPT-2's 50,257 takes the gguf package long."""
    line = ("--tokenizer", "bpe", "--input.text", book, "--steps", 1, "--batch-size", 2, "--eval-tokens", 50)
    sizes = ("--model.n-layer", 1, "--model.n-embd", 32, "--model.n-head", 2, "--model.block-size", 16)
    done = pealm("train", "gpt2", *line, *sizes, "--model.bias", "false", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    return tmp_path / "run"


def test_there_and_back(ours: Any, pealm: Callable[..., Any], tmp_path: Path) -> None:
    theirs, folder = ours
    path = tmp_path / "x.gguf"
    done = pealm("convert", folder, path, "--to", "gguf")
    assert done.code == 0, done.err
    file = gguf.GGUFReader(path)
    assert file.fields["general.architecture"].contents() == "gpt2" and is_gguf(path)
    tensors, state = {tensor.name: tensor for tensor in file.tensors}, theirs.state_dict()
    for name, other in {
        "blk.1.ffn_up.weight": "h.1.mlp.c_fc.weight",
        "blk.0.attn_qkv.weight": "h.0.attn.c_attn.weight",
    }.items():
        values = gguf.quants.dequantize(tensors[name].data, tensors[name].tensor_type).copy()
        expected = state[f"transformer.{other}"].t()
        assert torch.equal(torch.from_numpy(values), expected)
    assert torch.equal(torch.from_numpy(tensors["position_embd.weight"].data.copy()), state["transformer.wpe.weight"])
    done = pealm("convert", path, tmp_path / "back", "--from", "gguf")
    assert done.code == 0, done.err
    one, two = (pealm_core.load(place, device="cpu") for place in (folder, tmp_path / "back"))
    assert [*one.tokenizer.encode(TEXT)] == [*two.tokenizer.encode(TEXT)] and two.eot_id == 50256
    assert one.model.config == two.model.config and two.config["tokenizer"]["name"] == "tiktoken"
    before, after = one.model.state_dict(), two.model.state_dict()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name])


@pytest.mark.parametrize("dtype", ["fp16", "q8_0"])
def test_rounded_there_and_back(dtype: str, small: Path, pealm: Callable[..., Any], tmp_path: Path) -> None:
    path, kind = (
        tmp_path / "x.gguf",
        gguf.GGMLQuantizationType.F16 if dtype == "fp16" else gguf.GGMLQuantizationType.Q8_0,
    )
    done = pealm("convert", small, path, "--to", "gguf", "--dtype", dtype)
    assert done.code == 0, done.err
    kinds = {tensor.name: tensor.tensor_type for tensor in gguf.GGUFReader(path).tensors}
    assert kinds["blk.0.ffn_up.weight"] == kind and kinds["position_embd.weight"] == gguf.GGMLQuantizationType.F32
    done = pealm("convert", path, tmp_path / "back", "--from", "gguf")
    assert done.code == 0, done.err
    before, after = (pealm_core.load(place, device="cpu").model.state_dict() for place in (small, tmp_path / "back"))
    for name, tensor in before.items():
        assert (tensor - after[name]).abs().max() <= 0.005 * tensor.abs().max()
    assert not torch.equal(before["h.0.mlp.c_fc.weight"], after["h.0.mlp.c_fc.weight"])


def test_a_model_without_biases_and_with_bpe(small: Path, pealm: Callable[..., Any], tmp_path: Path) -> None:
    for target, way in (("x.gguf", "gguf"), ("hf", "hf")):
        done = pealm("convert", tmp_path / "run", tmp_path / target, "--to", way)
        assert (done.code, done.err) == (0, ""), done.err
        done = pealm("convert", tmp_path / target, tmp_path / f"back-{way}", "--from", way)
        assert done.code == 0, done.err
        one, two = (pealm_core.load(tmp_path / name, device="cpu") for name in ("run", f"back-{way}"))
        ids = [*one.tokenizer.encode(TEXT)]
        assert ids == [*two.tokenizer.encode(TEXT)] and one.eot_id == two.eot_id
        idx = torch.tensor([ids[:16]])
        with torch.no_grad():
            torch.testing.assert_close(one.model(idx)[0], two.model(idx)[0])


def test_bad_files_are_one_line(small: Path, pealm: Callable[..., Any], tmp_path: Path) -> None:
    pealm("convert", small, tmp_path / "x.gguf", "--to", "gguf")
    whole = (tmp_path / "x.gguf").read_bytes()
    tokens = pealm_core.load(small, device="cpu").tokenizer.vocab_size
    with pytest.raises(UserError, match=f"the tokenizer has {tokens + 1} tokens, the model {tokens}"):
        read_gguf(tmp_path / "x.gguf", tokens + 1)
    path = tmp_path / "y.gguf"
    for changed, message in (
        (whole[:-100], "too large"),
        (whole.replace(b"gpt2.block_count", b"gpt2.block_xount"), "n_layer is None"),
        (whole.replace(b"blk.0.ffn_up.weight", b"blk.0.ffn_xp.weight"), "mlp.c_fc.weight is missing"),
        (whole.replace(b"layer_norm_epsilon", b"layer_norm_epsilox"), "layer_norm_epsilon is None, not 1e-5"),
    ):
        path.write_bytes(changed)
        with pytest.raises(UserError, match=message) as error:
            read_gguf(path, tokens)
        assert "\n" not in str(error.value) and "y.gguf" in str(error.value)
