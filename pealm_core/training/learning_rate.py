"""How much of a run is done, and the learning rate at that point: warm-up and schedule. No torch."""

from dataclasses import dataclass, replace
from math import ceil, cos, isfinite, pi
from numbers import Real

from pealm_core.config.settings import TrainSettings
from pealm_core.contract.fields import setting
from pealm_core.contract.training_protocols import Schedule
from pealm_core.plugins.plugin_errors import Returns, call_plugin

FACTOR: Returns = (
    lambda factor: isinstance(factor, Real) and isfinite(factor),
    "the learning rate as a fraction of its peak, a finite number",
)


def in_steps(s: TrainSettings, samples: int) -> TrainSettings:
    """Return the settings with `epochs` as steps. samples: the number in one pass over the training data."""
    return replace(s, steps=ceil(s.epochs * samples / s.batch_size), epochs=None) if s.epochs else s


class Budget:
    """The fraction of a run that is done, 0 to 1: of its steps or of its seconds. It never decreases."""

    def __init__(self, settings: TrainSettings) -> None:
        self._settings, self._done = settings, 0.0

    def progress(self, step: int, seconds: float, eval_seconds: float) -> float:
        """Return the fraction done. A limit in seconds keeps back `1.5 * eval_seconds` for the last validation."""
        s = self._settings
        if s.max_seconds:
            done = seconds / max(s.max_seconds - 1.5 * eval_seconds, 1e-9)
        else:
            assert s.steps
            done = step / s.steps
        self._done = min(1.0, max(self._done, done))
        return self._done


def lr_factor(schedule: Schedule, progress: float, step: int, s: TrainSettings) -> float:
    """Return the learning rate as a fraction of its peak: linear warm-up by steps, then the schedule by progress.

    With a limit in steps, the schedule starts when the warm-up ends. Raises PluginError for a schedule that gives no
    finite number.
    """
    after = step - s.warmup_steps
    if s.steps:
        progress = after / max(1, s.steps - s.warmup_steps)
    factor = float(call_plugin(schedule, FACTOR, min(max(progress, 0.0), 1.0), max(after, 0)))
    return factor * min(1.0, (step + 1) / s.warmup_steps) if s.warmup_steps else factor


def due(step: int, every: int) -> bool:
    """Return whether something that happens every `every` steps happens at this one; 0: never."""
    return every > 0 and step % every == 0


@dataclass(frozen=True)
class CosineConfig:
    """Where the schedule ends."""

    min_lr_ratio: float = setting(0.1, "final learning rate as a fraction of the peak", at_least=0, at_most=1)


def cosine(config: CosineConfig) -> Schedule:
    """Half a period of a cosine, from the peak to its end.

    >>> [round(cosine(CosineConfig())(p, 0), 3) for p in (0.0, 0.5, 1.0)]
    [1.0, 0.55, 0.1]
    """
    end = config.min_lr_ratio
    return lambda progress, step: end + (1 - end) * (0.5 * (1 + cos(pi * progress)))


def constant() -> Schedule:
    """The peak."""
    return lambda progress, step: 1.0
