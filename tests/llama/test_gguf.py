"""GGUF files, written here by llama.cpp's own Python package, with the values that transformers' model has."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize

import pealm_core
from pealm_core import UserError
from pealm_llama.config import PretrainedConfig
from pealm_llama.gguf_file import is_gguf, read_gguf
from pealm_llama.model import Llama
from pealm_llama.pretrained import pretrained, vocabulary

NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
WIDE = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "vocab_size": 280}


def write(path: Path, model: Any, tokenizer: Path, kind: Kind = Kind.F32, more: dict[str, Any] | None = None) -> None:
    """Write a model of transformers, whose matrices get the values of a precision, as llama.cpp's converter does."""
    import json

    config, family = model.config, model.config.model_type
    writer: Any = gguf.GGUFWriter(path, family)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
    whole = json.loads((tokenizer / "tokenizer.json").read_text())
    vocab, special = whole["model"]["vocab"], {token["id"] for token in whole["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(sorted(vocab, key=vocab.get))
    writer.add_token_types([3 if i in special else 1 for i in range(len(vocab))])
    writer.add_token_merges([" ".join(pair) for pair in whole["model"]["merges"]])
    writer.add_eos_token_id(2)
    writer.add_chat_template((tokenizer / "chat_template.jinja").read_text())
    for key, value in (more or {}).items():
        {int: writer.add_uint32, str: writer.add_string}[type(value)](f"{family}.{key}", value)
    if config.rope_parameters["rope_type"] == "llama3":
        scaled = model.model.rotary_emb.inv_freq
        plain = config.rope_parameters["rope_theta"] ** (-torch.arange(0, len(scaled)) / len(scaled))
        writer.add_tensor("rope_freqs.weight", (plain / scaled).numpy().astype(np.float32))
    state = model.state_dict()
    if config.tie_word_embeddings:
        del state["lm_head.weight"]
    for name, tensor in state.items():
        module, _, what = name.rpartition(".")
        place = f"blk.{module.split('.')[2]}." if "layers" in module else ""
        theirs = f"{place}{next(new for old, new in NAMES.items() if module.endswith(old))}.{what}"
        values: Any = tensor.numpy()
        if values.ndim == 2 and kind != Kind.F32:
            packed = quantize(values, kind)
            tensor.copy_(torch.from_numpy(dequantize(packed, kind)))
            values = tensor.numpy()
        if family == "llama" and module.endswith(("q_proj", "k_proj")):
            heads = config.num_attention_heads if module.endswith("q_proj") else config.num_key_value_heads
            rows = values.reshape(heads, 2, len(values) // heads // 2, *values.shape[1:])
            values = rows.swapaxes(1, 2).reshape(values.shape)
        if values.ndim == 2 and kind != Kind.F32:
            writer.add_tensor(theirs, quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(theirs, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def same_logits(ours: Any, theirs: Any) -> None:
    idx = torch.randint(280, (2, 20))
    with torch.no_grad():
        torch.testing.assert_close(ours(idx)[0], theirs(idx).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1])
def test_each_precision(kind: Kind, peer: Callable[..., Any], tokenizer: Path, tmp_path: Path) -> None:
    model = peer("llama", **WIDE)
    write(tmp_path / "x.gguf", model, tokenizer, kind)
    config, state = read_gguf(tmp_path / "x.gguf")
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    ours = Llama(config)
    ours.load_state_dict(state)
    same_logits(ours, model)


@pytest.mark.parametrize("kind", ["smollm2", "llama 3", "one head has keys", "qwen2", "qwen3"])
def test_each_family(
    kind: str, peer: Callable[..., Any], tokenizer: Path, tmp_path: Path, pealm: Callable[..., Any]
) -> None:
    changes: dict[str, Any] = {"vocab_size": 280}
    if kind == "llama 3":
        rope = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 32.0}
        rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
        changes |= {"rope_parameters": rope, "hidden_size": 192}
    model = peer(kind, **changes)
    write(tmp_path / "x.gguf", model, tokenizer)
    assert is_gguf(tmp_path / "x.gguf")
    done = pealm("convert", tmp_path / "x.gguf", tmp_path / "ours", "--from", "gguf")
    assert done.code == 0, done.err
    lm: Any = pealm_core.load(tmp_path / "ours", device="cpu")
    same_logits(lm.model, model)
    assert lm.model.config.rope_factor == (32 if kind == "llama 3" else 1) and lm.model.config.norm_eps in (
        1e-5,
        1e-6,
    )
    first = pealm_core.load_tokenizer({"model": {"name": "llama"}, "tokenizer": {"name": "hf"}}, tokenizer)
    text = "the quick naïve 日本語 🦊 fox<|im_end|>\n\t  don't 123"
    assert lm.tokenizer.encode(text) == first.encode(text) and lm.eot_id == 2
    assert lm.tokenizer.specials == first.specials and lm.tokenizer.chat_template == first.chat_template  # type: ignore[attr-defined]


def test_a_file_is_published_weights(
    peer: Callable[..., Any], tokenizer: Path, tmp_path: Path, pealm: Callable[..., Any]
) -> None:
    model = peer("smollm2", vocab_size=280)
    path = tmp_path / "x.gguf"
    write(path, model, tokenizer)
    config = PretrainedConfig(path=path)
    first, second = vocabulary(config), vocabulary(config)
    assert first is not None and first == second
    ours = Llama(pretrained(config)[0])
    ours.load_state_dict(pretrained(config)[1])
    same_logits(ours, model)
    done = pealm("sample", "llama-pretrained", "--model.path", path, "--prompt", "the quick", "-n", 5)
    assert done.code == 0 and done.out.startswith("the quick"), done.err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"attention.sliding_window": 4096}, "attention.sliding_window is 4096"),
        ({"expert_count": 8}, "expert_count is 8"),
        ({"rope.scaling.type": "yarn"}, "rope.scaling.type is 'yarn'"),
        ({"rope.dimension_count": 2}, "it turns only a part of each head"),
    ],
)
def test_what_pealm_lacks_is_named(
    more: dict[str, Any], message: str, peer: Callable[..., Any], tokenizer: Path, tmp_path: Path
) -> None:
    write(tmp_path / "x.gguf", peer("llama", vocab_size=280), tokenizer, more=more)
    with pytest.raises(UserError, match=message):
        read_gguf(tmp_path / "x.gguf")


