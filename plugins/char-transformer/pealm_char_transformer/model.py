"""A decoder-only transformer: rotary positions, pre-LayerNorm, causal attention, GELU."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pealm_char_transformer.config import TransformerConfig
from pealm_core import KVCache, causal_attention

ROTARY_BASE = 1000.0  # the slowest pair of features turns once in about 6,000 positions


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021): turn each pair of features of x (B, H, T, D) by its position's angles.

    turns: the angles' cosines and sines, (2, T, D / 2), or of each row, (2, B, 1, T, D / 2).
    """
    a, b = x.chunk(2, dim=-1)  # (B, H, T, D / 2) each
    cos, sin = turns
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).type_as(x)


class Attention(nn.Module):
    """Multi-head causal self-attention."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.n_head, self.layer, self.dropout = config.n_head, layer, config.dropout
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd, bias=False)
        self.proj = nn.Linear(config.n_embd, config.n_embd, bias=False)

    def forward(self, x: Tensor, turns: Tensor, cache: KVCache | None) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        b, t, c = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.n_head, c // self.n_head).permute(2, 0, 3, 1, 4)  # (B, H, T, D)
        q, k = rotate(q, turns), rotate(k, turns)
        dropout = self.dropout if self.training else 0.0
        if cache is None:
            y = causal_attention(q, k, v, dropout=dropout)  # (B, H, T, D)
        else:
            y = cache.attend(self.layer, q, k, v, dropout=dropout)
        y = self.proj(y.transpose(1, 2).reshape(b, t, c))  # (B, T, C)
        return F.dropout(y, self.dropout, self.training)


class Block(nn.Module):
    """Attention, then a feed-forward layer, each on a residual path."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.n_embd)
        self.attention = Attention(config, layer)
        self.norm2 = nn.LayerNorm(config.n_embd)
        self.up = nn.Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.down = nn.Linear(4 * config.n_embd, config.n_embd, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, turns: Tensor, cache: KVCache | None) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        x = x + self.attention(self.norm1(x), turns, cache)
        x = x + self.dropout(self.down(F.gelu(self.up(self.norm2(x)))))
        return x


class Transformer(nn.Module):
    """Token embeddings, blocks, a last norm, and a head that gives logits."""

    turns: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = nn.LayerNorm(config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        half = config.n_embd // config.n_head // 2
        speeds = ROTARY_BASE ** (-torch.arange(half) / half)  # radians a position, (D / 2,)
        angles = torch.outer(torch.arange(config.block_size), speeds)
        self.register_buffer("turns", torch.stack([angles.cos(), angles.sin()]), persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                # Residual projections are scaled so that the sum over 2 n_layer of them keeps its variance (GPT-2).
                residual = name.endswith(("proj.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * config.n_layer) if residual else 0.02)

    def make_cache(self, batch: int, length: int) -> KVCache:
        """Room for `length` tokens in `batch` rows."""
        weight = self.tokens.weight
        return KVCache(
            n_layer=self.config.n_layer,
            batch=batch,
            n_head=self.config.n_head,
            length=length,
            head_dim=self.config.n_embd // self.config.n_head,
            device=weight.device,
            dtype=weight.dtype,
        )

    @property
    def layers(self) -> nn.ModuleList:
        """The residual blocks in order, for `LM.trace`."""
        return self.blocks

    def unembed(self, x: Tensor) -> Tensor:
        """(B, T, C) hidden states after a block to (B, T, V) logits."""
        logits: Tensor = self.head(self.norm(x))
        return logits

    def forward(
        self, idx: Tensor, targets: Tensor | None = None, *, cache: KVCache | None = None, at: Any = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """(B, T) ids to (B, n, V) logits at the positions `at`; with targets, the mean cross-entropy instead."""
        t = idx.shape[1]
        turns = self.turns[:, :t] if cache is None else self.turns[:, cache.positions(t), None].transpose(2, 3)
        x = F.dropout(self.tokens(idx), self.config.dropout, self.training)  # (B, T, C)
        for block in self.blocks:
            x = block(x, turns, cache)
        if cache is not None:
            cache.advance(t)
        logits = self.unembed(x if at is None else x[:, at])  # (B, n, V)
        if targets is None:
            return logits, None
        return None, F.cross_entropy(logits.flatten(0, 1), targets.flatten())
