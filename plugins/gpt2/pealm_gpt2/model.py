"""GPT-2 (Radford et al. 2019): learned positions, pre-LayerNorm, causal attention, tanh-GELU, tied head.

Parameters have GPT-2's own names. All weights are (out, in), as `nn.Linear` has them.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pealm_core import KVCache, causal_attention, head_loss
from pealm_gpt2.config import GPT2Config

ROWS = 128  # the embedding's rows are a multiple of it: matrix products of such widths are faster on GPUs

MASKS = (".attn.bias", ".attn.masked_bias")  # causal masks in older files, not weights


def padded(vocab_size: int) -> int:
    """Rows of the embedding for a vocabulary.

    >>> padded(50257)
    50304
    """
    return math.ceil(vocab_size / ROWS) * ROWS


class Attention(nn.Module):
    """Multi-head causal self-attention."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.n_head, self.layer, self.dropout = config.n_head, layer, config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor, cache: KVCache | None) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        b, t, c = x.shape
        q, k, v = self.c_attn(x).view(b, t, 3, self.n_head, c // self.n_head).permute(2, 0, 3, 1, 4)  # (B, H, T, D)
        dropout = self.dropout if self.training else 0.0
        if cache is None:
            y = causal_attention(q, k, v, dropout=dropout)  # (B, H, T, D)
        else:
            y = cache.attend(self.layer, q, k, v, dropout=dropout)
        y = self.c_proj(y.transpose(1, 2).reshape(b, t, c))  # (B, T, C)
        return F.dropout(y, self.dropout, self.training)


class MLP(nn.Module):
    """A feed-forward layer, four times as wide inside."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        x = self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))
        return F.dropout(x, self.dropout, self.training)


class Block(nn.Module):
    """Attention, then a feed-forward layer, each on a residual path."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attn = Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cache: KVCache | None, at: Any = None) -> Tensor:
        """(B, T, C) to (B, n, C): the positions `at`, by default all."""
        x = x + self.attn(self.ln_1(x), cache)
        x = x if at is None else x[:, at]
        x = x + self.mlp(self.ln_2(x))
        return x


class GPT2(nn.Module):
    """Token and position embeddings, blocks and a final norm; the head is tied to the token embedding.

    The embedding has rows beyond the vocabulary. They are zero and stay so: their logits are -inf in the loss, so
    that no gradient reaches them, and are cut off elsewhere. Checkpoints keep them; other formats don't get them.
    """

    padding: Tensor

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(padded(config.vocab_size), config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, bias=config.bias)
        # The head's bias: 0 for the vocabulary's tokens, -inf for the rows beyond. As a bias it costs no pass of its
        # own over the logits, which a slice before the softmax would copy.
        self.register_buffer("padding", torch.empty(padded(config.vocab_size)), persistent=False)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Set all parameters and buffers to their initial values."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                # Residual projections are scaled so that the sum over 2 n_layer of them keeps its variance.
                residual = name.endswith("c_proj.weight")
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.config.n_layer) if residual else 0.02)
            else:
                nn.init.constant_(parameter, 0 if name.endswith("bias") else 1)
        self.wte.weight[self.config.vocab_size :] = 0
        self.padding[: self.config.vocab_size] = 0
        self.padding[self.config.vocab_size :] = -torch.inf

    def adapt_weights(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict in nanoGPT's layout as ours: without the tied head and masks, with our padding.

        More positions than block_size are cut off. Raises ValueError if the head is not tied.
        """
        state = {name: tensor for name, tensor in tensors.items() if not name.endswith(MASKS)}
        head, tokens, positions = state.pop("lm_head.weight", None), state.get("wte.weight"), state.get("wpe.weight")
        if head is not None and (tokens is None or not torch.equal(head, tokens)):
            raise ValueError("its lm_head.weight differs from wte.weight, and this GPT-2 ties them")
        size = self.config.vocab_size
        if tokens is not None and tokens.dim() == 2 and len(tokens) in (size, padded(size)):
            state["wte.weight"] = F.pad(tokens[:size], (0, 0, 0, padded(size) - size))
        if positions is not None:
            state["wpe.weight"] = positions[: self.config.block_size]
        return state

    def make_cache(self, batch: int, length: int) -> KVCache:
        """Room for `length` tokens in `batch` rows."""
        weight = self.wte.weight
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
        return self.h

    def unembed(self, x: Tensor) -> Tensor:
        """(B, T, C) hidden states after a block to (B, T, V) logits."""
        logits = F.linear(self.ln_f(x), self.wte.weight)  # (B, T, padded V)
        return logits[..., : self.config.vocab_size]

    def forward(
        self, idx: Tensor, targets: Tensor | None = None, *, cache: KVCache | None = None, at: Any = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """(B, T) ids to (B, n, V) logits at the positions `at`; with targets, the mean cross-entropy instead."""
        t = idx.shape[1]
        x = self.wte(idx) + (self.wpe.weight[:t] if cache is None else self.wpe(cache.positions(t)))  # (B, T, C)
        x = F.dropout(x, self.config.dropout, self.training)
        for block in self.h:
            x = block(x, cache, at if block is self.h[-1] else None)  # at last (B, n, C)
        if cache is not None:
            cache.advance(t)
        if targets is None:
            return self.unembed(x), None
        return None, head_loss(self.ln_f(x), self.wte.weight, self.padding, targets)
