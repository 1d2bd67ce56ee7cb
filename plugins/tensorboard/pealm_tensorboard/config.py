"""The settings of the logger."""

from dataclasses import dataclass
from pathlib import Path

from pealm_core import setting


@dataclass(frozen=True)
class TensorBoardConfig:
    """What is written, and where."""

    every: int | None = setting(None, "steps between two points of the curves; none: nothing is written", at_least=1)
    dir: Path | None = setting(None, "folder of the files; none: tensorboard, in the run's folder")
