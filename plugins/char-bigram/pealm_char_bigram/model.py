"""The bigram model: the next token's logits are a row of a table."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from pealm_char_bigram.config import BigramConfig


class Bigram(nn.Module):
    """A (vocab_size, vocab_size) embedding: row i holds the logits of what follows token i."""

    def __init__(self, config: BigramConfig) -> None:
        super().__init__()
        self.config = config
        self.table = nn.Embedding(config.vocab_size, config.vocab_size)

    def forward(
        self, idx: Tensor, targets: Tensor | None = None, *, cache: Any = None, at: Any = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """(B, T) ids to (B, T, V) logits; with targets, the mean cross-entropy in nats instead."""
        if at is not None:
            idx = idx[:, at]
        logits = self.table(idx)  # (B, T, V)
        if targets is None:
            return logits, None
        return None, F.cross_entropy(logits.flatten(0, 1), targets.flatten())
