"""A decoder-only transformer: learned positions, pre-LayerNorm, causal attention, GELU."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pealm_char_transformer.config import TransformerConfig
from pealm_core import KVCache, causal_attention


class Attention(nn.Module):
    """Multi-head causal self-attention."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.n_head, self.layer, self.dropout = config.n_head, layer, config.dropout
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd, bias=False)
        self.proj = nn.Linear(config.n_embd, config.n_embd, bias=False)

    def forward(self, x: Tensor, cache: KVCache | None) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        b, t, c = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.n_head, c // self.n_head).permute(2, 0, 3, 1, 4)  # (B, H, T, C/H)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)
        y = causal_attention(q, k, v, dropout=self.dropout if self.training else 0.0)
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

    def forward(self, x: Tensor, cache: KVCache | None) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        x = x + self.attention(self.norm1(x), cache)
        x = x + self.dropout(self.down(F.gelu(self.up(self.norm2(x)))))
        return x


class Transformer(nn.Module):
    """Token and position embeddings, blocks, a last norm, and a head that gives logits."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.n_embd)
        self.positions = nn.Embedding(config.block_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = nn.LayerNorm(config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                # Residual projections are scaled so that the sum over 2 n_layer of them keeps its variance (GPT-2).
                residual = name.endswith(("proj.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * config.n_layer) if residual else 0.02)

    def make_cache(self, batch: int, length: int) -> KVCache:
        """Room for `length` tokens in `batch` rows."""
        c = self.config
        weight = self.tokens.weight
        head_dim = c.n_embd // c.n_head
        return KVCache(
            n_layer=c.n_layer,
            batch=batch,
            n_head=c.n_head,
            length=length,
            head_dim=head_dim,
            device=weight.device,
            dtype=weight.dtype,
        )

    def forward(
        self, idx: Tensor, targets: Tensor | None = None, *, cache: KVCache | None = None, at: Any = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """(B, T) ids to (B, n, V) logits at the positions `at`; with targets, the mean cross-entropy instead."""
        start = cache.length if cache is not None else 0
        positions = torch.arange(start, start + idx.shape[1], device=idx.device)
        x = self.tokens(idx) + self.positions(positions)  # (B, T, C)
        x = F.dropout(x, self.config.dropout, self.training)
        for block in self.blocks:
            x = block(x, cache)
        if cache is not None:
            cache.advance(idx.shape[1])
        x = self.norm(x if at is None else x[:, at])
        logits = self.head(x)
        if targets is None:
            return logits, None
        return None, F.cross_entropy(logits.flatten(0, 1), targets.flatten())
