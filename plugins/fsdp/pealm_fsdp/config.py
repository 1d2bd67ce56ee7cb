"""The settings of `--strategy fsdp`."""

from dataclasses import dataclass
from typing import Literal

from pealm_core import setting


@dataclass(frozen=True)
class FSDPConfig:
    """Fully sharded data parallel (Zhao et al., 2023), as in PyTorch's FSDP2."""

    weights: Literal["fp32", "bf16"] = setting(
        "fp32", "precision in which weights are gathered; bf16 (with --dtype bf16) is half the traffic and memory"
    )
    activation_checkpointing: bool = setting(
        False, "keep only the inputs of the blocks and compute the rest again in the backward pass: less memory"
    )
    reshard: bool = setting(True, "free gathered weights after each forward pass; false: more memory, less traffic")
    checkpoints: Literal["full", "sharded"] = setting(
        "full", "sharded: each process writes its part of a step checkpoint; best/ has full tensors either way"
    )
