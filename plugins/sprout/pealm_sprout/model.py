"""A decoder-only transformer with what has proved itself in small models since GPT-2.

Embeddings of n-grams (Huang et al. 2025, "over-encoding"), a short convolution over embeddings (Fu et al. 2023,
Allen-Zhu 2025), rotary positions (Su et al. 2021), RMS norm without weights (Zhang and Sennrich 2019), QK-norm
(Henry et al. 2020), squared ReLU (So et al. 2021), zero-initialised projections, an untied head, a soft cap on the
logits (Gemma 2, 2024), value residual (Zhou et al. 2024) and a skip from the embedding (as in the modded-nanoGPT
speed runs).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pealm_core import IGNORE, KVCache, causal_attention
from pealm_sprout.config import SproutConfig
from pealm_sprout.ops import dropout, norm, rotate, squared_relu

HASH = 1_000_003  # a prime
ROTARY_BASE = 1000.0  # the slowest pair of features turns once in about 6,000 positions


@dataclass
class Cache:
    """The keys and values of attention, and the last tokens (B, n or more), which the next n-grams begin with."""

    attention: KVCache
    recent: Tensor

    def repeat(self, n: int) -> "Cache":
        """A cache in which every row became n rows."""
        return Cache(self.attention.repeat(n), self.recent.repeat_interleave(n, dim=0))

    def select(self, rows: Tensor) -> "Cache":
        """A cache of some rows, some of them several times."""
        return Cache(self.attention.select(rows), self.recent[rows])

    def join(self, others: Sequence["Cache"]) -> "Cache":
        """A cache of the rows of this one and of others, which may have read different numbers of tokens."""
        caches = [self, *others]
        shortest = min(cache.recent.shape[1] for cache in caches)
        recent = torch.cat([cache.recent[:, cache.recent.shape[1] - shortest :] for cache in caches])
        return Cache(self.attention.join([cache.attention for cache in others]), recent)

    def cut(self, tokens: int) -> None:
        """Forget the last tokens of every row."""
        self.attention.cut(tokens)
        self.recent = self.recent[:, : self.recent.shape[1] - tokens]


class NGrams(nn.Module):
    """Each pair of tokens, each triple and so on has an embedding of its own, or shares one with others of its hash.

    So the model knows from the start what follows them, which attention and feed-forward layers take long to learn.
    In training, a fraction of these embeddings is dropped, so that the model does not only memorize what follows.
    """

    def __init__(self, config: SproutConfig) -> None:
        super().__init__()
        self.rows, self.dropout = config.ngram_rows, config.ngram_dropout
        self.tables = nn.ModuleList(nn.Embedding(config.ngram_rows, config.n_embd) for _ in range(config.ngram - 1))

    def forward(self, idx: Tensor, recent: Tensor) -> tuple[list[Tensor], Tensor]:
        """From each table an embedding (B, T, C), and the tokens so far.

        idx: (B, T) ids; recent: the n tokens (B, n) before them or more, -1 where there are none.
        """
        (n, t), found = (recent.shape[1], idx.shape[1]), list[Tensor]()
        seen, code = torch.cat([recent, idx], dim=1), idx
        for back, table in enumerate(self.tables, start=1):
            code = (code * HASH + seen[:, n - back : n - back + t] + 1) % self.rows
            found.append(F.dropout1d(table(code), self.dropout, self.training))  # embeddings as a whole
        return found, seen


class Attention(nn.Module):
    """Multi-head causal self-attention."""

    def __init__(self, config: SproutConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        c = config.n_embd
        self.qkv = nn.Parameter(torch.empty(3, c, c))
        self.proj = nn.Linear(c, c, bias=False)
        if config.qk_norm:
            self.temperature = nn.Parameter(torch.empty(config.n_head, 1))
        if config.value_residual and layer:
            self.share = nn.Parameter(torch.empty(1))

    def forward(
        self, x: Tensor, turns: Tensor | None, first: Tensor | None, cache: KVCache | None
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T, C) to (B, T, C), and the values (B, T, H, D) if `first`, those of the first layer, are mixed in."""
        config, (b, t, c) = self.config, x.shape
        qkv = F.linear(x, self.qkv.flatten(0, 1)).view(b, t, 3, config.n_head, c // config.n_head)
        qk, v = qkv[:, :, :2], qkv[:, :, 2]  # (B, T, 2, H, D) and (B, T, H, D)
        if config.qk_norm:
            qk = norm(qk)
        if turns is not None:
            qk = rotate(qk, *turns)
        q, k = qk.unbind(2)
        if config.qk_norm:
            q = q * self.temperature
        if first is not None:
            v = torch.lerp(v, first, self.share.type_as(v))
        own = v if config.value_residual else None
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, T, D)
        y = causal_attention(q, k, v) if cache is None else cache.attend(self.layer, q, k, v)
        return self.proj(y.transpose(1, 2).reshape(b, t, c)), own


