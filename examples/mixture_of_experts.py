"""A small transformer with mixture-of-experts layers, whose balance loss and load are metrics of each step.

pealm --plugin examples/mixture_of_experts.py train moe --input.tinyshakespeare --steps 500 --out runs/moe
pealm --plugin examples/mixture_of_experts.py sample --ckpt runs/moe -n 200

On a GPU, add `--without compile`: the number of tokens that choose an expert differs from step to step.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from pealm_core import KVCache, ModelSpec, causal_attention, hookimpl, setting


@dataclass(frozen=True)
class Config:
    vocab_size: int = setting(0, hidden=True)  # filled in from the tokenizer
    block_size: int = setting(64, "context length in tokens", at_least=1)
    n_layer: int = setting(2, "blocks", at_least=1)
    n_head: int = setting(4, "attention heads", at_least=1)
    n_embd: int = setting(64, "width", at_least=1)
    experts: int = setting(4, "experts in a block", at_least=2)
    top_k: int = setting(2, "experts that a token uses", at_least=1)
    balance: float = setting(0.01, "weight of the balance loss", at_least=0)

    def __post_init__(self):
        if self.n_embd % self.n_head or self.top_k > self.experts:
            raise ValueError("n-head must divide n-embd, and top-k must be at most experts")


class Experts(nn.Module):
    """Several MLPs; a router picks `top_k` of them for each token."""

    def __init__(self, config):
        super().__init__()
        c, self.config = config.n_embd, config
        self.router = nn.Linear(c, config.experts, bias=False)
        mlps = [nn.Sequential(nn.Linear(c, 4 * c), nn.GELU(), nn.Linear(4 * c, c)) for _ in range(config.experts)]
        self.mlps = nn.ModuleList(mlps)

    def forward(self, x):
        """(B, T, C) to (B, T, C), with the balance loss and the load of the busiest expert."""
        p = self.router(x).float().softmax(-1)  # (B, T, E)
        gates, chosen = p.topk(self.config.top_k)  # (B, T, K)
        gates = (gates / gates.sum(-1, keepdim=True)).type_as(x)
        y = torch.zeros_like(x)
        for number, mlp in enumerate(self.mlps):
            row, place, slot = (chosen == number).nonzero(as_tuple=True)  # the tokens that chose this expert
            y = y.index_put((row, place), gates[row, place, slot, None] * mlp(x[row, place]), accumulate=True)
        # Switch Transformer's balance loss (Fedus et al. 2021), 1 if all experts are used equally. It is computed for
        # each sequence, so that its mean is the same however a batch is split into passes and over processes.
        share = F.one_hot(chosen, self.config.experts).float().mean((1, 2))  # (B, E), of a sequence's tokens
        balance = self.config.experts * (share * p.mean(1)).sum(-1).mean()
        return y, balance, share.amax(-1).mean()


class Block(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.config, self.layer, c = config, layer, config.n_embd
        self.norm1, self.norm2 = nn.LayerNorm(c), nn.LayerNorm(c)
        self.qkv, self.proj, self.experts = nn.Linear(c, 3 * c), nn.Linear(c, c), Experts(config)

    def forward(self, x, cache):
        b, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.config.n_head, -1).permute(2, 0, 3, 1, 4)  # (B, H, T, D)
        attended = causal_attention(q, k, v) if cache is None else cache.attend(self.layer, q, k, v)
        x = x + self.proj(attended.transpose(1, 2).reshape(b, t, c))
        y, balance, busiest = self.experts(self.norm2(x))
        return x + y, balance, busiest


class MixtureOfExperts(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, c = config, config.n_embd
        self.tokens, self.places = nn.Embedding(config.vocab_size, c), nn.Embedding(config.block_size, c)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm, self.head = nn.LayerNorm(c), nn.Linear(c, config.vocab_size, bias=False)
        nn.init.normal_(self.head.weight, std=0.02)  # all tokens about equally likely at first

    def make_cache(self, batch, length):
        c, weight = self.config, self.head.weight
        sizes = {"n_layer": c.n_layer, "batch": batch, "n_head": c.n_head, "head_dim": c.n_embd // c.n_head}
        return KVCache(**sizes, length=length, device=weight.device, dtype=weight.dtype)

    def unembed(self, x):  # with `layers`, what `lm.trace` looks at
        return self.head(self.norm(x))

    def forward(self, idx, targets=None, *, cache=None, at=None):
        t = idx.shape[1]
        positions = torch.arange(t, device=idx.device) if cache is None else cache.positions(t)
        x = self.tokens(idx) + self.places(positions)  # (B, T, C)
        losses, loads = [], []
        for block in self.layers:
            x, balance, busiest = block(x, cache)
            losses.append(balance)
            loads.append(busiest)
        if cache is not None:
            cache.advance(t)
        logits = self.unembed(x if at is None else x[:, at])  # (B, n, V)
        if targets is None:
            return logits, None
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())  # targets of -100 are not scored
        metrics = {"balance_loss": torch.stack(losses).mean(), "busiest_expert": torch.stack(loads).mean()}
        if self.training:  # in eval mode, the loss is the plain cross-entropy
            loss = loss + self.config.balance * metrics["balance_loss"]
        return None, loss, metrics  # the third value is averaged like the loss and written to metrics.jsonl


@hookimpl
def pealm_models():
    yield ModelSpec(name="moe", summary="Transformer with experts", config=Config, factory=MixtureOfExperts)
