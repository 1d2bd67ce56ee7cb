"""The settings of the byte-pair encoding."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pealm_core import setting

END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class BPEConfig:
    """How many tokens to learn, and from which pieces of text; or a file that has them."""

    vocab_size: int = setting(
        1024,
        "tokens: 256 bytes, special tokens, and what is learned; fewer if the text is short",
        at_least=257,
    )
    pattern: Literal["gpt2", "cl100k", "o200k", "digits"] = setting(
        "gpt2", "how text is cut before merging; digits: as gpt2, but each digit is a token of its own"
    )
    specials: tuple[str, ...] = setting((), f"special tokens in addition to {END_OF_TEXT}")
    min_frequency: int = setting(2, "how often a pair must occur to become a token", at_least=1)
    sample_bytes: int = setting(
        200_000_000, "bytes of text to learn from, taken from all parts of larger data", at_least=1
    )
    file: Path | None = setting(
        None, "use this tokenizer.json of Hugging Face (byte-level BPE) instead of learning one"
    )

    def __post_init__(self) -> None:
        names = (END_OF_TEXT, *self.specials)
        if len({*names, ""}) != len(names) + 1:
            raise ValueError(f"specials: {', '.join(self.specials)} must be distinct names, without {END_OF_TEXT}")
        if self.file is None and self.vocab_size < 256 + len(names):
            raise ValueError(
                f"vocab_size: {self.vocab_size} is too small for 256 bytes and {len(names)} special tokens"
            )
