"""Weights for another number of tokens: rows are copied by id, new ones are as the model initialises them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pealm_core.checkpoints.api import read_checkpoint
from pealm_core.checkpoints.build_model import make_model
from pealm_core.config.resolve_job import Job, plan
from pealm_core.config.settings import TrainSettings
from pealm_core.config.toml_layers import Layer
from pealm_core.contract.errors import UserError

SIZES = {"n-layer": 1, "n-head": 2, "n-embd": 8, "block-size": 16}


def build(
    name: str, new: int, old: int = 0, weights: dict[str, Tensor] | None = None, said: list[str] | None = None
) -> dict[str, Tensor]:
    """The state dict of a model for `new` tokens, made of weights for `old` ones."""
    sizes = {} if name == "char-bigram" else SIZES
    tables = {"model": {"name": name, **sizes, "vocab-size": old}, "train": {"init": "there"}}
    job: Job = plan(("model",), flat={"train": TrainSettings}, file=Layer("test", tables))
    torch.manual_seed(1)
    say: Callable[[str], None] = (said if said is not None else []).append
    model, made = make_model(job, new, weights, say=say)
    assert made.configs["model"].vocab_size == new and isinstance(model, nn.Module)
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (65, 68, "vocabulary 65 → 68: 3 rows are new"),
        (65, 66, "vocabulary 65 → 66: 1 row is new"),
        (68, 65, "vocabulary 68 → 65: 3 rows are left out"),
        (65, 300, "vocabulary 65 → 300: 235 rows are new"),
        (300, 65, "vocabulary 300 → 65: 235 rows are left out"),
        (65, 65, None),
        (16, 20, "vocabulary 16 → 20: 4 rows are new"),  # also the number of positions
        (8, 16, "vocabulary 8 → 16: 8 rows are new"),  # also the width
    ],
)
@pytest.mark.parametrize("name", ["gpt2", "char-transformer", "sprout", "char-bigram"])
def test_rows_are_copied_by_id(name: str, old: int, new: int, line: str | None) -> None:
    before = {key: torch.randn_like(tensor) for key, tensor in build(name, old).items()}
    if name == "gpt2":
        before["wte.weight"][old:] = 0  # padding to a multiple of 128
    fresh, said = build(name, new), list[str]()
    after = build(name, new, old, before, said)
    assert said == ([line] if line else [])
    both, tables = min(old, new), 0
    for key, tensor in after.items():
        if name == "gpt2" and key == "wte.weight":
            assert torch.equal(tensor[both:new], fresh[key][both:new]) and not tensor[new:].any()
            assert torch.equal(tensor[:both], before[key][:both])
            tables += 1
        elif name == "char-bigram" and tensor.dim() == 2:
            assert torch.equal(tensor[:both, :both], before[key][:both, :both])
            assert torch.equal(tensor[both:], fresh[key][both:])
            tables += 1
        elif len(tensor) == new and len(before[key]) == old and ("tok" in key or "head" in key or "emb" in key):
            assert torch.equal(tensor[:both], before[key][:both])
            assert torch.equal(tensor[both:], fresh[key][both:])
            tables += 1
        else:
            assert torch.equal(tensor, before[key]), key
    assert tables


def test_weights_of_an_unknown_vocabulary_are_resized_by_their_shapes() -> None:
    before, said = build("char-transformer", 65), list[str]()
    after = build("char-transformer", 68, 0, before, said)
    assert said == ["vocabulary 65 → 68: 3 rows are new"]
    assert all(torch.equal(tensor[:65], before[key][:65]) for key, tensor in after.items() if len(tensor) == 68)
    assert build("char-transformer", 65, 0, before, said).keys() == before.keys() and len(said) == 1


def test_a_tensor_that_is_cut_along_one_dimension_is_an_error() -> None:
    """Both dimensions of a bigram's table are the vocabulary's: one alone can't differ."""
    weights = build("char-bigram", 9)
    for cut in (lambda table: table[:, :-1], lambda table: table[:-1]):
        with pytest.raises(UserError, match="does not fit the model"):
            build("char-bigram", 9, 0, {name: cut(table) for name, table in weights.items()})


