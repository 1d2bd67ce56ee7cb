"""The settings of sprout."""

from dataclasses import dataclass
from typing import Any

from pealm_core import depth_preset as plain_preset
from pealm_core import setting


def depth_preset(depth: int) -> dict[str, Any]:
    """Return the preset of `--depth`. Its rate is that of AdamW's part: Muon's is the recipe's at each width."""
    preset = plain_preset(depth)
    rate = preset["train"].pop("lr")
    return preset | {"optimizer": {"name": "muon", "adam_lr": rate}}


@dataclass(frozen=True)
class SproutConfig:
    """Sizes, and one switch for each technique; vocab_size comes from the tokenizer."""

    vocab_size: int = setting(0, hidden=True)
    block_size: int = setting(128, "context length in tokens", at_least=1)
    n_layer: int = setting(4, "transformer blocks", at_least=1, at_most=10_000)
    n_head: int = setting(4, "attention heads in a block", at_least=1)
    n_embd: int = setting(128, "width", at_least=1, at_most=1_000_000)
    dropout: float = setting(0.0, "fraction of activations dropped in training", at_least=0, below=1)
    rotary: bool = setting(True, "rotary positions, else learned ones")
    rotary_fraction: float = setting(
        1.0,
        "fraction of a head's features that rotary positions turn; the rest compare content alone",
        above=0,
        at_most=1,
    )
    qk_norm: bool = setting(True, "queries and keys of equal length, with a learned temperature per head")
    squared_relu: bool = setting(True, "squared ReLU in the feed-forward layers, else GELU")
    zero_init: bool = setting(True, "residual projections start at zero, else small and random")
    untied: bool = setting(True, "a head of its own, else the embedding's weights")
    softcap: float = setting(0.0, "logits stay within plus and minus this; 0: no limit", at_least=0)
    ngram: int = setting(1, "tokens that the embedding sees: 2 adds a table of pairs, 3 one of triples", at_least=1)
    ngram_rows: int = setting(8192, "rows of each such table; pairs and triples find theirs by a hash", at_least=1)
    ngram_dropout: float = setting(
        0.0, "fraction of the embeddings of pairs, triples and so on dropped in training", at_least=0, below=1
    )
    smear: int = setting(
        1,
        "tokens whose embeddings a position adds up: its own and those just before it, each feature with a weight",
        at_least=1,
    )
    ahead: float = setting(
        0.0, "weight in training of the loss of the token after the next one, from a head of its own", at_least=0
    )
    value_residual: bool = setting(False, "each layer's values are mixed with the first layer's")
    embedding_skip: bool = setting(False, "each layer's input is mixed with the embedding")

    def __post_init__(self) -> None:
        if self.n_embd % self.n_head:
            fits = [n for n in range(1, self.n_embd + 1) if self.n_embd % n == 0]
            near = min(fits, key=lambda n: abs(n - self.n_head))
            raise ValueError(f"n-head {self.n_head} does not divide n-embd {self.n_embd}; try n-head {near}")
        if self.rotary and self.n_embd // self.n_head % 2:
            raise ValueError(
                f"n-embd {self.n_embd} over n-head {self.n_head} gives heads of {self.n_embd // self.n_head}; "
                f"rotary positions need an even number"
            )