@pytest.fixture
def whole(peer: Callable[..., Any], tokenizer: Path, tmp_path: Path) -> bytes:
    write(tmp_path / "x.gguf", peer("llama", vocab_size=280, num_hidden_layers=1), tokenizer)
    return (tmp_path / "x.gguf").read_bytes()


def test_another_architecture_is_refused(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "y.gguf"
    path.write_bytes(whole.replace(b"llama", b"gemma"))
    with pytest.raises(UserError, match=r"y.gguf: its architecture is 'gemma', not one of llama, qwen2, qwen3"):
        read_gguf(path)
    assert not is_gguf(path) and not is_gguf(tmp_path) and not is_gguf(tmp_path / "nowhere")


def number(key: bytes, value: int) -> Callable[[bytes], bytes]:
    """Replace the 4 bytes after a key and its type."""

    def change(data: bytes) -> bytes:
        at = data.index(key) + len(key) + 4
        return data[:at] + struct.pack("<I", value) + data[at + 4 :]

    return change


def tensor(name: bytes, skip: int, form: str, value: int) -> Callable[[bytes], bytes]:
    """Replace a number in the description of a matrix: dims (2 of 8 bytes) after 4, type after 20, offset after 24."""

    def change(data: bytes) -> bytes:
        at = data.index(name) + len(name) + skip
        new = struct.pack(form, value)
        return data[:at] + new + data[at + len(new) :]

    return change


MATRIX = b"blk.0.attn_v.weight"


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: b"GGUF",
        lambda data: data[:1000],
        lambda data: data[:-1000],
        lambda data: data[:4] + struct.pack("<I", 99) + data[8:],
        lambda data: data[:8] + struct.pack("<Q", 2**60) + data[16:],
        lambda data: data[:16] + struct.pack("<Q", 2**60) + data[24:],
        lambda data: data.replace(struct.pack("<IIQ", 9, 8, 280), struct.pack("<IIQ", 9, 0, 2**62), 1),
        number(b"llama.block_count", 2**31),
        number(b"llama.block_count", 0),
        number(b"llama.embedding_length", 2**31),
        number(b"llama.attention.head_count", 0),
        number(b"llama.attention.head_count_kv", 5),
        tensor(MATRIX, 4, "<Q", 2**50),
        tensor(MATRIX, 4, "<Q", 7),
        tensor(MATRIX, 20, "<I", 999),
        tensor(MATRIX, 20, "<I", int(Kind.IQ1_S)),
        tensor(MATRIX, 24, "<Q", 2**50),
        tensor(MATRIX, 24, "<Q", 2**63),
    ],
)
def test_a_damaged_file_is_one_line(
    change: Callable[[bytes], bytes], whole: bytes, tmp_path: Path, pealm: Callable[..., Any]
) -> None:
    damaged = change(whole)
    assert damaged != whole
    (tmp_path / "y.gguf").write_bytes(damaged)
    with pytest.raises(UserError, match=r"y\.gguf") as error:
        read_gguf(tmp_path / "y.gguf")
    assert "\n" not in str(error.value)
    done = pealm("convert", tmp_path / "y.gguf", tmp_path / "out", "--from", "gguf")
    assert done.code == 2 and done.err.count("\n") == 1 and not (tmp_path / "out").exists(), done.err


