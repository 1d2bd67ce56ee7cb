"""The settings of the bigram model."""

from dataclasses import dataclass

from pealm_core import setting


@dataclass(frozen=True)
class BigramConfig:
    """The table's size comes from the tokenizer; the block only sets how text is cut into training rows."""

    vocab_size: int = setting(0, hidden=True)
    block_size: int = setting(64, "tokens in a row of training text", at_least=1)
