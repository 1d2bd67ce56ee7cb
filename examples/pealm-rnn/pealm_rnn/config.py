"""The settings of the recurrent model."""

from dataclasses import dataclass

from pealm_core import setting


@dataclass(frozen=True)
class RNNConfig:
    """Sizes; vocab_size comes from the tokenizer."""

    vocab_size: int = setting(0, hidden=True)
    block_size: int = setting(128, "tokens that a gradient goes back through", at_least=1)
    n_layer: int = setting(2, "recurrent layers", at_least=1)
    n_embd: int = setting(128, "width", at_least=1)
    dropout: float = setting(0.0, "fraction of activations dropped in training", at_least=0, below=1)