def test_an_unknown_tokenizer_is_named(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "y.gguf"
    path.write_bytes(whole.replace(b"gpt-2", b"cl100"))
    with pytest.raises(
        UserError, match=r"can't read its tokenizer, 'gpt2' with 'cl100'; give .* --tokenizer.path FILE"
    ):
        vocabulary(PretrainedConfig(path=path))


# Export


@pytest.mark.parametrize("kind", ["smollm2", "llama 3", "wide heads", "qwen2", "qwen3"])
def test_to_gguf_and_back(
    kind: str, peer: Callable[..., Any], tokenizer: Path, tmp_path: Path, pealm: Callable[..., Any]
) -> None:
    changes: dict[str, Any] = {"vocab_size": 280}
    if kind == "llama 3":
        rope = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 32.0}
        rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
        changes |= {"rope_parameters": rope, "hidden_size": 192}
    model = peer(kind, **changes)
    write(tmp_path / "x.gguf", model, tokenizer)
    for source, target, *way in (("x.gguf", "a", "--from", "gguf"), ("a", "hf", "--to", "hf"), ("hf", "b", "--from", "hf"),
                                 ("b", "y.gguf", "--to", "gguf"), ("y.gguf", "c", "--from", "gguf")):  # fmt: skip
        done = pealm("convert", tmp_path / source, tmp_path / target, *way)
        assert done.code == 0, done.err
    # The package's own reader finds in our file what is in the one that was written as llama.cpp's converter does.
    first, ours = (gguf.GGUFReader(tmp_path / name) for name in ("x.gguf", "y.gguf"))
    assert {t.name: t.tensor_type for t in first.tensors} == {t.name: t.tensor_type for t in ours.tensors}
    values = {tensor.name: tensor.data for tensor in ours.tensors}
    assert all(np.allclose(tensor.data, values[tensor.name], rtol=1e-6) for tensor in first.tensors)
    for name, field in first.fields.items():
        if not name.startswith("GGUF."):
            expected, found = field.contents(), ours.fields[name].contents()
            assert found == (pytest.approx(expected) if isinstance(expected, float) else expected), name
    one, two = (pealm_core.load(tmp_path / name, device="cpu") for name in ("a", "c"))
    assert one.model.config == two.model.config and one.config["tokenizer"] == two.config["tokenizer"]
    state = two.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in one.model.state_dict().items())
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / "a/tokenizer" / name).read_bytes() == (tmp_path / "c/tokenizer" / name).read_bytes()


