"""The settings of the text dataset."""

from dataclasses import dataclass

from pealm_core import setting


@dataclass(frozen=True)
class TextConfig:
    """Which files, and how much of the text is used for validation."""

    path: str
    val_fraction: float = setting(0.1, "fraction of the text, at its end, used for validation", above=0, below=1)
