"""The format hf: what transformers loads from our folders, and what we load from its."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import pealm_core
from pealm_core import UserError
from pealm_formats.folders import write_weights
from pealm_llama.convert import export_folder, import_folder
from pealm_llama.layout import is_llama

TEXT = "the quick naïve 日本語 🦊🦊 fox<|im_end|>\n\t <|endoftext|> don't  "


@pytest.fixture
def save(peer: Callable[..., Any], tokenizer: Path, tmp_path: Path) -> Callable[..., tuple[Any, Path]]:
    """Saves a model with its tokenizer as transformers does: `save("qwen2", num_hidden_layers=1)`."""

    def run(kind: str = "llama", *, dtype: torch.dtype = torch.float32, shard: str = "5GB", **changes: Any) -> Any:
        model = peer(kind, **changes).to(dtype)
        model.save_pretrained(tmp_path / "theirs", max_shard_size=shard)
        shutil.copytree(tokenizer, tmp_path / "theirs", dirs_exist_ok=True)
        return model, tmp_path / "theirs"

    return run


def same_logits(lm: Any, folder: Path) -> Any:
    """The folder as transformers loads it, in fp32, after a look at its logits."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    idx = torch.randint(lm.model.config.vocab_size, (2, 20))
    with torch.no_grad():
        ours, theirs = lm.model(idx)[0], model(idx).logits[..., : lm.model.config.vocab_size]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    return model


@pytest.mark.parametrize(
    "kind", ["llama", "all heads have keys", "wide heads", "llama 3", "smollm2", "mistral", "qwen2", "qwen3"]
)
def test_there_and_back(save: Callable[..., Any], kind: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    _, folder = save(kind, vocab_size=280)
    assert is_llama(folder)
    import_folder(folder, tmp_path / "ours")
    lm: Any = pealm_core.load(tmp_path / "ours", device="cpu")
    assert lm.config["model"]["name"] == "llama" and lm.config["tokenizer"]["name"] == "hf"
    assert lm.model.config.block_size == 64 and lm.eot_id == 2
    same_logits(lm, folder)

    export_folder(tmp_path / "ours", tmp_path / "exported")
    model = same_logits(lm, tmp_path / "exported")
    assert model.config.eos_token_id == 2 and model.config.max_position_embeddings == 64
    before, after = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "exported"))
    if kind != "mistral":
        assert (
            json.loads((tmp_path / "exported" / "config.json").read_text())["model_type"] == model.config.model_type
        )
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "exported" / name).read_bytes() == (folder / name).read_bytes()
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "exported")
    ids = tokenizer(TEXT, split_special_tokens=True).input_ids
    assert ids == [*lm.tokenizer.encode(TEXT)] and "<|im_start|>" in tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False
    )
    inputs = tokenizer("the quick", return_tensors="pt")
    written = model.generate(**inputs, do_sample=False, max_new_tokens=20, pad_token_id=0, eos_token_id=None)[0]
    lm.eot_id = None
    (sample,) = lm.samples(["the quick"], max_new_tokens=20, temperature=0)
    assert written.tolist() == [*inputs["input_ids"][0].tolist(), *sample.ids]


def test_bf16_stays_bf16_in_shards_and_in_one_file(save: Callable[..., Any], tmp_path: Path) -> None:
    model, folder = save("qwen2", dtype=torch.bfloat16, shard="10KB", vocab_size=280)
    assert len([*folder.glob("*.safetensors")]) > 2 and not (folder / "model.safetensors").exists()
    import_folder(folder, tmp_path / "ours")
    kept = load_file(tmp_path / "ours" / "model.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {torch.bfloat16}
    export_folder(tmp_path / "ours", tmp_path / "exported")
    tensors = load_file(tmp_path / "exported" / "model.safetensors")
    state = model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in tensors.items())
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["dtype"] == "bfloat16"


def test_shards_that_we_write_are_read_by_transformers(save: Callable[..., Any], tmp_path: Path) -> None:
    model, folder = save("llama", vocab_size=280)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (folder / "model.safetensors").unlink()
    write_weights(folder, tensors, shard=30_000)
    assert len([*folder.glob("*.safetensors")]) > 2
    import_folder(folder, tmp_path / "ours")
    same_logits(pealm_core.load(tmp_path / "ours", device="cpu"), folder)


def test_embedding_rows_without_a_token_are_left_out(save: Callable[..., Any], tmp_path: Path) -> None:
    _, folder = save("llama", vocab_size=320)
    import_folder(folder, tmp_path / "ours")
    lm: Any = pealm_core.load(tmp_path / "ours", device="cpu")
    assert lm.model.config.vocab_size == 280
    same_logits(lm, folder)


