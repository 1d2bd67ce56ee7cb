"""Hugging Face's layout of the Llama family: config.json and tensors, to ours and back."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pealm_core import UserError
from pealm_formats.folders import CONFIG, Weights, read_json, write_json, write_weights
from pealm_formats.vocabulary import check_size
from pealm_llama.config import LlamaConfig
from pealm_llama.model import Llama
from pealm_llama.names import UNUSED, fuse, separate

FAMILIES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
LARGEST = 2**22  # of any size, checked before memory is needed for it
SIZES = {
    "vocab_size": "vocab_size",
    "block_size": "max_position_embeddings",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_kv_head": "num_key_value_heads",
    "n_embd": "hidden_size",
    "n_inner": "intermediate_size",
    "head_dim": "head_dim",
}
MAY_BE_NONE = ("n_kv_head", "head_dim")
# What LlamaConfig has no setting for: the values that mean what our model computes.
FIXED: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "use_sliding_window": (False, None),
    "rope_interleaved": (False, None),
    "partial_rotary_factor": (1, None),
    "quantization_config": (None,),
    "num_experts": (None, 0),
    "num_local_experts": (None, 0),
    "final_logit_softcapping": (None,),
    "no_rope_layers": (None,),
    "is_encoder_decoder": (False, None),
}
LLAMA3 = {
    "rope_factor": "factor",
    "rope_low": "low_freq_factor",
    "rope_high": "high_freq_factor",
    "rope_original": "original_max_position_embeddings",
}


def is_llama(folder: Path) -> bool:
    """Return whether a folder in Hugging Face's layout says that it is of the Llama family."""
    with suppress(UserError, OSError):
        values = read_json(folder / CONFIG)
        return isinstance(values, dict) and values.get("model_type") in (*FAMILIES,)
    return False