def test_a_trained_model_as_gguf(pealm: Callable[..., Any], book: Path, tmp_path: Path) -> None:
    small = ("--steps", 1, "--batch-size", 2, "--model.n-layer", 1, "--model.block-size", 16, "--eval-tokens", 50)
    for name in ("bpe", "char"):
        line = ("--preset", "nano", "--input.text", book, *small, "--tokenizer", name, "--out", tmp_path / name)
        assert pealm("train", "llama", *line).code == 0
    done = pealm("convert", tmp_path / "bpe", tmp_path / "x.gguf", "--to", "gguf", "--dtype", "q8_0")
    assert done.code == 0, done.err
    types = {tensor.tensor_type for tensor in gguf.GGUFReader(tmp_path / "x.gguf").tensors}
    assert types == {Kind.F32, Kind.Q8_0}
    done = pealm("convert", tmp_path / "x.gguf", tmp_path / "back", "--from", "gguf")
    assert done.code == 0, done.err
    lm, back = (pealm_core.load(tmp_path / name, device="cpu") for name in ("bpe", "back"))
    text = "the quick naïve 日本語 🦊\n\t don't 123"
    assert [*lm.tokenizer.encode(text)] == [*back.tokenizer.encode(text)] and lm.eot_id == back.eot_id
    idx = torch.randint(lm.model.config.vocab_size, (1, 16))
    with torch.no_grad():
        one, two = lm.model(idx)[0], back.model(idx)[0]
    assert 0 < (one - two).norm() < 0.02 * one.norm()
    done = pealm("convert", tmp_path / "bpe", tmp_path / "y.gguf", "--to", "gguf", "--dtype", "q4_0")
    assert done.code == 2 and "--dtype q4_0: format gguf has fp32, fp16, bf16, q8_0" in done.err
    done = pealm("convert", tmp_path / "bpe", tmp_path / "y", "--to", "hf", "--dtype", "fp16")
    assert done.code == 2 and "--dtype fp16: format hf has no such option" in done.err
    done = pealm("convert", tmp_path / "bpe", tmp_path / "y", "--dtype", "int3")
    assert done.code == 2 and "--dtype int3: unknown; use fp32, bf16, fp16" in done.err
    done = pealm("convert", tmp_path / "char", tmp_path / "y.gguf", "--to", "gguf")
    assert done.code == 2 and "can't be written as gguf, which has no tokenizer 'char'" in done.err
    assert not [*tmp_path.glob("*y*")]


def test_a_tokenizer_that_llama_cpp_reads_in_another_way(tmp_path: Path, tokenizer: Path) -> None:
    import json
    import shutil

    from pealm_formats.gguf_vocabulary import vocabulary_fields

    folder = shutil.copytree(tokenizer, tmp_path / "tokenizer")
    whole = json.loads((folder / "tokenizer.json").read_text())
    assert vocabulary_fields(folder, 281)["tokenizer.ggml.tokens"][-1] == "[PAD280]"
    for changed in (
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": None},
        {"model": {"type": "Unigram"}},
    ):
        (folder / "tokenizer.json").write_text(json.dumps({**whole, **changed}))
        with pytest.raises(UserError, match="can't be written as GGUF"):
            vocabulary_fields(folder, 280)


def test_a_tokenizer_larger_than_the_embedding_is_refused_before_the_weights_are_read(
    whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pealm_formats.gguf_file import GGUF

    monkeypatch.setattr(GGUF, "tensor", lambda self, name: pytest.fail("weights were read"))
    with pytest.raises(UserError, match=r"x.gguf: the tokenizer has 281 tokens, the model 280"):
        read_gguf(tmp_path / "x.gguf", 281)


def test_a_token_before_each_text_is_kept(pealm: Callable[..., Any], tokenizer: Path, tmp_path: Path) -> None:
    import json

    from pealm_formats.gguf_file import GGUF, write_gguf
    from pealm_formats.gguf_vocabulary import _opening, vocabulary_fields, write_vocabulary

    folder = tmp_path / "first"
    folder.mkdir()
    whole = json.loads((tokenizer / "tokenizer.json").read_text())
    for opening in (None, _opening("<|im_start|>", 1)):
        (folder / "tokenizer.json").write_text(json.dumps({**whole, "post_processor": opening}))
        fields = vocabulary_fields(folder, 280)
        assert fields["tokenizer.ggml.add_bos_token"] is (opening is not None)
        write_gguf(tmp_path / "x.gguf", "llama", fields, [], None)
        write_vocabulary(GGUF(tmp_path / "x.gguf"), tmp_path)
        back: Any = pealm_core.load_tokenizer({"model": {"name": "llama"}, "tokenizer": {"name": "hf"}}, tmp_path)
        assert getattr(back, "bos_id", None) == (opening and 1)
