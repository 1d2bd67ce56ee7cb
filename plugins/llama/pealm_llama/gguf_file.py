"""GGUF, the format of llama.cpp: a model's weights in any precision as fp32, with Hugging Face's names.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; the tokenizer is in `gguf_vocabulary`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pealm_core import UserError
from pealm_llama.config import LlamaConfig
from pealm_llama.layout import LARGEST, check_shapes
from pealm_llama.model import rotary_speeds
from pealm_llama.names import fuse

FAMILIES = ("llama", "qwen2", "qwen3")
MAGIC = b"GGUF"
MOST_PARTS = 10_000_000  # numbers and texts in a header; the largest vocabularies have a million
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
    try:
        return path.is_file() and GGUF(path).family in FAMILIES
    except (UserError, OSError):
        return False


def _reader(path: Path) -> Any:
    """Return the gguf package's reader, which by itself does not notice where a file ends."""
    from gguf import GGUFReader

    class Checked(GGUFReader):
        parts = 0  # of the header

        def _get(self, offset: Any, dtype: Any, count: Any = 1, *args: Any, **kwargs: Any) -> Any:
            self.parts += 1
            if self.parts > MOST_PARTS or int(offset) + np.dtype(dtype).itemsize * int(count) > len(self.data):
                raise ValueError("a count or an offset in it is too large")
            return super()._get(offset, dtype, count, *args, **kwargs)

    return Checked(path)


class GGUF:
    """A file's settings by key and its tensors by name; nothing but the header is read. Raises UserError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if not path.is_file():
                raise ValueError("not a regular file" if path.exists() else "no such file")
            with path.open("rb") as file:
                if file.read(len(MAGIC)) != MAGIC:
                    raise ValueError("it is not GGUF")
            reader = _reader(path)
            self.fields: Mapping[str, Any] = reader.fields
            self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        except Exception as error:  # of a reader that trusts offsets and counts
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(f"{path} can't be read as GGUF, it may be truncated or damaged: {reason}") from None
        self.family = self.get("general.architecture")

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key; of one that starts with a dot, of the architecture's. Raises UserError."""
        field = self.fields.get(f"{self.family}{key}" if key.startswith(".") else key)
        try:
            return default if field is None else field.contents()
        except Exception as error:
            raise UserError(f"{self.path} can't be read as GGUF: {key}: {error!r}") from None

    def config(self) -> LlamaConfig:
        """Return the model's settings. Raises UserError that names all that our model lacks."""
        if self.family not in FAMILIES:
            raise UserError(f"{self.path}: its architecture is {self.family!r:.80}, not one of {', '.join(FAMILIES)}")
        heads, tokens = self.get(".attention.head_count"), self.tensors.get("token_embd.weight")
        sizes = {
            "block_size": self.get(".context_length"),
            "n_layer": self.get(".block_count"),
            "n_head": heads,
            "n_kv_head": self.get(".attention.head_count_kv", heads),
            "n_embd": self.get(".embedding_length"),
            "n_inner": self.get(".feed_forward_length"),
            "vocab_size": int(tokens.shape[-1]) if tokens is not None and len(tokens.shape) == 2 else None,
        }
        wrong = [f"{name} is {n!r:.80}" for name, n in sizes.items() if not (type(n) is int and 0 < n <= LARGEST)]
        wrong += [
            f"{key.removeprefix('.')} is {self.get(key)!r:.80}"
            for key in (".attention.sliding_window", ".expert_count", ".rope.scaling.type", ".logit_scale")
            if self.get(key) not in (None, 0, "none")
        ]
        eps, base = self.get(".attention.layer_norm_rms_epsilon"), self.get(".rope.freq_base", 10_000.0)
        if not (type(eps) is float and 0 < eps < 1 and type(base) is float and 1 < base < 1e12):
            wrong.append(f"layer_norm_rms_epsilon is {eps!r}, rope.freq_base is {base!r}")
        if wrong:
            raise UserError(f"{self.path} is not a model that pealm has: {'; '.join(wrong)}")
        width = self.get(".attention.key_length", sizes["n_embd"] // heads)
        if not (type(width) is int and 0 < width <= LARGEST and self.get(".rope.dimension_count", width) == width):
            raise UserError(f"{self.path} is not a model that pealm has: it turns only a part of each head, or none")
        settings: dict[str, Any] = {
            **sizes,
            "head_dim": None if width * heads == sizes["n_embd"] else width,
            "rope_base": float(f"{base:.7g}"),  # an fp32 number in the file
            "norm_eps": float(f"{eps:.7g}"),
            "qkv_bias": "blk.0.attn_q.bias" in self.tensors,
            "qk_norm": "blk.0.attn_q_norm.weight" in self.tensors,
            "tied": "output.weight" not in self.tensors,
        }
        try:
            config = LlamaConfig(**settings)
            if ROPE_TABLE not in self.tensors:
                return config
            table = self.tensor(ROPE_TABLE)
            scaled = LlamaConfig(**settings, **LLAMA3, rope_factor=float(f"{float(table.max()):.6g}"))
            if not torch.allclose(rotary_speeds(config) / rotary_speeds(scaled), table, rtol=1e-3):
                raise ValueError(f"its table {ROPE_TABLE} is not Llama 3's")
            return scaled
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{self.path}: {error}") from None

    def tensor(self, name: str) -> Tensor:
        """Return a tensor in fp32, in our order of dimensions. Raises UserError for a precision that is unknown."""
        from gguf.quants import dequantize

        tensor = self.tensors[name]
        try:
            values = dequantize(tensor.data, tensor.tensor_type).reshape([*map(int, tensor.shape[::-1])])
        except Exception as error:
            kind = tensor.tensor_type.name
            raise UserError(f"{self.path}: {name} can't be read as {kind}: {str(error) or repr(error)}") from None
        return torch.from_numpy(np.array(values, dtype=np.float32))  # a copy, which may be written to

    def weights(self, config: LlamaConfig) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors under Hugging Face's names."""
        for name in self.tensors:
            if name == ROPE_TABLE:
                continue
            tensor, (_, part) = self.tensor(name), _split(name)
            if self.family == "llama" and part in ("attn_q", "attn_k"):
                # llama.cpp turns neighbouring features there, and everybody else those half a head apart.
                heads = config.n_head if part == "attn_q" else config.kv_heads
                shape = (heads, -1, 2, *tensor.shape[1:])
                tensor = tensor.view(shape).transpose(1, 2).reshape(tensor.shape)
            yield _theirs(name), tensor


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


def read_gguf(path: Path) -> tuple[LlamaConfig, dict[str, Tensor]]:
    """Read config and state dict from a GGUF file. Raises UserError."""
    file = GGUF(path)
    config = file.config()
    shapes = {
        _theirs(name): tuple(map(int, tensor.shape[::-1]))
        for name, tensor in file.tensors.items()
        if name != ROPE_TABLE
    }
    check_shapes(config, shapes, where=path)
    return config, fuse(file.weights(config), tied=config.tied)
