"""AdamW with weight decay on matrices only."""

import torch

from pealm_core.training.adamw_config import AdamWConfig


def build(config: AdamWConfig, model: torch.nn.Module, *, lr: float) -> torch.optim.Optimizer:
    """Return AdamW over two groups of parameters: matrices with weight decay, vectors and scalars without."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    fused = config.fused and all(p.device.type in ("cpu", "cuda", "mps") for p in parameters)
    return torch.optim.AdamW(groups, lr=lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=fused)