class Block(nn.Module):
    """Attention, then a feed-forward layer, each on a residual path."""

    def __init__(self, config: SproutConfig, layer: int) -> None:
        super().__init__()
        self.config = config
        self.attention = Attention(config, layer)
        self.up = nn.Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.down = nn.Linear(4 * config.n_embd, config.n_embd, bias=False)
        if config.embedding_skip:
            self.skip = nn.Parameter(torch.empty(2))

    def forward(
        self, x: Tensor, start: Tensor, turns: Tensor | None, first: Tensor | None, cache: KVCache | None
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T, C) to (B, T, C), and the attention's values; start: the embeddings that the first layer got."""
        if self.config.embedding_skip:
            x = self.skip[0] * x + self.skip[1] * start
        y, values = self.attention(norm(x), turns, first, cache)
        x = x + self._drop(y)
        hidden = self.up(norm(x))
        hidden = squared_relu(hidden) if self.config.squared_relu else F.gelu(hidden)
        return x + self._drop(self.down(hidden)), values

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.config.dropout, self.training)


def rotary_turns(config: SproutConfig) -> Tensor:
    """Return the cosines and sines of the angles by position (2, T, 1, 1, D / 2)."""
    half = config.n_embd // config.n_head // 2
    turned = max(1, round(half * config.rotary_fraction))
    speeds = ROTARY_BASE ** (-torch.arange(half) / turned)  # radians a position, (D / 2,)
    speeds[turned:] = 0
    angles = torch.outer(torch.arange(config.block_size), speeds)[:, None, None]  # (T, 1, 1, D / 2)
    return torch.stack([angles.cos(), angles.sin()])


