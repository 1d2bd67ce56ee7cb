"""The learning rate at a step, by closed forms: warm-up, each schedule, and how much of a run is done."""

from dataclasses import replace
from math import cos, pi

import pytest

from pealm_core import PluginError
from pealm_core.config.settings import TrainSettings
from pealm_core.contract.fields import settings_of
from pealm_core.training.learning_rate import Budget, CosineConfig, constant, cosine, due, in_steps, lr_factor
from pealm_schedules.schedules import InverseSqrtConfig, LinearConfig, WSDConfig, inverse_sqrt, linear, wsd

STEPS = replace(TrainSettings(), steps=110, max_seconds=None, epochs=None, warmup_steps=10)


def test_the_warm_up_is_linear_and_reaches_the_peak_at_its_last_step() -> None:
    factors = [lr_factor(constant(), 0.0, step, STEPS) for step in range(12)]
    assert factors == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0, 1.0])
    assert lr_factor(constant(), 0.0, 0, replace(STEPS, warmup_steps=0)) == 1.0
    assert lr_factor(constant(), 0.0, 0, replace(STEPS, warmup_steps=1)) == 1.0


def test_a_schedule_by_steps_starts_after_the_warm_up_and_ends_with_the_run() -> None:
    seen: list[tuple[float, int]] = []

    def schedule(progress: float, step: int) -> float:
        seen.append((progress, step))
        return 1.0

    for step in (0, 9, 10, 11, 60, 110, 300):
        lr_factor(schedule, 0.77, step, STEPS)  # the progress of a run by steps is not used
    assert seen == [(0.0, 0), (0.0, 0), (0.0, 0), (0.01, 1), (0.5, 50), (1.0, 100), (1.0, 290)]
    seen.clear()
    lr_factor(schedule, 0.0, 10, replace(STEPS, steps=10))  # warm-up alone
    assert seen == [(0.0, 0)]
    seen.clear()
    lr_factor(schedule, 0.0, 11, replace(STEPS, steps=11))
    assert seen == [(1.0, 1)]
    seen.clear()
    for progress in (-0.5, 0.0, 0.25, 1.0, 1.5):
        lr_factor(schedule, progress, 20, replace(STEPS, steps=None, max_seconds=60.0))
    assert seen == [(0.0, 10), (0.0, 10), (0.25, 10), (1.0, 10), (1.0, 10)]


@pytest.mark.parametrize("end", [0.0, 0.1, 1.0])
def test_schedules_have_their_closed_forms(end: float) -> None:
    for i in range(11):
        p = i / 10
        assert cosine(CosineConfig(end))(p, 3) == pytest.approx(end + (1 - end) * (1 + cos(pi * p)) / 2)
        assert linear(LinearConfig(end))(p, 3) == pytest.approx(1 - (1 - end) * p)
        flat = wsd(WSDConfig(min_lr_ratio=end, decay_fraction=0.4))(p, 3)
        assert flat == pytest.approx(1.0 if p <= 0.6 else end + (1 - end) * (1 - p) / 0.4)
        assert constant()(p, 3) == 1.0


@pytest.mark.parametrize(
    ("config", "key", "good", "bad"),
    [
        (LinearConfig, "min-lr-ratio", (0, 1), (-0.01, 1.01)),
        (WSDConfig, "min-lr-ratio", (0, 1), (-0.01, 1.01)),
        (WSDConfig, "decay-fraction", (0.001, 1), (0, 1.01)),
        (InverseSqrtConfig, "timescale", (1,), (0,)),
    ],
)
def test_limits_of_settings(config: type, key: str, good: tuple[float, ...], bad: tuple[float, ...]) -> None:
    setting = settings_of(config)[key]
    assert [setting.parse(value) for value in good] == list(good)
    for value in bad:
        with pytest.raises(ValueError, match=r"must be [a-z ]+ [0-9]"):
            setting.parse(value)


def test_defaults() -> None:
    assert CosineConfig() == CosineConfig(0.1) and LinearConfig() == LinearConfig(0.1)
    assert WSDConfig() == WSDConfig(min_lr_ratio=0.1, decay_fraction=0.6)
    assert InverseSqrtConfig() == InverseSqrtConfig(1000)


def test_the_inverse_root_needs_no_end() -> None:
    schedule = inverse_sqrt(InverseSqrtConfig(timescale=100))
    assert [schedule(0.9, step) for step in (0, 300, 800)] == pytest.approx([1, 1 / 2, 1 / 3])


def test_a_budget_of_steps_or_of_seconds_never_goes_back() -> None:
    budget = Budget(replace(STEPS, steps=200))
    assert [budget.progress(step, 1e9, 1e9) for step in (0, 50, 20, 100, 300)] == [0.0, 0.25, 0.25, 0.5, 1.0]
    seconds = Budget(replace(STEPS, steps=None, max_seconds=100.0))
    assert seconds.progress(999, 20.0, 0.0) == 0.2
    assert seconds.progress(999, 42.5, 10.0) == 0.5  # of the 85 that remain before the last validation
    assert seconds.progress(999, 42.5, 0.0) == 0.5
    assert seconds.progress(999, 1.0, 1e9) == 1.0  # no time is left


def test_epochs_become_steps_and_the_last_one_may_be_smaller() -> None:
    settings = replace(STEPS, steps=None, epochs=2.0, batch_size=8)
    assert [in_steps(settings, samples).steps for samples in (4, 5, 16, 17)] == [1, 2, 4, 5]
    assert in_steps(settings, 16).epochs is None
    assert in_steps(STEPS, 16) is STEPS


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), None, "1", 1j])
def test_a_schedule_gives_a_finite_number(factor: object) -> None:
    with pytest.raises(PluginError, match="the learning rate as a fraction of its peak, a finite number"):
        lr_factor(lambda progress, step: factor, 0.5, 20, STEPS)  # type: ignore[arg-type,return-value]
    assert lr_factor(lambda progress, step: 0, 0.5, 20, STEPS) == 0.0


def test_what_is_due() -> None:
    assert [step for step in range(10) if due(step, 3)] == [0, 3, 6, 9]
    assert not any(due(step, 0) for step in range(5)) and all(due(step, 1) for step in range(5))
