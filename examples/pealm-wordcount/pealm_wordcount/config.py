"""The settings of the evaluation."""

from dataclasses import dataclass
from pathlib import Path

from pealm_core import setting


@dataclass(frozen=True)
class WordcountConfig:
    """Which words count, and how much the model writes."""

    text: Path | None = setting(None, "a file whose words count as words")
    samples: int = setting(20, "texts that the model writes", at_least=2)
    tokens: int = setting(100, "tokens of a text", at_least=1)
    seed: int = setting(0, "how the texts are drawn", at_least=0)
