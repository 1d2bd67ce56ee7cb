"""The settings of the byte-pair encoding."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pealm_core import setting


@dataclass(frozen=True)
class BPEConfig:
    """How many tokens to learn, and from which pieces of text; or a file that has them."""

    vocab_size: int = setting(
        1024, "tokens: 256 bytes, end-of-text, and what is learned; fewer where the text is short", at_least=257
    )
    pattern: Literal["gpt2", "cl100k", "o200k", "digits"] = setting(
        "gpt2", "how text is cut before merging; digits: as gpt2, but each digit is a token of its own"
    )
    file: Path | None = setting(
        None, "use this tokenizer.json of Hugging Face (byte-level BPE) instead of learning one"
    )
