"""The settings of evaluations during training."""

from dataclasses import dataclass

from pealm_core import setting


@dataclass(frozen=True)
class TrackConfig:
    """Which evaluations, and when."""

    on: tuple[str, ...] = setting((), "evaluations to run during training: NAME, or NAME:key=value:... with settings")
    every: int = setting(500, "steps between evaluations", at_least=1)
    limit: int | None = setting(None, "evaluate only the first N rows or documents of each", at_least=1)
