"""The settings of the character transformer."""

from dataclasses import dataclass

from pealm_core import setting


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of the transformer; vocab_size comes from the tokenizer."""

    vocab_size: int = setting(0, hidden=True)
    block_size: int = setting(128, "context length in tokens", at_least=1)
    n_layer: int = setting(4, "transformer blocks", at_least=1, at_most=10_000)
    n_head: int = setting(4, "attention heads in a block", at_least=1)
    n_embd: int = setting(128, "width", at_least=1, at_most=1_000_000)
    dropout: float = setting(0.0, "fraction of activations dropped in training", at_least=0, below=1)

    def __post_init__(self) -> None:
        if self.n_embd % self.n_head:
            fits = [n for n in range(1, self.n_embd + 1) if self.n_embd % n == 0]
            near = min(fits, key=lambda n: abs(n - self.n_head))
            raise ValueError(f"n-head {self.n_head} does not divide n-embd {self.n_embd}; try n-head {near}")
        if self.n_embd // self.n_head % 2:
            raise ValueError(
                f"n-embd {self.n_embd} over n-head {self.n_head} gives heads of {self.n_embd // self.n_head}; "
                f"rotary positions need an even number"
            )
