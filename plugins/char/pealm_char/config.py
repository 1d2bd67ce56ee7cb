"""The settings of the character tokenizer."""

from dataclasses import dataclass
from typing import Literal

from pealm_core import setting


@dataclass(frozen=True)
class CharConfig:
    """What happens to a character that the training text did not have."""

    unknown: Literal["error", "replace"] = setting("error", "an unseen character: refuse it, or write U+FFFD for it")
