"""The format hf: what transformers loads from our folders, and what we load from its."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import pealm_core
from pealm_core import PealmError, UserError
from pealm_core.checkpoints import folder as checkpoint
from pealm_core.checkpoints.build_model import make_model
from pealm_core.checkpoints.build_tokenizer import make_tokenizer
from pealm_core.config.resolve_job import plan
from pealm_core.config.toml_layers import Layer
from pealm_core.contract.specs import FormatSpec
from pealm_core.plugins.loading import PluginHost
from pealm_formats.ranks import merges, spell
from pealm_gpt2.convert import export_folder, import_folder

TEXT = "First Citizen:\n\n  Before we proceed,   it's 2,345 naïve 日本語 and 🦊🦊 don't\t\tforget.  "
SIZES = {"vocab_size": 50257, "n_positions": 64, "n_layer": 2, "n_head": 2, "n_embd": 16}


@pytest.fixture
def theirs(peer: Callable[..., Any], tmp_path: Path) -> Path:
    """A model that transformers saved, without a tokenizer."""
    peer(**SIZES).save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def same_logits(lm: Any, folder: Path) -> Any:
    """The folder as transformers loads it, after a look at its logits."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder)  # in eval mode
    idx = torch.randint(lm.model.config.vocab_size, (2, 20))
    with torch.no_grad():
        torch.testing.assert_close(lm.model(idx)[0], model(idx).logits, atol=1e-5, rtol=1e-4)
    return model


def test_the_format_is_registered() -> None:
    entry = PluginHost.installed().find(FormatSpec, "pealm-gpt2/hf")
    assert entry.load("exporter") is export_folder and entry.load("importer") is import_folder


def test_there_and_back_and_there(bpe: Any, theirs: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    import_folder(theirs, tmp_path / "ours")  # no tokenizer files: the default tokenizer
    lm: Any = pealm_core.load(tmp_path / "ours", device="cpu")
    assert lm.config["model"]["name"] == "gpt2" and lm.config["tokenizer"]["name"] == "tiktoken"
    same_logits(lm, theirs)

    export_folder(tmp_path / "ours", tmp_path / "exported")
    model = same_logits(lm, tmp_path / "exported")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "exported")
    assert len(tokenizer) == 50257 and tokenizer.eos_token_id == bpe.eot_token == model.config.eos_token_id
    ids = tokenizer(TEXT).input_ids
    assert ids == bpe.encode_ordinary(TEXT) == [int(i) for i in lm.tokenizer.encode(TEXT)]
    assert tokenizer.decode(ids) == TEXT
    inputs = tokenizer("O Romeo", return_tensors="pt")
    written = model.generate(**inputs, do_sample=False, max_new_tokens=20, pad_token_id=50256)[0]
    assert tokenizer.decode(written) == lm.generate("O Romeo", max_new_tokens=20, temperature=0)

    tokenizer.save_pretrained(tmp_path / "saved")  # as transformers writes it now: tokenizer.json alone
    assert not (tmp_path / "saved" / "merges.txt").exists()
    (tmp_path / "exported" / "tokenizer.json").write_bytes((tmp_path / "saved" / "tokenizer.json").read_bytes())
    for again in ("fast", "slow"):
        import_folder(tmp_path / "exported", tmp_path / again)
        (tmp_path / "exported" / "tokenizer.json").unlink(missing_ok=True)
        back = pealm_core.load(tmp_path / again, device="cpu")
        assert [int(i) for i in back.tokenizer.encode(TEXT)] == ids and back.eot_id == 50256
        one, two = back.model.state_dict(), lm.model.state_dict()
        assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_merges_are_those_that_openai_published(bpe: Any) -> None:
    import os

    files = Path(os.environ["TIKTOKEN_CACHE_DIR"]).iterdir()
    (published,) = (text for text in (f.read_text() for f in files) if text.startswith("#version"))
    found = [f"{spell(a)} {spell(b)}" for a, b in merges(bpe._mergeable_ranks)]
    assert found == published.splitlines()[1:]


def save_checkpoint(folder: Path, model: str, **sizes: Any) -> None:
    """An untrained model with a character tokenizer."""
    tables = {"model": {"name": model, **sizes}, "tokenizer": {"name": "char"}}
    job = plan(("model", "tokenizer"), file=Layer("test", tables))
    texts: Any = SimpleNamespace(documents=lambda split: [TEXT])
    tokenizer = make_tokenizer(job, None, texts)
    made, job = make_model(job, tokenizer.vocab_size)
    state = made.state_dict()
    checkpoint.save(folder, model=state, config=job.tables(), tokenizer=tokenizer, state={"step": 0})


