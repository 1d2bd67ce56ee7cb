"""The settings of FineWeb-Edu's documents, and of the token shards made of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pealm_core import setting

SAMPLES = ("sample-10BT", "sample-100BT", "sample-350BT")


@dataclass(frozen=True)
class FinewebConfig:
    """Where the prepared shards are."""

    path: Path = setting(Path("data/fineweb_edu10B"), "the folder that was prepared")


@dataclass(frozen=True)
class FinewebEduConfig:
    """Which documents, and how they are divided into training and validation."""

    sample: Literal["sample-10BT", "sample-100BT", "sample-350BT"] = setting(
        "sample-10BT", "FineWeb-Edu's sample of 10, 100 or 350 billion tokens"
    )
    source: Path | None = setting(None, "folder of parquet files with a column `text`, instead of the hub")
    val_fraction: float = setting(
        0.01, "fraction of the documents, chosen by a hash of their text, used for validation", above=0, below=1
    )
    layout: Literal["splits", "build-nanogpt"] = setting(
        "splits", "build-nanogpt: shards with its names, of one stream, the first of them for validation"
    )
