"""Masked diffusion: a model that sees both sides learns to fill in masked tokens; its command generates text with it.

    pealm --plugin examples/masked_diffusion.py train bidirectional --objective masked-diffusion \
        --input.tinyshakespeare --steps 2000 --out runs/diffusion
    pealm --plugin examples/masked_diffusion.py sample-diffusion --ckpt runs/diffusion --prompt "ROMEO:"

The loss is an upper bound on the nats per token, so that it compares with other models' loss. `pealm sample` can't be
used: it draws from left to right.
"""

from dataclasses import dataclass
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from torch import nn

from pealm_core import CommandSpec, ModelSpec, ObjectiveSpec, hookimpl, load, noise, setting

MASK = "<|mask|>"  # pealm adds it to the tokenizer, because the objective's record asks for it


@dataclass(frozen=True)
class Config:
    vocab_size: int = setting(0, hidden=True)
    block_size: int = setting(64, "context length in tokens", at_least=1)
    n_layer: int = setting(3, "blocks", at_least=1)
    n_head: int = setting(4, "attention heads", at_least=1)
    n_embd: int = setting(128, "width", at_least=1)


class Bidirectional(nn.Module):
    """A transformer without a causal mask: the logits at a place are of the token at that place."""

    def __init__(self, config):
        super().__init__()
        self.config, c = config, config.n_embd
        self.tokens, self.places = nn.Embedding(config.vocab_size, c), nn.Embedding(config.block_size, c)
        options = {"dropout": 0.0, "activation": F.gelu, "batch_first": True, "norm_first": True}
        layers = [nn.TransformerEncoderLayer(c, config.n_head, 4 * c, **options) for _ in range(config.n_layer)]
        self.layers, self.head = nn.Sequential(*layers, nn.LayerNorm(c)), nn.Linear(c, config.vocab_size)

    def forward(self, idx, targets=None, *, cache=None, at=None):
        x = self.layers(self.tokens(idx) + self.places.weight[: idx.shape[1]])  # (B, T, C)
        logits = self.head(x if at is None else x[:, at])
        if targets is None:
            return logits, None
        return None, F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class MaskedDiffusion:
    """Mask a random number of a row's tokens, 1 to T of them, and predict these (Ou et al. 2024; LLaDA, 2025)."""

    def __init__(self, model, tokenizer):
        self.mask = tokenizer.specials[MASK]

    def prepare(self, batch, seed):
        """Called on the CPU for training and validation. The noise depends on the seed and each sample's number."""
        idx, length = batch["idx"], batch["idx"].shape[1]  # (B, T)
        draws = torch.from_numpy(noise(batch["sample"], length + 1, seed))  # (B, T + 1), uniform in [0, 1)
        count = 1 + (draws[:, :1] * length).long()  # (B, 1), how many are masked
        masked = draws[:, 1:].argsort(-1).argsort(-1) < count  # those with the smallest draws
        return {**batch, "clean": idx, "idx": idx.masked_fill(masked, self.mask), "masked": masked}

    def weight(self, batch):
        return batch["idx"].numel()  # each token of the text counts the same, however many are masked

    def loss(self, model, batch):
        return self.validate(model, batch), {}

    def validate(self, model, batch):
        logits, _ = model(batch["idx"])  # (B, T, V)
        losses = F.cross_entropy(logits.transpose(1, 2).float(), batch["clean"], reduction="none")  # (B, T)
        return ((losses * batch["masked"]).sum(1) / batch["masked"].sum(1)).mean()


@click.command()
@click.option("--ckpt", type=click.Path(path_type=Path), required=True, help="Run or checkpoint.")
@click.option("--prompt", default="", help="Start of the text.")
@click.option("--steps", type=click.IntRange(min=1), default=32, show_default=True, help="Passes of the model.")
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed.")
@torch.inference_mode()
def sample_diffusion(ckpt, prompt, steps, seed):
    """Generate block_size tokens: all are masked at first, and each step fills in some of them, in random order."""
    lm, generator = load(ckpt, device="cpu"), torch.Generator().manual_seed(seed)
    mask, length = lm.tokenizer.specials[MASK], lm.model.config.block_size
    given = torch.tensor(lm.encode(prompt)[:length] if prompt else [], dtype=torch.long)
    idx = torch.cat([given, torch.full((length - len(given),), mask)])
    order = len(given) + torch.randperm(length - len(given), generator=generator)
    for places in order.tensor_split(steps):
        logits = lm.model(idx[None])[0][0, places]  # (n, V)
        logits[:, mask] = -torch.inf
        if len(places):
            idx[places] = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    click.echo(lm.tokenizer.decode(idx.tolist()))


@hookimpl
def pealm_models():
    yield ModelSpec(name="bidirectional", summary="Sees both sides", config=Config, factory=Bidirectional)


@hookimpl
def pealm_objectives():
    yield ObjectiveSpec(
        name="masked-diffusion", summary="Fill in masked tokens", factory=MaskedDiffusion, specials=(MASK,)
    )


@hookimpl
def pealm_commands():
    yield CommandSpec(name="sample-diffusion", summary="Generate by unmasking", command=sample_diffusion)
