"""What pealm-schedules provides."""

from collections.abc import Iterator

from pealm_core import ScheduleSpec, hookimpl


@hookimpl
def pealm_schedules() -> Iterator[ScheduleSpec]:
    """Register the schedules."""
    for name, config, summary in (
        ("wsd", "WSDConfig", "Stable at the peak, then linear decay"),
        ("linear", "LinearConfig", "Linear decay, from the peak to min-lr-ratio"),
        ("inverse-sqrt", "InverseSqrtConfig", "1/sqrt(step): doesn't depend on the number of steps"),
    ):
        module, function = "pealm_schedules.schedules", name.replace("-", "_")
        yield ScheduleSpec(name=name, summary=summary, config=f"{module}:{config}", factory=f"{module}:{function}")
