"""An objective: cross-entropy plus z-loss, which keeps the softmax's normalizer log Z near 0 (PaLM, Chowdhery 2022).

    pealm --plugin examples/z_loss.py train char-transformer --input.tinyshakespeare \
        --objective z-loss --objective.weight 1e-3 --steps 500 --out runs/z

`log_z2`, the mean of log² Z, is in runs/z/metrics.jsonl. Validation stays the plain cross-entropy.
"""

from dataclasses import dataclass

import torch.nn.functional as F

from pealm_core import IGNORE, ObjectiveSpec, hookimpl, setting


@dataclass(frozen=True)
class Config:
    weight: float = setting(1e-4, "weight of the z-loss", at_least=0)


class ZLoss:
    def __init__(self, config, model, tokenizer):
        self.config = config

    def loss(self, model, batch):
        logits, _ = model(batch["idx"])  # called exactly once
        scored = batch["targets"] != IGNORE  # (B, T)
        logits, targets = logits[scored].float(), batch["targets"][scored]  # (N, V) and (N,)
        z2 = logits.logsumexp(-1).square().mean()
        # Both are means over the scored targets: the trainer weights this pass by their number.
        return F.cross_entropy(logits, targets) + self.config.weight * z2, {"log_z2": z2}


@hookimpl
def pealm_objectives():
    yield ObjectiveSpec(name="z-loss", summary="Cross-entropy and z-loss", config=Config, factory=ZLoss)
