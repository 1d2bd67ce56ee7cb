"""The settings of Muon."""

from dataclasses import dataclass

from pealm_core import setting


@dataclass(frozen=True)
class MuonConfig:
    """Muon (Jordan et al. 2024) for matrices, at the rate `--lr`; AdamW for embeddings, head, norms and biases."""

    momentum: float = setting(0.95, "decay of the gradient's mean, for matrices", at_least=0, below=1)
    weight_decay: float = setting(0.0, "decay of matrices per step and rate", at_least=0)
    cautious: bool = setting(True, "decay only where the step shrinks the weight as well")
    adam_lr: float = setting(0.02, "peak learning rate of AdamW", above=0)
    beta1: float = setting(0.9, "AdamW: decay of the gradient's mean", at_least=0, below=1)
    beta2: float = setting(0.95, "AdamW: decay of the gradient's mean square", at_least=0, below=1)
    adam_decay: float = setting(0.0, "AdamW: weight decay of embeddings and head", at_least=0)
