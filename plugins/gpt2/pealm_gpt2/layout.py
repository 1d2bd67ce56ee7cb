"""Hugging Face's layout of GPT-2: config.json and tensors, to ours and back."""

import dataclasses
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pealm_core import UserError
from pealm_formats.folders import CONFIG, Weights, read_json, write_json, write_weights
from pealm_formats.vocabulary import check_size
from pealm_gpt2.config import GPT2Config
from pealm_gpt2.model import GPT2, MASKS, padded

PREFIX = "transformer."  # transformers writes it, OpenAI's own files have none
LARGEST = 1_000_000  # size of anything, which is checked before memory is needed for it
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # Conv1D keeps (in, out)
# What GPT2Config has no setting for: the values that mean what our model computes.
FIXED: Mapping[str, tuple[Any, ...]] = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}


def read_folder(folder: Path, tokens: int | None = None) -> tuple[GPT2Config, dict[str, Tensor]]:
    """Read config and state dict from a folder in Hugging Face's layout, the latter in fp32.

    tokens: the number of the tokenizer's; embedding rows beyond it are left out. Raises UserError.
    """
    config, weights = read_config(read_json(folder / CONFIG), where=folder / CONFIG), Weights(folder, MASKS)
    shapes = {}
    for name, shape in weights.shapes.items():
        ours = name.removeprefix(PREFIX)
        shapes[ours] = shape[::-1] if ours.endswith(TRANSPOSED) else shape
    check_shapes(config, shapes, where=weights.where)
    if tokens is not None:
        check_size(tokens, config.vocab_size, folder)
        config = dataclasses.replace(config, vocab_size=tokens)
    return config, read_state(weights.items(), config, where=weights.where)


def read_state(tensors: Iterable[tuple[str, Tensor]], config: GPT2Config, *, where: Path) -> dict[str, Tensor]:
    """Return their tensors, whose shapes fit, as our fp32 state dict. Raises UserError if the head is not tied."""
    state = {}
    for name, tensor in tensors:
        ours = name.removeprefix(PREFIX)
        state[ours] = (tensor.t() if ours.endswith(TRANSPOSED) else tensor).float()
    head = state.pop("lm_head.weight", None)
    if head is not None and not torch.equal(head, state["wte.weight"]):
        raise UserError(f"{where} does not fit: lm_head.weight is not wte.weight, and pealm's GPT-2 ties them")
    return resize(state, vocab_size=config.vocab_size, block_size=config.block_size)


def is_gpt2(folder: Path) -> bool:
    """Return whether a folder in Hugging Face's layout says that it is a GPT-2."""
    with suppress(UserError, OSError):
        values = read_json(folder / CONFIG)
        return isinstance(values, dict) and values.get("model_type") == "gpt2"
    return False


def read_config(values: Any, *, where: Path) -> GPT2Config:
    """Return the config of a config.json. Dropout stays 0: it is a setting of training. Raises UserError."""
    if not isinstance(values, dict) or values.get("model_type") != "gpt2":
        kind = values.get("model_type") if isinstance(values, dict) else None
        raise UserError(f"{where}: model_type is {kind!r}, not 'gpt2'")
    names = {key: key for key in ("vocab_size", "n_layer", "n_head", "n_embd")} | {"block_size": "n_positions"}
    sizes = {ours: values.get(theirs) for ours, theirs in names.items()}
    wrong = [f"{names[key]} is {size!r}" for key, size in sizes.items() if not _is_size(size)]
    wrong += [f"{key} is {values[key]!r}" for key, known in FIXED.items() if values.get(key, known[0]) not in known]
    if not wrong and values.get("n_inner") not in (None, 4 * values["n_embd"]):
        wrong.append(f"n_inner is {values['n_inner']}, not 4 n_embd")
    if wrong:
        raise UserError(f"{where} is not a GPT-2 that pealm has: {'; '.join(wrong)}")
    try:
        return GPT2Config(**sizes)  # type: ignore[arg-type]
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 < value <= LARGEST


def check_shapes(config: GPT2Config, shapes: Mapping[str, tuple[int, ...]], *, where: Path) -> None:
    """Compare shapes by our names with those of a config, before tensors are read. Raises UserError naming each."""
    if config.n_layer > len(shapes):  # before that many are made
        raise UserError(f"{where} does not fit: n_layer is {config.n_layer:,}, and it has {len(shapes)} tensors")
    with torch.device("meta"):
        own = {name: tuple(tensor.shape) for name, tensor in GPT2(config).state_dict().items()}
    own["wte.weight"] = (config.vocab_size, config.n_embd)
    wrong = [f"{name} is missing" for name in own if name not in shapes]
    own["lm_head.weight"] = own["wte.weight"]
    wrong += [f"{name} is not GPT-2's" for name in shapes if name not in own]
    wrong += [
        f"{name} is {shape} there and {own[name]} by its config"
        for name, shape in shapes.items()
        if name in own and shape != own[name]
    ]
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise UserError(f"{where} does not fit: {'; '.join(wrong[:3])}{more}")


def resize(state: Mapping[str, Tensor], *, vocab_size: int, block_size: int) -> dict[str, Tensor]:
    """Cut a state dict to a smaller vocabulary and block size; padding is zero."""
    tokens = state["wte.weight"][:vocab_size]
    tokens = F.pad(tokens, (0, 0, 0, padded(vocab_size) - len(tokens)))
    return {**state, "wte.weight": tokens, "wpe.weight": state["wpe.weight"][:block_size]}


def complete(config: GPT2Config, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of ours without padding of the vocabulary, and with biases, which others always have."""
    state = {**tensors, "wte.weight": tensors["wte.weight"][: config.vocab_size]}
    if not config.bias:
        weights = [name for name in state if name.endswith(".weight") and not name.startswith("w")]
        state |= {f"{name.removesuffix('weight')}bias": torch.zeros(len(state[name])) for name in weights}
    return state


def write_folder(folder: Path, config: GPT2Config, tensors: Mapping[str, Tensor], *, eot_id: int | None) -> None:
    """Write a state dict of ours as config.json, generation_config.json and model.safetensors. Raises OSError."""
    ends = {"bos_token_id": eot_id, "eos_token_id": eot_id}
    values = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.block_size,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "n_inner": None,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "initializer_range": 0.02,
        "dtype": "float32",
        **{key: known[0] for key, known in FIXED.items()},
        **ends,
    }
    write_json(folder / CONFIG, values)
    write_json(folder / "generation_config.json", {key: value for key, value in ends.items() if value is not None})
    state = complete(config, tensors)
    theirs = {
        PREFIX + name: (tensor.t() if name.endswith(TRANSPOSED) else tensor).float().contiguous()
        for name, tensor in state.items()
    }
    write_weights(folder, theirs)
