"""The settings of the byte-pair encoding."""

from dataclasses import dataclass

from pealm_core import setting


@dataclass(frozen=True)
class BPEConfig:
    """How many tokens to learn."""

    vocab_size: int = setting(
        1024, "tokens: 256 bytes, end-of-text, and what is learned; fewer where the text is short", at_least=257
    )
