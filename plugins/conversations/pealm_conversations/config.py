"""The settings of the dataset."""

from dataclasses import dataclass

from pealm_core import setting


@dataclass(frozen=True)
class ConversationsConfig:
    """Which file, and how much of it is used for validation."""

    path: str
    val_fraction: float = setting(0.1, "fraction of the conversations used for validation", above=0, below=1)
