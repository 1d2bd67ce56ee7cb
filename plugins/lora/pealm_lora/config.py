"""The settings of LoRA."""

from dataclasses import dataclass
from typing import Literal

from pealm_core import setting


@dataclass(frozen=True)
class LoraConfig:
    """Which layers get an update, and how large it may be."""

    rank: int = setting(8, "rank of the updates", at_least=1, at_most=100_000)
    alpha: float = setting(16.0, "an update is multiplied by alpha / rank", above=0)
    targets: Literal["attention", "all"] = setting("attention", "the linear layers of attention, or of all blocks")
    dropout: float = setting(0.0, "fraction of an update's inputs dropped in training", at_least=0, below=1)
