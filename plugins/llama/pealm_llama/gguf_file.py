"""GGUF of the Llama family: settings and tensors by llama.cpp's names, to ours and back."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pealm_core import UserError
from pealm_formats.gguf_file import GGUF, is_family
from pealm_llama.config import LlamaConfig
from pealm_llama.layout import LARGEST, check_shapes, family_of, fit
from pealm_llama.model import rotary_speeds
from pealm_llama.names import fuse, separate

FAMILIES = ("llama", "qwen2", "qwen3")
# Llama 3's scaling is a table in GGUF; these are the settings that the published models made theirs with.
LLAMA3: dict[str, Any] = {"rope_low": 1.0, "rope_high": 4.0, "rope_original": 8192}
ROPE_TABLE = "rope_freqs.weight"
TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def is_gguf(path: Path) -> bool:
    """Return whether a path is a GGUF file of the Llama family."""
    return is_family(path, FAMILIES)


def read_config(file: GGUF) -> LlamaConfig:
    """Return the model's settings. Raises UserError that names all that our model lacks."""
    if file.family not in FAMILIES:
        raise UserError(f"{file.path}: its architecture is {file.family!r:.80}, not one of {', '.join(FAMILIES)}")
    heads, tokens = file.get(".attention.head_count"), file.tensors.get("token_embd.weight")
    sizes = {
        "block_size": file.get(".context_length"),
        "n_layer": file.get(".block_count"),
        "n_head": heads,
        "n_kv_head": file.get(".attention.head_count_kv", heads),
        "n_embd": file.get(".embedding_length"),
        "n_inner": file.get(".feed_forward_length"),
        "vocab_size": int(tokens.shape[-1]) if tokens is not None and len(tokens.shape) == 2 else None,
    }
    wrong = [f"{name} is {n!r:.80}" for name, n in sizes.items() if not (type(n) is int and 0 < n <= LARGEST)]
    wrong += [
        f"{key.removeprefix('.')} is {file.get(key)!r:.80}"
        for key in (".attention.sliding_window", ".expert_count", ".rope.scaling.type", ".logit_scale")
        if file.get(key) not in (None, 0, "none")
    ]
    eps, base = file.get(".attention.layer_norm_rms_epsilon"), file.get(".rope.freq_base", 10_000.0)
    if not (type(eps) is float and 0 < eps < 1 and type(base) is float and 1 < base < 1e12):
        wrong.append(f"layer_norm_rms_epsilon is {eps!r}, rope.freq_base is {base!r}")
    if wrong:
        raise UserError(f"{file.path} is not a model that pealm has: {'; '.join(wrong)}")
    width = file.get(".attention.key_length", sizes["n_embd"] // heads)
    if not (type(width) is int and 0 < width <= LARGEST and file.get(".rope.dimension_count", width) == width):
        raise UserError(f"{file.path} is not a model that pealm has: it turns only a part of each head, or none")
    settings: dict[str, Any] = {
        **sizes,
        "head_dim": None if width * heads == sizes["n_embd"] else width,
        "rope_base": float(f"{base:.7g}"),  # an fp32 number in the file
        "norm_eps": float(f"{eps:.7g}"),
        "qkv_bias": "blk.0.attn_q.bias" in file.tensors,
        "qk_norm": "blk.0.attn_q_norm.weight" in file.tensors,
        "tied": "output.weight" not in file.tensors,
    }
    try:
        config = LlamaConfig(**settings)
        if ROPE_TABLE not in file.tensors:
            return config
        table = file.tensor(ROPE_TABLE)
        scaled = LlamaConfig(**settings, **LLAMA3, rope_factor=float(f"{float(table.max()):.6g}"))
        if not torch.allclose(rotary_speeds(config) / rotary_speeds(scaled), table, rtol=1e-3):
            raise ValueError(f"its table {ROPE_TABLE} is not Llama 3's")
        return scaled
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{file.path}: {error}") from None


def read_weights(file: GGUF, config: LlamaConfig) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors under Hugging Face's names."""
    for name in file.tensors:
        if name == ROPE_TABLE:
            continue
        tensor, (_, part) = file.tensor(name), _split(name)
        if file.family == "llama" and part in ("attn_q", "attn_k"):
            tensor = _pairs(tensor, config.n_head if part == "attn_q" else config.kv_heads, apart=True)
        yield _theirs(name), tensor


def _pairs(tensor: Tensor, heads: int, apart: bool) -> Tensor:
    """Reorder the rows of each head: llama.cpp rotates neighbouring features, others those half a head apart."""
    shape = (heads, -1, 2, *tensor.shape[1:]) if apart else (heads, 2, -1, *tensor.shape[1:])
    return tensor.reshape(shape).transpose(1, 2).reshape(tensor.shape)


def _split(name: str) -> tuple[str, str]:
    """Return the layer and the part of a tensor's name: `blk.3.attn_q.weight` to `3` and `attn_q`."""
    words = name.split(".")
    return (words[1], words[2]) if len(words) == 4 and words[0] == "blk" else ("", name)


def _theirs(name: str) -> str:
    """Return Hugging Face's name of a tensor; one that we do not know stays."""
    layer, part = _split(name)
    if part in IN_BLOCK:
        return f"model.layers.{layer}.{IN_BLOCK[part]}.{name.rpartition('.')[2]}"
    return TOP.get(name, name)


def read_gguf(path: Path, tokens: int | None = None) -> tuple[LlamaConfig, dict[str, Tensor]]:
    """Read config and state dict from a GGUF file. tokens: as in `layout.read_folder`. Raises UserError."""
    file = GGUF(path)
    config = read_config(file)
    shapes = {
        _theirs(name): tuple(map(int, tensor.shape[::-1]))
        for name, tensor in file.tensors.items()
        if name != ROPE_TABLE
    }
    check_shapes(config, shapes, where=path)
    return fit(config, lambda: fuse(read_weights(file, config), tied=config.tied), tokens, where=path)


def fields_of(config: LlamaConfig) -> dict[str, Any]:
    """Return the settings of a model in a GGUF file. Raises UserError for one that llama.cpp lacks."""
    family = family_of(config, "gguf")
    if config.rope_factor != 1 and family != "llama":
        raise UserError(f"a {family} model with rope-factor {config.rope_factor:g} can't be written as gguf")
    return {
        ".context_length": config.block_size,
        ".embedding_length": config.n_embd,
        ".block_count": config.n_layer,
        ".feed_forward_length": config.inner,
        ".attention.head_count": config.n_head,
        ".attention.head_count_kv": config.kv_heads,
        ".attention.key_length": config.width,
        ".attention.value_length": config.width,
        ".attention.layer_norm_rms_epsilon": config.norm_eps,
        ".rope.dimension_count": config.width,
        ".rope.freq_base": config.rope_base,
        ".vocab_size": config.vocab_size,
    }


def tensors_of(config: LlamaConfig, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a state dict under llama.cpp's names."""
    if config.rope_factor != 1:
        plain = dataclasses.replace(config, rope_factor=1.0)
        yield ROPE_TABLE, rotary_speeds(plain) / rotary_speeds(config)
    top, parts = ({theirs: ours for ours, theirs in names.items()} for names in (TOP, IN_BLOCK))
    permuted = family_of(config, "gguf") == "llama"
    for name, tensor in separate(state, n_head=config.n_head, kv_heads=config.kv_heads).items():
        if name in top:
            yield top[name], tensor
            continue
        _, _, layer, part = name.split(".", 3)
        module, _, kind = part.rpartition(".")
        if permuted and parts[module] in ("attn_q", "attn_k"):
            heads = config.n_head if parts[module] == "attn_q" else config.kv_heads
            tensor = _pairs(tensor, heads, apart=False)
        yield f"blk.{layer}.{parts[module]}.{kind}", tensor
