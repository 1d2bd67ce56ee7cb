"""The settings of the tiktoken tokenizer."""

from dataclasses import dataclass
from pathlib import Path

from pealm_core import setting


@dataclass(frozen=True)
class TiktokenConfig:
    """Which encoding or file, and whether a text may name its special tokens."""

    encoding: str = setting("gpt2", "one of tiktoken's encodings: gpt2, cl100k_base, o200k_base, ...")
    allow_special: bool = setting(False, "read <|endoftext|> in a text as the token, not as ordinary text")
    file: Path | None = setting(None, "a .tiktoken file with tokens and ranks, instead of an encoding")
    pattern: str = setting("gpt2", "how text is cut for a file's tokens: gpt2, cl100k, o200k or a regular expression")
    specials: tuple[str, ...] = setting(("<|endoftext|>",), "special tokens of a file; their ids follow its ranks")

    def __post_init__(self) -> None:
        if len({*self.specials, ""}) != len(self.specials) + 1:
            raise ValueError(f"specials: {', '.join(self.specials)} must be distinct names")
