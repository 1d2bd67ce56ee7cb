"""The settings of tinyshakespeare."""

from dataclasses import dataclass
from pathlib import Path

from pealm_core import setting


@dataclass(frozen=True)
class TinyshakespeareConfig:
    """Where the text comes from."""

    path: Path | None = setting(None, "a local copy; without it the text is downloaded once")
