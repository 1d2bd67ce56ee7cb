"""The settings of HellaSwag."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pealm_core import setting


@dataclass(frozen=True)
class HellaSwagConfig:
    """Which rows, and how they become text."""

    style: Literal["completion", "harness"] = setting(
        "completion", "completion: nanoGPT's numbers; harness: lm-evaluation-harness's"
    )
    file: Path | None = setting(None, "local jsonl file (default: the download of `pealm prepare hellaswag`)")
    split: Literal["val", "train"] = setting("val", "split whose rows are used")
    limit: int | None = setting(None, at_least=1, hidden=True)  # pealm eval --limit
    details: bool = setting(False, "add each row's scores and choice to the results file")

    def __post_init__(self) -> None:
        if self.split != "val" and self.file is None:
            raise ValueError(f"split {self.split} needs a file: only the validation file is downloaded")