def test_a_tokenizer_larger_than_the_model_is_refused(save: Callable[..., Any], tmp_path: Path) -> None:
    _, folder = save("llama", vocab_size=100)
    with pytest.raises(UserError, match="the tokenizer has 280 tokens, the model 100"):
        import_folder(folder, tmp_path / "ours")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"has no tokenizer.json; transformers makes one: AutoTokenizer"):
        import_folder(folder, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_a_trained_model_takes_its_own_tokenizer_along(
    pealm: Callable[..., Any], book: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoTokenizer

    small = ("--steps", 1, "--batch-size", 2, "--model.n-layer", 1, "--model.block-size", 16, "--eval-tokens", 50)
    for name, options in (("bpe", ()), ("char", ("--tokenizer", "char"))):
        line = ("--preset", "nano", "--input.text", book, *small, *options)
        done = pealm("train", "llama", *line, "--out", tmp_path / name)
        assert done.code == 0, done.err
        done = pealm("convert", tmp_path / name, tmp_path / f"{name}-hf", "--to", "hf")
        assert done.code == 0, done.err
        told = f"{tmp_path / 'char-hf'} has no tokenizer: the format hf has none for char\n"
        assert done.err == (told if name == "char" else "")
        lm: Any = pealm_core.load(tmp_path / name, device="cpu")
        same_logits(lm, tmp_path / f"{name}-hf")
    lm = pealm_core.load(tmp_path / "bpe", device="cpu")
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "bpe-hf")
    ids = tokenizer(TEXT, split_special_tokens=True).input_ids
    assert ids == [*lm.tokenizer.encode(TEXT)] and tokenizer.decode(ids) == TEXT
    assert tokenizer.eos_token_id == lm.eot_id == len(tokenizer) - 1 and tokenizer.eos_token == "<|endoftext|>"
    done = pealm("convert", tmp_path / "bpe-hf", tmp_path / "back", "--from", "hf")
    assert done.code == 0, done.err
    back = pealm_core.load(tmp_path / "back", device="cpu")
    same_logits(back, tmp_path / "bpe-hf")
    assert [*back.tokenizer.encode(TEXT)] == ids and back.eot_id == lm.eot_id


def test_added_special_tokens_go_along(save: Callable[..., Any], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    _, folder = save("llama", vocab_size=282)
    saved = pealm_core.load_tokenizer({"model": {"name": "llama"}, "tokenizer": {"name": "hf"}}, folder)
    (tmp_path / "vocabulary").mkdir()
    saved.save(tmp_path / "vocabulary")  # type: ignore[attr-defined]
    (tmp_path / "vocabulary" / "specials.json").write_text(json.dumps({"<|user|>": 280, "<|assistant|>": 281}))
    sizes = {"n_layer": 1, "n_head": 2, "n_kv_head": 1, "n_embd": 8, "block_size": 16}
    from pealm_llama.config import LlamaConfig
    from pealm_llama.model import Llama

    state = Llama(LlamaConfig(vocab_size=282, **sizes)).state_dict()
    tables: Any = {"model": {"name": "llama", **sizes}, "tokenizer": {"name": "hf"}}
    pealm_core.write_checkpoint(tmp_path / "ours", model=state, config=tables, tokenizer=tmp_path / "vocabulary")
    export_folder(tmp_path / "ours", tmp_path / "exported")
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "exported")
    assert tokenizer("a<|user|><|assistant|>").input_ids[-2:] == [280, 281]
    import_folder(tmp_path / "exported", tmp_path / "back")
    back: Any = pealm_core.load(tmp_path / "back", device="cpu")
    assert back.tokenizer.specials["<|assistant|>"] == 281 and back.model.config.vocab_size == 282


def test_what_no_family_of_transformers_has(tmp_path: Path, save: Callable[..., Any]) -> None:
    from pealm_llama.config import LlamaConfig
    from pealm_llama.model import Llama

    sizes: dict[str, Any] = {
        "n_layer": 1,
        "n_head": 2,
        "n_kv_head": 1,
        "n_embd": 8,
        "qkv_bias": True,
        "qk_norm": True,
    }
    state = Llama(LlamaConfig(vocab_size=280, **sizes)).state_dict()
    _, folder = save()
    vocabulary = pealm_core.load_tokenizer({"model": {"name": "llama"}, "tokenizer": {"name": "hf"}}, folder)
    tables: Any = {"model": {"name": "llama", **sizes}, "tokenizer": {"name": "hf"}}
    pealm_core.write_checkpoint(tmp_path / "ours", model=state, config=tables, tokenizer=vocabulary)
    with pytest.raises(UserError, match="qkv-bias and qk-norm can't be written as hf"):
        export_folder(tmp_path / "ours", tmp_path / "exported")
    assert not (tmp_path / "exported").exists() and not [*tmp_path.glob(".exported*")]
    with pytest.raises(UserError, match="theirs exists already"):
        export_folder(tmp_path / "ours", folder)


def test_other_models_are_not_exported(pealm: Callable[..., Any], book: Path, tmp_path: Path) -> None:
    pealm("train", "char-bigram", "--input.text", book, "--steps", 1, "--out", tmp_path / "run")
    with pytest.raises(UserError, match="run is 'char-bigram', and this format hf is for llama"):
        export_folder(tmp_path / "run", tmp_path / "hf")
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2" / "config.json").write_text('{"model_type": "gpt2"}')
    assert not is_llama(tmp_path / "gpt2")


def test_weights_of_transformers_start_a_run(
    save: Callable[..., Any], tokenizer: Path, pealm: Callable[..., Any], book: Path, tmp_path: Path
) -> None:
    """`--init model.safetensors`: names of Hugging Face in a file without sizes."""
    _, folder = save("smollm2", vocab_size=280)
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, tmp_path / "x.safetensors")
    sizes = {"n-layer": 2, "n-head": 9, "n-kv-head": 3, "n-embd": 36, "n-inner": 96, "block-size": 32}
    options = [word for name, size in sizes.items() for word in (f"--model.{name}", size)]
    line = ("--init", tmp_path / "x.safetensors", "--tokenizer", "hf", "--tokenizer.path", tokenizer, *options)
    done = pealm("train", "llama", *line, "--input.text", book, "--steps", 1, "--lr", 1e-12, "--warmup-steps", 0,
                 "--batch-size", 2, "--eval-tokens", 50, "--out", tmp_path / "run")  # fmt: skip
    assert done.code == 0, done.err
    same_logits(pealm_core.load(tmp_path / "run", device="cpu"), folder)
