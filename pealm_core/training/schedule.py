"""How much of a run is done, and the learning rate at that point."""

from math import cos, pi

from pealm_core.config.settings import TrainSettings


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


def lr_factor(progress: float, step: int, s: TrainSettings) -> float:
    """Return the learning rate as a fraction of its peak: linear warm-up by steps, then the schedule by progress.

    With a limit in steps, the schedule starts when the warm-up ends.

    >>> [round(lr_factor(p, 999, TrainSettings(max_seconds=1, steps=None)), 3) for p in (0.0, 0.5, 1.0)]
    [1.0, 0.55, 0.1]
    >>> wsd = TrainSettings(max_seconds=1, steps=None, schedule="wsd", decay_fraction=0.5)
    >>> [round(lr_factor(p, 999, wsd), 3) for p in (0.0, 0.5, 0.75, 1.0)]
    [1.0, 1.0, 0.55, 0.1]
    """
    if s.steps:
        progress = (step - s.warmup_steps) / max(1, s.steps - s.warmup_steps)
    progress = min(max(progress, 0.0), 1.0)
    if s.schedule == "cosine":
        factor = 0.5 * (1 + cos(pi * progress))
    else:
        factor = min(1.0, (1 - progress) / s.decay_fraction)
    factor = s.min_lr_ratio + (1 - s.min_lr_ratio) * factor
    return factor * min(1.0, (step + 1) / s.warmup_steps) if s.warmup_steps else factor


def due(step: int, every: int) -> bool:
    """Return whether something that happens every `every` steps happens at this one; 0: never."""
    return every > 0 and step % every == 0
