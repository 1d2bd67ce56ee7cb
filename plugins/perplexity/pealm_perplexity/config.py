"""The settings of the evaluation."""

from dataclasses import dataclass

from pealm_core import setting


@dataclass(frozen=True)
class PerplexityConfig:
    """How much of the text is scored, and how the window moves over it."""

    window: int | None = setting(None, "tokens that the model sees at most (default: its context length)", at_least=1)
    stride: int | None = setting(None, "tokens that the window moves on by (default: half of it)", at_least=1)
    max_tokens: int | None = setting(10_000_000, "tokens to score at most, from the start; none: all", at_least=1)
    details: bool = setting(False, "loss of each passage of about 1,000 characters in the file of results")
    limit: int | None = setting(None, at_least=1, hidden=True)  # documents; pealm eval --limit
