"""Learning-rate schedules: fractions of the peak learning rate."""

from collections.abc import Callable
from dataclasses import dataclass

from pealm_core import setting

Schedule = Callable[[float, int], float]


@dataclass(frozen=True)
class LinearConfig:
    """Where a schedule ends."""

    min_lr_ratio: float = setting(0.1, "final learning rate as a fraction of the peak", at_least=0, at_most=1)


@dataclass(frozen=True)
class WSDConfig(LinearConfig):
    """Warm-up, stable, decay (Hu et al., 2024)."""

    decay_fraction: float = setting(0.6, "fraction of the run in which the rate decays", above=0, at_most=1)


@dataclass(frozen=True)
class InverseSqrtConfig:
    """The inverse square root of the step (Vaswani et al., 2017), which needs no end."""

    timescale: int = setting(1000, "steps after the warm-up until the rate has fallen by 1 - 1/sqrt(2)", at_least=1)


def _decay(shape: Callable[[float], float], min_lr_ratio: float) -> Schedule:
    return lambda progress, step: min_lr_ratio + (1 - min_lr_ratio) * shape(progress)


def linear(config: LinearConfig) -> Schedule:
    """A straight line from the peak to its end."""
    return _decay(lambda progress: 1 - progress, config.min_lr_ratio)


def wsd(config: WSDConfig) -> Schedule:
    """The peak, then a straight line to its end.

    >>> [round(wsd(WSDConfig(decay_fraction=0.5))(p, 0), 3) for p in (0.0, 0.5, 0.75, 1.0)]
    [1.0, 1.0, 0.55, 0.1]
    """
    return _decay(lambda progress: min(1.0, (1 - progress) / config.decay_fraction), config.min_lr_ratio)


def inverse_sqrt(config: InverseSqrtConfig) -> Schedule:
    """The inverse square root of the steps, which is 1 at the end of the warm-up.

    >>> [inverse_sqrt(InverseSqrtConfig(timescale=10))(0.0, step) for step in (0, 30)]
    [1.0, 0.5]
    """
    return lambda progress, step: float((1 + step / config.timescale) ** -0.5)