def read_config(values: Any, *, where: Path) -> LlamaConfig:
    """Return the config of a config.json. Raises UserError that names all that our model lacks."""
    family = values.get("model_type") if isinstance(values, dict) else None
    if family not in (*FAMILIES,):  # a tuple, because it may not be hashable
        raise UserError(f"{where}: model_type is {family!r:.80}, not one of {', '.join(FAMILIES)}")
    sizes = {ours: values.get(theirs) for ours, theirs in SIZES.items()}
    if family == "qwen3" and sizes["head_dim"] is None:
        sizes["head_dim"] = 128
    wrong = [
        f"{SIZES[ours]} is {size!r:.80}"
        for ours, size in sizes.items()
        if not ((type(size) is int and 0 < size <= LARGEST) or (size is None and ours in MAY_BE_NONE))
    ]
    wrong += [
        f"{key} is {values[key]!r:.80}" for key, known in FIXED.items() if values.get(key, known[0]) not in known
    ]
    if family in ("llama", "mistral") and values.get("sliding_window") is not None:
        wrong.append(f"sliding_window is {values['sliding_window']!r:.80}")
    kinds = values.get("layer_types")
    if kinds is not None and not (isinstance(kinds, list) and all(kind == "full_attention" for kind in kinds)):
        other = next((kind for kind in kinds if kind != "full_attention"), None) if isinstance(kinds, list) else kinds
        wrong.append(f"layer_types has {other!r:.80}")
    tied, eps = values.get("tie_word_embeddings", False), values.get("rms_norm_eps", 1e-6)
    if type(tied) is not bool:
        wrong.append(f"tie_word_embeddings is {tied!r:.80}")
    if not _positive(eps):
        wrong.append(f"rms_norm_eps is {eps!r:.80}")
    rope, unknown = _read_rope(values)
    if wrong := wrong + unknown:
        raise UserError(f"{where} is not a model that pealm has: {'; '.join(wrong)}")
    try:
        return LlamaConfig(
            **sizes, **rope, norm_eps=float(eps), tied=tied, qkv_bias=family == "qwen2", qk_norm=family == "qwen3"
        )
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _read_rope(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return our settings of the rotary positions, and what is wrong with theirs."""
    table = values.get("rope_parameters") or values.get("rope_scaling") or {}  # of transformers 5, and earlier
    if not isinstance(table, dict):
        return {}, [f"rope_parameters is {table!r:.80}"]
    table = {key: value for key, value in table.items() if value is not None}
    base = table.pop("rope_theta", values.get("rope_theta", 10_000.0))
    kinds = {table.pop(key) for key in ("rope_type", "type") if isinstance(table.get(key), str)} or {"default"}
    given = {theirs: table.pop(theirs) for theirs in LLAMA3.values() if theirs in table}
    wrong = [f"rope_theta is {base!r:.80}"] if not (_positive(base) and base > 1) else []
    if table.pop("partial_rotary_factor", 1) != 1:
        wrong.append("partial_rotary_factor is not 1")
    if kinds == {"llama3"}:
        wrong += [
            f"rope {name} is {given.get(name)!r:.80}" for name in LLAMA3.values() if not _positive(given.get(name))
        ]
    elif kinds != {"default"}:
        wrong.append(f"rope_type is {' or '.join(sorted(kinds))!r:.80}")
    wrong += [f"rope_parameters has {key!r:.80}" for key in table]
    if wrong:
        return {}, wrong
    settings: dict[str, Any] = {"rope_base": float(base)}
    if kinds == {"llama3"}:
        settings |= {ours: float(given[theirs]) for ours, theirs in LLAMA3.items()}
        settings["rope_original"] = int(settings["rope_original"])
    return settings, []


def _positive(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < 1e12 and math.isfinite(value)


def read_folder(folder: Path, tokens: int | None = None) -> tuple[LlamaConfig, dict[str, Tensor]]:
    """Read config and state dict from a folder in Hugging Face's layout, in its precision.

    tokens: the number of the tokenizer's; embedding rows beyond it are left out. Raises UserError.
    """
    config = read_config(read_json(folder / CONFIG), where=folder / CONFIG)
    weights = Weights(folder, (UNUSED,))
    check_shapes(config, weights.shapes, where=weights.where)
    try:
        return fit(config, lambda: fuse(weights.items(), tied=config.tied), tokens, where=folder)
    except ValueError as error:
        raise UserError(f"{weights.where} does not fit: {error}") from None


def fit(
    config: LlamaConfig, read: Callable[[], dict[str, Tensor]], tokens: int | None, *, where: Path
) -> tuple[LlamaConfig, dict[str, Tensor]]:
    """Return config and weights for a tokenizer, which is compared before the weights are read. Raises UserError."""
    if tokens is None:
        return config, read()
    check_size(tokens, config.vocab_size, where)
    return dataclasses.replace(config, vocab_size=tokens), resize(read(), tokens)


def check_shapes(config: LlamaConfig, shapes: Mapping[str, tuple[int, ...]], *, where: Path) -> None:
    """Compare the shapes of tensors with those of a config, before they are read. Raises UserError naming each."""
    if 9 * config.n_layer > len(shapes):  # before that many are made
        raise UserError(f"{where} does not fit: it has {len(shapes)} tensors for {config.n_layer:,} layers of 9")
    try:
        with torch.device("meta"):
            own = separate(Llama(config).state_dict(), n_head=config.n_head, kv_heads=config.kv_heads)
    except RuntimeError as error:  # more elements than 63 bits can count
        raise UserError(f"{where} does not fit: the sizes in its config are too large ({error})") from None
    expected = {name: tuple(tensor.shape) for name, tensor in own.items()}
    wrong = [f"{name} is missing" for name in expected if name not in shapes]
    if config.tied:
        expected["lm_head.weight"] = expected["model.embed_tokens.weight"]
    for name, shape in shapes.items():
        if name not in expected:
            wrong.append(f"{name} is not in the model")
        elif shape != expected[name]:
            wrong.append(f"{name} is {shape} there and {expected[name]} by its config")
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise UserError(f"{where} does not fit: {'; '.join(wrong[:3])}{more}")


def resize(state: Mapping[str, Tensor], vocab_size: int) -> dict[str, Tensor]:
    """Cut a state dict to a smaller vocabulary."""
    tables = ("embed_tokens.weight", "lm_head.weight")
    return {name: tensor[:vocab_size] if name in tables else tensor for name, tensor in state.items()}


def family_of(config: LlamaConfig, format: str) -> str:
    """Return the family whose models a config describes. Raises UserError if there is none."""
    if config.qkv_bias and config.qk_norm:
        raise UserError(
            f"a model with qkv-bias and qk-norm can't be written as {format}: no family of transformers has both"
        )
    return "qwen3" if config.qk_norm else "qwen2" if config.qkv_bias else "llama"


def write_config(config: LlamaConfig, *, dtype: str, eot_id: int | None) -> dict[str, Any]:
    """Return the config.json of a model. Raises UserError for one that no family of transformers has."""
    family = family_of(config, "hf")
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_base}
    if config.rope_factor != 1:
        rope |= {"rope_type": "llama3", **{theirs: getattr(config, ours) for ours, theirs in LLAMA3.items()}}
    return {
        "architectures": [FAMILIES[family]],
        "model_type": family,
        **{theirs: getattr(config, ours) for ours, theirs in SIZES.items()},
        "num_key_value_heads": config.kv_heads,
        "intermediate_size": config.inner,
        "head_dim": config.width,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": rope,
        # The same for transformers before 5.
        "rope_theta": config.rope_base,
        "rope_scaling": None if config.rope_factor == 1 else {key: rope[key] for key in rope if key != "rope_theta"},
        "tie_word_embeddings": config.tied,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "bos_token_id": eot_id,
        "eos_token_id": eot_id,
        "dtype": dtype,
    }


def write_folder(folder: Path, config: LlamaConfig, state: Mapping[str, Tensor], *, eot_id: int | None) -> None:
    """Write config.json, generation_config.json and the weights, in their precision. Raises OSError, UserError."""
    dtype = str(state["embed_tokens.weight"].dtype).removeprefix("torch.")
    write_json(folder / CONFIG, write_config(config, dtype=dtype, eot_id=eot_id))
    ends = {"bos_token_id": eot_id, "eos_token_id": eot_id} if eot_id is not None else {}
    write_json(folder / "generation_config.json", ends)
    write_weights(folder, separate(state, n_head=config.n_head, kv_heads=config.kv_heads))
