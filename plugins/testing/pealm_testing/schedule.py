"""Checks for learning-rate schedules."""

import math
from itertools import product
from typing import ClassVar

from pealm_core import ScheduleSpec
from pealm_testing.base import ComponentConformance
from pealm_testing.errors import ConformanceError


class ScheduleConformance(ComponentConformance):
    """A schedule, called with progress from 0 to 1 and steps from 0 to 100,000.

    largest: its largest factor; above 1, the learning rate is higher than `--lr`.
    """

    kind = ScheduleSpec
    largest: ClassVar[float] = 1.0

    def test_every_factor_is_a_number_in_range(self) -> None:
        """Catches a division by zero at the start or end, a negative rate, and a tensor instead of a number."""
        schedule = self.make()
        for progress, step in _points():
            factor = schedule(progress, step)
            if not isinstance(factor, int | float):
                raise ConformanceError(f"at progress {progress}, step {step} it gives {factor!r:.60}, not a number")
            if not (math.isfinite(factor) and 0 <= factor <= self.largest * (1 + 1e-9)):
                raise ConformanceError(
                    f"at progress {progress}, step {step} the factor is {factor}, not in 0 to {self.largest}: handle "
                    f"progress 0 and 1 and step 0, or set largest = ... in the test class if it is meant to be higher"
                )

    def test_it_is_a_pure_function(self) -> None:
        """Catches a schedule that counts its calls or draws numbers: a resumed run would have another rate."""
        schedule, points = self.make(), _points()
        before = [schedule(*point) for point in points]
        again = [schedule(*point) for point in reversed(points)][::-1]
        fresh = [self.make()(*point) for point in points]
        for point, *factors in zip(points, before, again, fresh, strict=True):
            if len(set(factors)) > 1:
                progress, step = point
                raise ConformanceError(
                    f"at progress {progress}, step {step} it gives {', '.join(map(str, factors))} in three calls: it "
                    f"may depend on its arguments and settings only"
                )


def _points() -> list[tuple[float, int]]:
    return list(product([n / 20 for n in range(21)], [0, 1, 10, 1_000, 100_000]))
