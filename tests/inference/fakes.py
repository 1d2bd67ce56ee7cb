"""Small models and parts for tests of the core."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pealm_core.inference.kv_cache import KVCache, causal_attention


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


class Attention(nn.Module):
    """One layer of attention with learned positions; it notes how much it was asked for."""

    cache_type: Any = None

    def __init__(self, vocab_size: int = 11, block_size: int = 24) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.config = Config(vocab_size, block_size)
        self.tokens, self.places = nn.Embedding(vocab_size, 8), nn.Embedding(block_size, 8)
        self.qkv, self.head = nn.Linear(8, 24), nn.Linear(8, vocab_size)
        self.seen, self.asked = 0, 0

    def forward(self, idx: Tensor, targets: Tensor | None = None, *, cache: Any = None, at: Any = None) -> Any:
        store: KVCache | None = cache.inner if cache else None
        (b, t), start = idx.shape, store.length if store else 0
        assert start + t <= self.config.block_size
        x = self.tokens(idx) + self.places.weight[start : start + t]
        q, k, v = self.qkv(x).view(b, t, 3, 2, 4).permute(2, 0, 3, 1, 4)
        if store is not None:
            k, v = store.append(0, k, v)
            store.advance(t)
        x = x + causal_attention(q, k, v).transpose(1, 2).reshape(b, t, 8)
        logits = self.head(x if at is None else x[:, at])
        self.seen += idx.numel()
        self.asked += logits.shape[0] * logits.shape[1]
        return logits * 5, None


class Attends(Attention):
    """The same with a cache of which it uses only positions, attend and advance, so that requests can be packed."""

    heads = 2  # of keys and values

    def forward(self, idx: Tensor, targets: Tensor | None = None, *, cache: Any = None, at: Any = None) -> Any:
        b, t = idx.shape
        x = self.tokens(idx) + (self.places.weight[:t] if cache is None else self.places(cache.positions(t)))
        q, k, v = self.qkv(x).view(b, t, 3, 2, 4).permute(2, 0, 3, 1, 4)
        k, v = k[:, : self.heads], v[:, : self.heads]
        y = causal_attention(q, k, v) if cache is None else cache.attend(0, q, k, v)
        if cache is not None:
            cache.advance(t)
        x = x + y.transpose(1, 2).reshape(b, t, 8)
        logits = self.head(x if at is None else x[:, at])
        self.seen += idx.numel()
        self.asked += logits.shape[0] * logits.shape[1]
        return logits * 5, None

    def make_cache(self, batch: int, length: int) -> Any:
        return KVCache(n_layer=1, batch=batch, n_head=self.heads, length=length, head_dim=4)


class Window(KVCache):
    """A cache that hides all but the last four tokens."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, dropout: float = 0.0) -> Tensor:
        keys, values = self.append(layer, k, v)
        t, s = q.shape[2], keys.shape[2]
        near = torch.ones(t, s, dtype=torch.bool).tril(s - t).triu(s - t - 3)
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=near)


class Windowed(Attends):
    """A model with it, whose requests can't be packed."""

    def forward(self, idx: Tensor, targets: Tensor | None = None, *, cache: Any = None, at: Any = None) -> Any:
        return super().forward(idx, targets, cache=cache or self.make_cache(len(idx), idx.shape[1]), at=at)

    def make_cache(self, batch: int, length: int) -> Any:
        return Window(n_layer=1, batch=batch, n_head=2, length=length, head_dim=4)
