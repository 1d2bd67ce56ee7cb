"""The settings of the evaluation."""

from dataclasses import dataclass

from pealm_core import setting


@dataclass(frozen=True)
class PerplexityConfig:
    """How the window goes over the text."""

    stride: int | None = setting(None, "tokens that the window moves on by (default: half of it)", at_least=1)
    limit: int | None = setting(None, at_least=1, hidden=True)  # documents; pealm eval --limit
