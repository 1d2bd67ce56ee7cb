"""The settings of npy-shards."""

from dataclasses import dataclass
from pathlib import Path

from pealm_core import setting

FINEWEB = Path("data/fineweb_edu10B")


@dataclass(frozen=True)
class NpyShardsConfig:
    """Where the shards are."""

    path: Path = setting(FINEWEB, "a folder of .npy or .bin token shards")
