"""The settings of GPT-2, and of OpenAI's weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pealm_core import setting


@dataclass(frozen=True)
class GPT2Config:
    """Sizes of GPT-2; vocab_size comes from the tokenizer."""

    vocab_size: int = setting(0, hidden=True)
    block_size: int = setting(1024, "context length in tokens", at_least=1)
    n_layer: int = setting(12, "transformer blocks", at_least=1, at_most=10_000)
    n_head: int = setting(12, "attention heads in a block", at_least=1)
    n_embd: int = setting(768, "width", at_least=1, at_most=1_000_000)
    dropout: float = setting(0.0, "fraction of activations dropped in training", at_least=0, below=1)
    bias: bool = setting(True, "biases in linear layers and norms, as OpenAI's weights have them")

    def __post_init__(self) -> None:
        if self.n_embd % self.n_head:
            fits = [n for n in range(1, self.n_embd + 1) if self.n_embd % n == 0]
            near = min(fits, key=lambda n: abs(n - self.n_head))
            raise ValueError(f"n-head {self.n_head} does not divide n-embd {self.n_embd}; try n-head {near}")


@dataclass(frozen=True)
class PretrainedConfig:
    """Which of OpenAI's weights to load; they decide the sizes."""

    vocab_size: int = setting(0, hidden=True)
    block_size: int = setting(1024, "context length in tokens, at most that of the weights", at_least=1)
    size: Literal["small", "medium", "large", "xl"] = setting("small", "which of OpenAI's four")
    path: Path | None = setting(None, "a local folder (config.json, model.safetensors) instead of a download")
    dropout: float = setting(0.0, "fraction of activations dropped in training", at_least=0, below=1)
