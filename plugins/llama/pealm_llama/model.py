"""The Llama family (Touvron et al. 2023): RMS norm, rotary positions, grouped-query attention, SwiGLU.

With its settings it is also SmolLM2, Llama 3, Mistral without a sliding window, Qwen2 (`qkv_bias`) and Qwen3
(`qk_norm`). Parameters have Hugging Face's names, but queries, keys and values are one matrix, as are gate and up.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pealm_core import KVCache, causal_attention, head_loss
from pealm_llama.config import LlamaConfig
from pealm_llama.names import fuse


def rotary_speeds(config: LlamaConfig) -> Tensor:
    """Radians by which each pair of features turns from one position to the next, (D / 2,) (Su et al. 2021).

    Llama 3 divides the speed of slow pairs by rope_factor, keeps that of fast ones, and interpolates in between.
    """
    d = config.width
    speeds = 1.0 / config.rope_base ** (torch.arange(0, d, 2, dtype=torch.int64).float() / d)
    if config.rope_factor == 1:
        return speeds
    turns = config.rope_original * speeds / (2 * math.pi)  # in the context length before stretching
    kept = ((turns - config.rope_low) / (config.rope_high - config.rope_low)).clamp(0, 1)
    return speeds * (kept + (1 - kept) / config.rope_factor)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of features (i, i + D / 2) by its angle: x (B, T, H, D); cos, sin ([B,] T, 1, D / 2)."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Attention(nn.Module):
    """Causal self-attention in which n_head / n_kv_head adjacent queries share a key and value."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.h, self.kv, self.d = layer, config.n_head, config.kv_heads, config.width
        self.qkv_proj = nn.Linear(config.n_embd, (self.h + 2 * self.kv) * self.d, bias=config.qkv_bias)
        self.o_proj = nn.Linear(self.h * self.d, config.n_embd, bias=False)
        self.q_norm = nn.RMSNorm(self.d, config.norm_eps) if config.qk_norm else None
        self.k_norm = nn.RMSNorm(self.d, config.norm_eps) if config.qk_norm else None

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: KVCache | None) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        b, t, _ = x.shape
        qkv = self.qkv_proj(x).view(b, t, self.h + 2 * self.kv, self.d)
        qk, v = torch.split(qkv, [self.h + self.kv, self.kv], dim=2)  # (B, T, H + KV, D), (B, T, KV, D)
        if self.q_norm is not None and self.k_norm is not None:
            qk = qk.type_as(self.q_norm.weight)  # under autocast, norms are computed in fp32
            qk = torch.cat((self.q_norm(qk[:, :, : self.h]), self.k_norm(qk[:, :, self.h :])), dim=2)
        q, k = torch.split(rotate(qk, cos, sin).type_as(v), [self.h, self.kv], dim=2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, T, D), (B, KV, T, D) twice
        y = causal_attention(q, k, v) if cache is None else cache.attend(self.layer, q, k, v)  # (B, H, T, D)
        out: Tensor = self.o_proj(y.transpose(1, 2).reshape(b, t, -1))  # (B, T, C)
        return out


class MLP(nn.Module):
    """A feed-forward layer whose inner activations are gated: SwiGLU (Shazeer 2020)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(config.n_embd, 2 * config.inner, bias=False)
        self.down_proj = nn.Linear(config.inner, config.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        y: Tensor = self.down_proj(F.silu(gate) * up)
        return y


class Block(nn.Module):
    """Attention, then the feed-forward layer, each on a residual path after a norm."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.n_embd, config.norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = nn.RMSNorm(config.n_embd, config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: KVCache | None, at: Any = None) -> Tensor:
        """(B, T, C) to (B, n, C): the positions `at`, by default all."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, cache)
        x = x if at is None else x[:, at]
        x = x + self.mlp(self.post_attention_layernorm(x))
        return x


class Llama(nn.Module):
    """Token embeddings, blocks, a last norm, and a head, which may be the token embedding."""

    speeds: Tensor

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.n_embd)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = nn.RMSNorm(config.n_embd, config.norm_eps)
        self.lm_head = None if config.tied else nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.register_buffer("speeds", rotary_speeds(config), persistent=False)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Set all parameters and buffers to their initial values."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                # Residual projections are scaled so that the sum over 2 n_layer of them keeps its variance.
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.config.n_layer) if residual else 0.02)
            else:
                nn.init.constant_(parameter, 0 if name.endswith("bias") else 1)
        self.speeds.copy_(rotary_speeds(self.config))

    def adapt_weights(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict with Hugging Face's names as ours. Raises ValueError if it does not fit."""
        return fuse(tensors.items(), tied=self.config.tied)

    def make_cache(self, batch: int, length: int) -> KVCache:
        """Room for `length` tokens in `batch` rows."""
        weight = self.embed_tokens.weight
        return KVCache(
            n_layer=self.config.n_layer,
            batch=batch,
            n_head=self.config.kv_heads,
            length=length,
            head_dim=self.config.width,
            device=weight.device,
            dtype=weight.dtype,
        )

    def unembed(self, x: Tensor) -> Tensor:
        """(B, T, C) hidden states after a block to (B, T, V) logits."""
        return F.linear(self.norm(x), self._head().weight)

    def forward(
        self, idx: Tensor, targets: Tensor | None = None, *, cache: KVCache | None = None, at: Any = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """(B, T) ids to (B, n, V) logits at the positions `at`; with targets, the mean cross-entropy instead."""
        t = idx.shape[1]
        positions = torch.arange(t, device=idx.device) if cache is None else cache.positions(t)
        angles = positions.float()[..., None, None] * self.speeds  # ([B,] T, 1, D / 2)
        cos, sin = angles.cos(), angles.sin()
        x = self.embed_tokens(idx)  # (B, T, C)
        for block in self.layers:
            x = block(x, cos, sin, cache, at if block is self.layers[-1] else None)  # at last (B, n, C)
        if cache is not None:
            cache.advance(t)
        if targets is None:
            return self.unembed(x), None
        return None, head_loss(self.norm(x), self._head().weight, None, targets)

    def _head(self) -> nn.Embedding | nn.Linear:
        return self.embed_tokens if self.lm_head is None else self.lm_head