@pytest.mark.parametrize("bias", [True, False])
def test_a_model_with_another_tokenizer_goes_alone(
    bias: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    save_checkpoint(run, "gpt2", n_layer=1, n_head=2, n_embd=16, block_size=32, bias=bias)
    capfd.readouterr()
    export_folder(run, tmp_path / "hf")
    told = capfd.readouterr().err
    assert told == f"{tmp_path / 'hf'} has no tokenizer: the format hf has none for char\n"
    lm: Any = pealm_core.load(run, device="cpu")
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    assert len(tensors["transformer.wte.weight"]) == lm.model.config.vocab_size < 128  # no padding
    model = same_logits(lm, tmp_path / "hf")
    assert tensors.keys() == model.state_dict().keys() - {"lm_head.weight"}  # tied; a bias that we lack is zero


def test_embedding_rows_without_a_token_are_left_out(bpe: Any, peer: Callable[..., Any], tmp_path: Path) -> None:
    model = peer(**{**SIZES, "vocab_size": 50304})
    model.save_pretrained(tmp_path / "wide")
    import_folder(tmp_path / "wide", tmp_path / "ours")
    lm: Any = pealm_core.load(tmp_path / "ours", device="cpu")
    assert lm.model.config.vocab_size == 50257 and float(lm.model.wte.weight[50257:].detach().abs().max()) == 0
    idx = torch.randint(50257, (1, 8))
    with torch.no_grad():
        torch.testing.assert_close(lm.model(idx)[0], model(idx).logits[..., :50257], atol=1e-5, rtol=1e-4)


def test_a_tokenizer_larger_than_the_model_is_refused(bpe: Any, peer: Callable[..., Any], tmp_path: Path) -> None:
    peer(**{**SIZES, "vocab_size": 100}).save_pretrained(tmp_path / "small")
    with pytest.raises(UserError, match="the tokenizer has 50,257 tokens, the model 100"):
        import_folder(tmp_path / "small", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def letters() -> dict[str, int]:
    return {spell(bytes([byte])): byte for byte in range(256)}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", {"model": {"type": "Unigram"}}, "its tokenizer.json can't be read"),
        ("tokenizer.json", {"model": {"type": "BPE"}, "pre_tokenizer": {"type": "Metaspace"}}, "its tokenizer.json can't be read"),
        ("vocab.json", {**letters(), "th": 257, "the": 256}, "b'the'.* is not a pair of earlier tokens"),
        ("vocab.json", {**letters(), "th": 256}, "it has no token 'the'"),
        ("vocab.json", {"th": 256, "the": 257}, "it has no token '!'"),
        ("vocab.json", {**letters(), "th": 256, "the": 257, "日": 258}, "its token '日' is not spelt in bytes"),
        ("vocab.json", [], "it has no token '!'"),
    ],
)  # fmt: skip
def test_a_vocabulary_of_another_kind_is_refused(
    theirs: Path, tmp_path: Path, file: str, content: Any, message: str
) -> None:
    (theirs / file).write_text(json.dumps(content))
    (theirs / "merges.txt").write_text(f"#version: 0.2\nt h\nth e\n{' 日' if '日' in message else ''}\n")
    with pytest.raises(UserError, match=message):
        import_folder(theirs, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_a_vocabulary_of_ones_own_comes_along(peer: Callable[..., Any], tmp_path: Path) -> None:
    """Special tokens first, as Hugging Face's trainers number them."""
    vocab = {"<|endoftext|>": 0, **{letter: i + 1 for letter, i in letters().items()}, "th": 257, "the": 258}
    peer(**{**SIZES, "vocab_size": 259}).save_pretrained(tmp_path / "own")
    (tmp_path / "own" / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "own" / "merges.txt").write_text("#version: 0.2\nt h\nth e\n")
    import_folder(tmp_path / "own", tmp_path / "ours")
    lm: Any = pealm_core.load(tmp_path / "ours", device="cpu")
    assert [int(i) for i in lm.tokenizer.encode("the th!")] == [258, 33, 257, 34] and lm.eot_id == 0
    same_logits(lm, tmp_path / "own")


def test_nothing_that_is_there_is_written_over(bpe: Any, theirs: Path, tmp_path: Path) -> None:
    import_folder(theirs, tmp_path / "ours")
    before = (tmp_path / "ours" / checkpoint.STATE).read_bytes()
    for convert in (import_folder, export_folder):
        source = theirs if convert is import_folder else tmp_path / "ours"
        with pytest.raises(UserError, match="ours exists already; remove it or choose another place"):
            convert(source, tmp_path / "ours")
    assert (tmp_path / "ours" / checkpoint.STATE).read_bytes() == before
    (tmp_path / "file").touch()
    with pytest.raises(PealmError, match="out could not be written"):
        export_folder(tmp_path / "ours", tmp_path / "file" / "out")


def test_only_gpt2_is_exported(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "run", "char-bigram")
    with pytest.raises(UserError, match="run is 'char-bigram', and the format hf is for gpt2"):
        export_folder(tmp_path / "run", tmp_path / "hf")
    with pytest.raises(UserError, match="no such file or folder"):
        export_folder(tmp_path / "nowhere", tmp_path / "hf")
    assert not (tmp_path / "hf").exists()
