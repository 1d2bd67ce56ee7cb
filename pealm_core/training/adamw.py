"""AdamW with weight decay on matrices only. Its settings are read without torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pealm_core.contract.fields import setting

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class AdamWConfig:
    """AdamW (Loshchilov and Hutter, 2019)."""

    beta1: float = setting(0.9, "decay of the gradient's mean", at_least=0, below=1)
    beta2: float = setting(0.95, "decay of the gradient's mean square", at_least=0, below=1)
    eps: float = setting(1e-8, "added to the denominator", above=0)
    fused: bool = setting(True, "one kernel for the whole step, if the device supports it")
    weight_decay: float = setting(0.1, "weight decay of matrices; biases and norms have none", at_least=0)


def build(config: AdamWConfig, model: "torch.nn.Module", *, lr: float) -> "torch.optim.Optimizer":
    """Return AdamW over two groups of parameters: matrices with weight decay, vectors and scalars without."""
    import torch

    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=config.fused)
