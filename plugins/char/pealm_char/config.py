"""The settings of the character tokenizer."""

from dataclasses import dataclass
from typing import Literal

from pealm_core import setting


@dataclass(frozen=True)
class CharConfig:
    """What to do with a character that is not in the training text."""

    unknown: Literal["error", "replace"] = setting(
        "error", "what to do with an unseen character: stop with an error, or write U+FFFD"
    )
