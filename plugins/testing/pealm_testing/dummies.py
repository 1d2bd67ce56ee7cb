"""Simple components to test others with: a model with uniform predictions, a tokenizer of bytes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class UniformConfig:
    """The two settings that every model has."""

    vocab_size: int
    block_size: int = 64


class Uniform(nn.Module):
    """A model that predicts every token with equal probability, at a loss of `nats` per token."""

    def __init__(self, vocab_size: int, block_size: int = 64) -> None:
        super().__init__()
        self.config = UniformConfig(vocab_size, block_size)
        self.zero = nn.Parameter(torch.zeros(()))

    @property
    def nats(self) -> float:
        """The loss per token."""
        return math.log(self.config.vocab_size)

    def forward(
        self, idx: Tensor, targets: Tensor | None = None, *, cache: Any = None, at: Any = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """(B, T) ids to (B, n, V) equal logits; with targets, the mean cross-entropy instead."""
        idx = idx if at is None else idx[:, at]
        logits = self.zero.expand(*idx.shape, self.config.vocab_size)
        if targets is None:
            return logits, None
        return None, F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Small(nn.Module):
    """A model of an embedding and three linear layers, which sees one token of context."""

    def __init__(self, vocab_size: int, block_size: int) -> None:
        super().__init__()
        self.config = UniformConfig(vocab_size, block_size)
        self.tokens = nn.Embedding(vocab_size, 12)
        self.up, self.down = nn.Linear(12, 24), nn.Linear(24, 12)
        self.head = nn.Linear(12, vocab_size, bias=False)

    def forward(
        self, idx: Tensor, targets: Tensor | None = None, *, cache: Any = None, at: Any = None
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T) ids to (B, n, V) logits; with targets, also the mean cross-entropy."""
        x = self.tokens(idx if at is None else idx[:, at])
        logits = self.head(x + self.down(F.gelu(self.up(x))))
        return logits, None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Toy(nn.Module):
    """A small regression with a matrix, a bias and a frozen weight; `loss()` is quadratic."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        self.config = UniformConfig(vocab_size=11)
        self.linear = nn.Linear(8, 6)
        self.frozen = nn.Parameter(torch.ones(6), requires_grad=False)
        with torch.no_grad():
            self.linear.weight.copy_(normal(6, 8))
            self.linear.bias.copy_(normal(6))
        self.x = normal(64, 8)
        self.y = self.x @ normal(8, 6) + normal(6)

    def loss(self) -> Any:
        """The mean squared error."""
        return F.mse_loss(self.linear(self.x) * self.frozen, self.y)


class Texts:
    """A dataset of a few documents, the same ones for training and validation."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts

    def documents(self, split: str) -> Iterator[str]:
        """The documents."""
        return iter(self.texts)


class Bytes:
    """A tokenizer of UTF-8 bytes, with an end-of-text token and other special ones."""

    vocab_size = 257
    eot_id = 256

    def __init__(self, specials: Sequence[str] = ()) -> None:
        self.specials = {name: 257 + number for number, name in enumerate(specials)}
        self.vocab_size = 257 + len(specials)

    def encode(self, text: str) -> list[int]:
        """The bytes of a text."""
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        """The text of bytes; invalid UTF-8 becomes U+FFFD."""
        return bytes(i for i in map(int, ids) if i < 256).decode("utf-8", "replace")
