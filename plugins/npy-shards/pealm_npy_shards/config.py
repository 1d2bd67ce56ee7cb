"""The settings of npy-shards."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pealm_core import setting

FINEWEB = Path("data/fineweb_edu10B")


@dataclass(frozen=True)
class NpyShardsConfig:
    """Where the shards are, and what they don't say themselves."""

    path: Path = setting(FINEWEB, "a folder of .npy, .bin or .ds token shards")
    dtype: Literal["uint16", "uint32"] = setting("uint16", "ids in files that have no header, such as nanoGPT's .bin")
    val_fraction: float = setting(
        0.01, "last part of the tokens, for validation, if no file's name has `train` or `val`", above=0, below=1
    )
