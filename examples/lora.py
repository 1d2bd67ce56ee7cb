"""An adapter: low-rank updates of the linear layers of a trained model (LoRA, Hu et al. 2021).

    pealm train char-transformer --input.tinyshakespeare --steps 1000 --out runs/base
    pealm --plugin examples/lora.py train char-transformer --init runs/base --adapter low-rank \
        --input.text letters.txt --steps 200 --out runs/lora
    pealm --plugin examples/lora.py convert runs/lora merged

A checkpoint has only the updates, and names its base. The last line merges both into a model that needs no plugin.
"""

from dataclasses import dataclass

import torch
from torch import nn

from pealm_core import AdapterSpec, hookimpl, setting


@dataclass(frozen=True)
class Config:
    rank: int = setting(8, "rank of the updates", at_least=1)
    scale: float = setting(1.0, "factor of the updates", above=0)
    skip: str = setting("head", "name of linear layers that are left as they are")


class Updated(nn.Module):
    """A linear layer plus `up @ down`, which is zero at first."""

    def __init__(self, linear, config):
        super().__init__()
        self.linear, self.scale = linear, config.scale
        self.down = nn.Parameter(torch.randn(config.rank, linear.in_features) / linear.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(linear.out_features, config.rank))

    def forward(self, x):
        return self.linear(x) + x @ self.down.T @ self.up.T * self.scale


class Lora:
    def __init__(self, config):
        self.config = config

    def apply(self, model):
        """Change the model in place. What still requires a gradient afterwards is trained and saved."""
        model.requires_grad_(False)
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear) and name != self.config.skip:
                    setattr(module, name, Updated(child, self.config))

    def merge(self, model):
        """Undo `apply`, with the updates added to the weights."""
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, Updated):
                    child.linear.weight.data += child.scale * child.up.data @ child.down.data
                    setattr(module, name, child.linear)


@hookimpl
def pealm_adapters():
    yield AdapterSpec(name="low-rank", summary="Low-rank updates", config=Config, factory=Lora)
