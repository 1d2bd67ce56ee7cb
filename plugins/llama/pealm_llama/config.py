"""The settings of the Llama family, and of published weights."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pealm_core import depth_preset as plain_preset
from pealm_core import setting


def depth_preset(depth: int) -> dict[str, Any]:
    """Return the preset of `--depth`, with as many heads of keys and values as of queries."""
    return plain_preset(depth) | {"n_kv_head": None}


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes of a model of the Llama family; vocab_size comes from the tokenizer. The defaults are SmolLM2-135M's."""

    vocab_size: int = setting(0, hidden=True)
    block_size: int = setting(2048, "context length in tokens", at_least=1)
    n_layer: int = setting(30, "transformer blocks", at_least=1, at_most=10_000)
    n_head: int = setting(9, "attention heads in a block", at_least=1, at_most=100_000)
    n_kv_head: int | None = setting(3, "heads of keys and values; none: as many as n-head", at_least=1)
    n_embd: int = setting(576, "width", at_least=1, at_most=1_000_000)
    n_inner: int | None = setting(
        None, "width of the feed-forward layers; none: 8/3 n-embd", at_least=1, at_most=10_000_000
    )
    head_dim: int | None = setting(None, "width of a head, even; none: n-embd / n-head", at_least=2, at_most=100_000)
    rope_base: float = setting(100_000.0, "base of the rotary positions' wavelengths", above=1)
    rope_factor: float = setting(1.0, "how much Llama 3 stretches long wavelengths; 1: not", at_least=1)
    rope_low: float = setting(1.0, "Llama 3: wavelengths above rope-original / this are stretched", above=0)
    rope_high: float = setting(4.0, "Llama 3: wavelengths below rope-original / this are kept", above=0)
    rope_original: int = setting(8192, "Llama 3: context length before stretching", at_least=1)
    norm_eps: float = setting(1e-5, "added to the mean square in the norms", above=0)
    qkv_bias: bool = setting(False, "biases of queries, keys and values, as in Qwen2")
    qk_norm: bool = setting(False, "norms of queries and keys, as in Qwen3")
    tied: bool = setting(True, "the head is the token embedding")

    def __post_init__(self) -> None:
        if self.n_head % self.kv_heads:
            raise ValueError(f"n-kv-head {self.kv_heads} does not divide n-head {self.n_head}")
        if self.head_dim is None and self.n_embd % (2 * self.n_head):
            raise ValueError(
                f"n-embd {self.n_embd} is not an even multiple of n-head {self.n_head}; change one of them, "
                f"or set head-dim"
            )
        if self.width % 2:
            raise ValueError(f"head-dim {self.head_dim} is odd, and rotary positions turn pairs")
        if self.rope_factor > 1 and self.rope_high <= self.rope_low:
            raise ValueError(f"rope-high {self.rope_high:g} must be above rope-low {self.rope_low:g}")

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.n_kv_head or self.n_head

    @property
    def width(self) -> int:
        """Width of a head."""
        return self.head_dim or self.n_embd // self.n_head

    @property
    def inner(self) -> int:
        """Width of the feed-forward layers: a multiple of 64 that is at least 8/3 of n_embd, if none is set."""
        return self.n_inner or 64 * math.ceil(self.n_embd / 24)


@dataclass(frozen=True)
class PretrainedConfig:
    """Which published weights to load; they decide the sizes."""

    vocab_size: int = setting(0, hidden=True)
    block_size: int = setting(2048, "context length in tokens, at most that of the weights", at_least=1)
    repo: str | None = setting(
        "HuggingFaceTB/SmolLM2-135M-Instruct", "a repository of the Hugging Face hub", excludes="path"
    )
    revision: str = setting("main", "its branch, tag or commit")
    path: Path | None = setting(
        None, "a local folder (config.json, model.safetensors) or .gguf file instead", excludes="repo"
    )
