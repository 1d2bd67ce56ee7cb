"""A recurrent language model: each layer's state is all that it keeps of the past."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pealm_rnn.config import RNNConfig


@dataclass
class State:
    """The cache: every layer's state, (n_layer, B, C). Its size does not depend on how many tokens it has seen."""

    h: Tensor

    def repeat(self, n: int) -> "State":
        """A state in which every row became n rows."""
        return State(self.h.repeat_interleave(n, dim=1))

    def join(self, others: Sequence["State"]) -> "State":
        """A state of the rows of this one and of others, which may have read different numbers of tokens."""
        return State(torch.cat([self.h, *(other.h for other in others)], dim=1))

    def select(self, rows: Tensor) -> "State":
        """The state of some rows, for scoring several continuations of several contexts in one pass."""
        return State(self.h[:, rows])


class RNN(nn.Module):
    """Token embeddings, GRU layers (Cho et al. 2014), a norm, and a head that gives logits."""

    def __init__(self, config: RNNConfig) -> None:
        super().__init__()
        self.config = config
        c = config.n_embd
        self.tokens = nn.Embedding(config.vocab_size, c)
        dropout = config.dropout if config.n_layer > 1 else 0.0  # nn.GRU drops between layers only
        self.gru = nn.GRU(c, c, config.n_layer, batch_first=True, dropout=dropout)
        self.norm = nn.LayerNorm(c)
        self.head = nn.Linear(c, config.vocab_size, bias=False)
        nn.init.normal_(self.head.weight, std=0.02)

    def make_cache(self, batch: int, length: int) -> State:
        """The state before the first token; `length` does not matter to it."""
        weight = self.tokens.weight
        shape = (self.config.n_layer, batch, self.config.n_embd)
        return State(torch.zeros(shape, device=weight.device, dtype=weight.dtype))

    def forward(
        self, idx: Tensor, targets: Tensor | None = None, *, cache: State | None = None, at: Any = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """(B, T) ids to (B, n, V) logits at the positions `at`; with targets, the mean cross-entropy instead."""
        x = self.tokens(idx)  # (B, T, C)
        y, h = self.gru(x, None if cache is None else cache.h.to(x.dtype))  # (B, T, C), (n_layer, B, C)
        if cache is not None:
            cache.h = h
        x = F.dropout(x + y, self.config.dropout, self.training)
        logits = self.head(self.norm(x if at is None else x[:, at]))  # (B, n, V)
        if targets is None:
            return logits, None
        return None, F.cross_entropy(logits.flatten(0, 1), targets.flatten())
