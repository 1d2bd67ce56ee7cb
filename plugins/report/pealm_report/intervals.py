"""What evaluations found: the values of each metric with their 95 % intervals, on one axis for all runs."""

from collections.abc import Sequence
from dataclasses import dataclass

from pealm_report.reading import Run, is_number

Z = 1.96  # standard errors to each side of a 95 % interval


@dataclass(frozen=True)
class Value:
    """A metric's value for a run, from an evaluation of n rows whose results lie in the file `source`."""

    run: int
    value: float
    stderr: float
    n: int
    source: str

    @property
    def low(self) -> float:
        return self.value - Z * self.stderr

    @property
    def high(self) -> float:
        return self.value + Z * self.stderr

    def __str__(self) -> str:
        return f"{self.value:.4f}" + (f" ± {self.stderr:.4f}" if self.stderr else "")


@dataclass(frozen=True)
class Metric:
    """One metric of an evaluation over the runs that have it."""

    name: str
    values: Sequence[Value]

    @property
    def ends(self) -> tuple[float, float] | None:
        """The ends of the axis; None where there is nothing to compare: one value without an interval."""
        low, high = min(value.low for value in self.values), max(value.high for value in self.values)
        margin = 0.08 * (high - low)
        return (low - margin, high + margin) if high > low else None

    def place(self, value: float) -> float:
        """Where on the axis a value stands, in per cent."""
        assert self.ends is not None
        low, high = self.ends
        return round(100 * (value - low) / (high - low), 2)


def evaluations(runs: Sequence[Run]) -> dict[str, list[Metric]]:
    """evaluation → its metrics, each over the runs that have it."""
    found: dict[str, dict[str, list[Value]]] = {}
    for number, run in enumerate(runs):
        for source, result in run.evaluations:
            metrics = found.setdefault(str(result["evaluation"]), {})
            n = result.get("n")
            for name, metric in result["metrics"].items():
                value, stderr = (
                    (metric.get("value"), metric.get("stderr")) if isinstance(metric, dict) else (None, None)
                )
                if is_number(value):
                    error = stderr if is_number(stderr) else 0.0
                    row = Value(number, value, error, int(n) if is_number(n) else 0, source)
                    metrics.setdefault(name, []).append(row)
    return {
        name: [Metric(key, values) for key, values in metrics.items()] for name, metrics in found.items() if metrics
    }
