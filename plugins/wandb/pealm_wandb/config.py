"""The settings of the logger."""

from dataclasses import dataclass
from typing import Literal

from pealm_core import setting


@dataclass(frozen=True)
class WandbConfig:
    """Where the run is logged."""

    project: str | None = setting(None, "project that the run is logged to; none: nothing is logged")
    run: str | None = setting(None, "the run's name there; none: that of its folder")
    entity: str | None = setting(None, "user or team that owns the project; none: your default one")
    mode: Literal["online", "offline"] = setting("online", "offline: into the run's folder, for `wandb sync`")
    every: int = setting(1, "steps between two points of the curves", at_least=1)
