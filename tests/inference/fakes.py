"""Small models and parts for tests of the core."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    vocab_size: int = 7
    block_size: int = 8


class Uniform(nn.Module):
    """Every token is equally likely."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.zero = config, nn.Parameter(torch.zeros(()))

    def forward(self, idx: Tensor, targets: Tensor | None = None, *, cache: Any = None, at: Any = None) -> Any:
        idx = idx if at is None else idx[:, at]
        logits = self.zero.expand(*idx.shape, self.config.vocab_size)
        if targets is None:
            return logits, None
        return None, F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Table(nn.Module):
    """A fixed bigram: logits (V, V)."""

    def __init__(self, logits: Tensor, block_size: int = 8) -> None:
        super().__init__()
        self.config, self.table = Config(len(logits), block_size), nn.Parameter(logits)
        self.windows: list[list[int]] = []

    def forward(self, idx: Tensor, targets: Tensor | None = None, *, cache: Any = None, at: Any = None) -> Any:
        assert idx.shape[1] <= self.config.block_size
        self.windows.append(idx[0].tolist())
        return self.table[idx if at is None else idx[:, at]], None


class Chars:
    """Characters a, b, c, ... as 0, 1, 2, ..."""

    vocab_size = 7

    def encode(self, text: str) -> list[int]:
        return [ord(c) - 97 for c in text]

    def decode(self, ids: Any) -> str:
        return "".join(chr(97 + i) for i in ids)
