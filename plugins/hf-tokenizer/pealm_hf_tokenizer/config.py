"""The settings of the tokenizer `hf`."""

from dataclasses import dataclass
from pathlib import Path

from pealm_core import setting


@dataclass(frozen=True)
class HFConfig:
    """Where the tokenizer is; a checkpoint has a copy of it."""

    path: Path | None = setting(None, "a tokenizer.json, or the folder of a model that has one")