def test_other_differences_are_still_errors() -> None:
    before = build("char-transformer", 65)
    before = {key: torch.zeros(*tensor.shape[:-1], 2 * tensor.shape[-1]) for key, tensor in before.items()}
    with pytest.raises(UserError, match="--init there does not fit the model"):
        build("char-transformer", 68, 65, before)


PRETRAINED = """
from dataclasses import dataclass
from pealm_core import ModelSpec, hookimpl, setting

@dataclass(frozen=True)
class Config:
    vocab_size: int = setting(0, hidden=True)
    block_size: int = 32

def pretrained(config):
    from pealm_char_bigram.config import BigramConfig
    from pealm_core import read_checkpoint

    state = read_checkpoint({run!r}).model
    return BigramConfig(vocab_size=len(next(iter(state.values())))), state

def vocabulary(config):
    from pealm_core import read_checkpoint

    return read_checkpoint({run!r}).tokenizer

@hookimpl
def pealm_models():
    module = __name__ + ":"
    return ModelSpec(
        name="published", summary="x", config=module + "Config", factory="pealm_char_bigram.model:Bigram",
        pretrained=module + "pretrained", vocabulary=module + "vocabulary", family="char-bigram", tokenizer="char",
    )
"""


def test_a_pretrained_model_brings_its_vocabulary(
    pealm: Callable[..., Any], stranger: Callable[..., None], book: Path, tmp_path: Path
) -> None:
    first = ("train", "char-bigram", "--input.text", book, "--steps", 1, "--out", tmp_path / "first")
    assert pealm(*first).code == 0
    stranger("pealm-published", PRETRAINED.format(run=str(tmp_path / "first")))
    done = pealm("sample", "published", "--prompt", "the", "-n", 3)
    assert done.code == 0 and done.out.startswith("the"), done.err
    other = tmp_path / "other.txt"
    other.write_text("xyz " * 500)
    line = ("--init", "published", "--input.text", other, "--steps", 1, "--out")
    done = pealm("train", "char-bigram", *line, tmp_path / "run")
    assert done.code == 0, done.err
    files = [read_checkpoint(tmp_path / name).tokenizer / "chars.json" for name in ("first", "run")]
    assert files[0].read_bytes() == files[1].read_bytes()
    done = pealm("train", "char-bigram", "--tokenizer", "bpe", *line, tmp_path / "bpe")
    assert "tokenizer char → bpe: the weights were trained with other tokens" in done.out + done.err


def test_fine_tuning_keeps_the_tokenizer_of_the_weights(
    pealm: Callable[..., Any], book: Path, tmp_path: Path
) -> None:
    """Not the model's own: only a tokenizer that is named replaces that of the weights."""
    first, other = tmp_path / "first", tmp_path / "other.txt"
    other.write_text("xyz " * 500)
    bpe = ("--tokenizer", "bpe", "--tokenizer.vocab-size", 300)
    assert pealm("train", "char-bigram", "--input.text", book, *bpe, "--steps", 1, "--out", first).code == 0
    line = ("train", "char-bigram", "--input.text", other, "--steps", 1, "--out")
    for number, init in enumerate((first, first / "best", first / "best" / "model.safetensors")):
        done = pealm(*line, tmp_path / f"run{number}", "--init", init)
        assert done.code == 0, done.err
        saved = read_checkpoint(tmp_path / f"run{number}")
        assert saved.config["tokenizer"] == {"name": "bpe", **read_checkpoint(first).config["tokenizer"]}
        files = [{path.name: path.read_bytes() for path in place.iterdir()} for place in (
            saved.tokenizer, read_checkpoint(first).tokenizer
        )]  # fmt: skip
        assert files[0] == files[1]
    done = pealm(*line, tmp_path / "char", "--init", first, "--tokenizer", "char")
    assert "tokenizer bpe → char: the weights were trained with other tokens" in done.out + done.err
    printed = pealm("train", "char-bigram", "--input.text", other, "--init", first, "--print-config").out
    assert '[tokenizer]\nname = "bpe"' in printed
    assert "[model]  # --init brings the settings of its weights" in printed
