"""The settings of the tiktoken tokenizer."""

from dataclasses import dataclass

from pealm_core import setting


@dataclass(frozen=True)
class TiktokenConfig:
    """Which encoding, and whether a text may name its special tokens."""

    encoding: str = setting("gpt2", "one of tiktoken's encodings: gpt2, cl100k_base, o200k_base, ...")
    allow_special: bool = setting(False, "read <|endoftext|> in a text as the token, not as ordinary text")
