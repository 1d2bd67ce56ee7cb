"""The settings of fineweb."""

from dataclasses import dataclass
from pathlib import Path

from pealm_core import setting

ENCODING, VOCAB_SIZE, END_OF_TEXT = "gpt2", 50257, 50256
SHARD_SIZE = 100_000_000  # tokens
DOWNLOAD = "pealm-download"  # a thread; nobody waits for one whose name begins like this when pealm ends


@dataclass(frozen=True)
class FinewebConfig:
    """Where the prepared shards are."""

    path: Path = setting(Path("data/fineweb_edu10B"), "the folder that was prepared")