class Sprout(nn.Module):
    """Token embeddings, blocks, a last norm, and a head that gives capped logits."""

    turns: Tensor

    def __init__(self, config: SproutConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.n_embd)
        self.ngrams = NGrams(config)
        if config.smear > 1:  # as a convolution for each feature
            self.smear = nn.Parameter(torch.empty(config.n_embd, 1, config.smear - 1))
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if not config.untied:
            self.head.weight = self.tokens.weight
        if config.ahead:
            self.second = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.rotary:
            self.register_buffer("turns", rotary_turns(config), persistent=False)
        else:
            self.positions = nn.Embedding(config.block_size, config.n_embd)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Set all parameters and buffers to their initial values."""
        config, head_dim = self.config, self.config.n_embd // self.config.n_head
        for name, parameter in self.named_parameters(remove_duplicate=False):
            if name.endswith("temperature"):
                nn.init.constant_(parameter, head_dim**0.5 / 2)
            elif name.endswith("share"):
                nn.init.constant_(parameter, 0.5)
            elif name.endswith("skip"):
                nn.init.zeros_(parameter)[0] = 1
            elif name.startswith("ngrams"):  # so that one that was rarely seen, or never, adds little
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=config.n_embd**-0.5)
                if name.endswith(("proj.weight", "down.weight")) and config.zero_init:
                    nn.init.zeros_(parameter)
        if config.smear > 1:  # 0.1, as other weights have it, learns to look things up much later
            nn.init.normal_(self.smear, std=0.4)
        if config.ahead:
            nn.init.zeros_(self.second.weight)
        if config.untied:
            nn.init.zeros_(self.head.weight)
        else:
            nn.init.normal_(self.tokens.weight, std=0.02)
        if config.rotary:
            self.turns.copy_(rotary_turns(config))

    def muon_parameters(self) -> Iterator[nn.Parameter]:
        """Every matrix of the blocks."""
        return (p for name, p in self.blocks.named_parameters() if p.dim() >= 2 and not name.endswith("temperature"))

    def make_cache(self, batch: int, length: int) -> Cache:
        """Room for `length` tokens in `batch` rows."""
        weight = self.tokens.weight
        attention = KVCache(
            n_layer=self.config.n_layer,
            batch=batch,
            n_head=self.config.n_head,
            length=length,
            head_dim=self.config.n_embd // self.config.n_head,
            device=weight.device,
            dtype=weight.dtype,
        )
        return Cache(attention, self._nothing(batch))

    def _nothing(self, batch: int) -> Tensor:
        """What comes before the first token."""
        return torch.full(
            (batch, max(self.config.ngram, self.config.smear) - 1), -1, device=self.tokens.weight.device
        )

    def _embedded(self, idx: Tensor, seen: Tensor) -> Tensor:
        """The embeddings (B, T, C) of tokens, each with a weighted sum of those just before it; seen: all so far."""
        x: Tensor
        if not (back := self.config.smear - 1):
            x = self.tokens(idx)
            return x
        tokens = seen[:, seen.shape[1] - idx.shape[1] - back :]
        x = self.tokens(tokens.clamp_min(0)) * (tokens >= 0)[..., None]  # -1: nothing stands there
        before = F.conv1d(x[:, :-1].transpose(1, 2), self.smear, groups=self.config.n_embd)
        return x[:, back:] + before.transpose(1, 2)

    @property
    def layers(self) -> nn.ModuleList:
        """The residual blocks in order, for `LM.trace`."""
        return self.blocks

    def forward(
        self, idx: Tensor, targets: Tensor | None = None, *, cache: Cache | None = None, at: Any = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """(B, T) ids to (B, n, V) logits at the positions `at`; with targets, the mean cross-entropy instead."""
        kv, (b, t) = cache.attention if cache is not None else None, idx.shape
        ngrams, recent = self.ngrams(idx, cache.recent if cache is not None else self._nothing(b))
        x = sum(ngrams, start=self._embedded(idx, recent))  # (B, T, C)
        places: Any = slice(t) if kv is None else kv.positions(t)  # (B, T) in a cache
        turns = self.turns[:, places] if self.config.rotary else None
        if turns is None:
            x = x + self.positions.weight[places]
        x = dropout(norm(x), self.config.dropout, self.training)
        embedded, first = x, None
        for block in self.blocks:
            x, values = block(x, embedded, turns, first, kv)
            first = values if first is None else first
        if cache is not None:
            cache.attention.advance(t)
            cache.recent = recent
        if targets is None:
            return self.unembed(x if at is None else x[:, at]), None
        later = self._later(x, targets) if self.config.ahead and self.training else 0.0
        x, targets = x.flatten(0, 1), targets.flatten()
        if x.device.type == "cpu" and (scored := targets != IGNORE).sum() < len(targets) // 2:
            x, targets = x[scored], targets[scored]  # the head is a third of a small model's work
        return None, F.cross_entropy(self.unembed(x), targets) + later

    def _later(self, x: Tensor, targets: Tensor) -> Tensor:
        """(B, T, C) and targets (B, T) to the weighted loss of the tokens after the next ones; 0 if none is scored.

        Multi-token prediction, Gloeckle et al. 2024.
        """
        logits, wanted = self.second(norm(x[:, :-1])).flatten(0, 1), targets[:, 1:].flatten()
        total = F.cross_entropy(logits, wanted, reduction="sum")
        return self.config.ahead * total / (wanted != IGNORE).sum().clamp(min=1)

    def unembed(self, x: Tensor) -> Tensor:
        """(..., C) hidden states after a block to (..., V) logits."""
        logits: Tensor = self.head(norm(x))
        if self.config.softcap:
            logits = self.config.softcap * torch.tanh(logits / self.config.softcap)
        return logits
