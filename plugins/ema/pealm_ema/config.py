"""The settings of the average."""

from dataclasses import dataclass

from pealm_core import setting


@dataclass(frozen=True)
class EMAConfig:
    """How long the average looks back."""

    decay: float | None = setting(
        None,
        "decay of the average, over about 1 / (1 - decay) steps; none: no average",
        above=0,
        below=1,
    )
