"""A learning-rate schedule: the inverse square root of the step, then a cooldown to zero at the end of the run.

    pealm --plugin examples/inverse_sqrt_cooldown.py train char-transformer --input.tinyshakespeare \
        --schedule inverse-sqrt-cooldown --schedule.cooldown 0.3 --steps 500 --out runs/cooldown

The learning rate of each step is in runs/cooldown/metrics.jsonl (`lr`).
"""

from dataclasses import dataclass

from pealm_core import ScheduleSpec, hookimpl, setting


@dataclass(frozen=True)
class Config:
    timescale: int = setting(200, "steps after the warm-up until the rate has fallen to 0.71 of the peak", at_least=1)
    cooldown: float = setting(0.2, "fraction of the run in which the rate falls to zero", above=0, at_most=1)


def inverse_sqrt_cooldown(config):
    def factor(progress, step):
        """Return the fraction of the peak (`--lr`). The trainer multiplies it by the warm-up (`--warmup-steps`).

        progress: the fraction of the run that is done, 0 to 1. step: optimizer steps since the warm-up.
        """
        return (1 + step / config.timescale) ** -0.5 * min(1, (1 - progress) / config.cooldown)

    return factor


@hookimpl
def pealm_schedules():
    yield ScheduleSpec(
        name="inverse-sqrt-cooldown",
        summary="Inverse square root, then down to zero",
        config=Config,
        factory=inverse_sqrt_cooldown,
    )
