"""The settings of AdamW."""

from dataclasses import dataclass

from pealm_core.contract.fields import setting


@dataclass(frozen=True)
class AdamWConfig:
    """AdamW (Loshchilov and Hutter, 2019)."""

    beta1: float = setting(0.9, "decay of the gradient's mean", at_least=0, below=1)
    beta2: float = setting(0.95, "decay of the gradient's mean square", at_least=0, below=1)
    eps: float = setting(1e-8, "added to the denominator", above=0)
    fused: bool = setting(True, "one kernel for the whole step, where the device has it")
    weight_decay: float = setting(0.1, "decay of matrices; biases and norms have none", at_least=0)
