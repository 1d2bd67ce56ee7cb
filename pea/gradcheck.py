"""Gradient checking: compare `backward()` with finite differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pea.engine import Value


@dataclass(frozen=True)
class Row:
    """The gradient of one input, computed in two ways."""

    name: str
    at: float
    backward: float
    difference: float

    @property
    def error(self) -> float:
        """Difference of the two, relative to the larger one if that is above 1."""
        distance = abs(self.backward - self.difference) / max(1.0, abs(self.backward), abs(self.difference))
        return distance if distance == distance else float("inf")  # nan never agrees


@dataclass(frozen=True)
class Report:
    """Result of `check`: `ok` if all gradients agree, all rows, and the `worst` one. Its repr is a summary."""

    rows: tuple[Row, ...]
    tolerance: float

    @property
    def worst(self) -> Row:
        return max(self.rows, key=lambda row: row.error)

    @property
    def ok(self) -> bool:
        return self.worst.error <= self.tolerance

    def __repr__(self) -> str:
        wrong = [row for row in self.rows if row.error > self.tolerance]
        verdict = (
            f"{len(wrong)} of {len(self.rows)} gradients WRONG" if wrong else f"all {len(self.rows)} gradients agree"
        )
        w = self.worst
        return (
            f"{verdict}; worst is {w.name} at {w.at:g}: backward() says {w.backward:.10g}, "
            f"central difference {w.difference:.10g} (error {w.error:.1e}, tolerance {self.tolerance:.0e})"
        )


def check(f: Callable[..., Value], *inputs: Value | float, step: float = 1e-5, tolerance: float = 1e-6) -> Report:
    """Compare every gradient of `f(*inputs)` with the central difference `(f(x + h) - f(x - h)) / 2h`.

    `h` is `step`, times the size of the input if that is above 1. The difference is only accurate to about
    1e-9, and at a kink, such as `relu` at 0, it is the mean of the slopes on both sides. An input that is a
    `Value` is changed in place and restored, so that a whole model can be checked:
    `check(lambda *_: loss(model), *model.parameters())`. All gradients stay as they were.

    >>> check(lambda a, b: a * b + b, 2.0, 3.0).ok
    True
    """
    if not inputs:
        raise ValueError("nothing to check: give the function's inputs, such as check(f, 2.0, 3.0)")
    values = [v if isinstance(v, Value) else Value(v) for v in inputs]
    out = f(*values)
    if not isinstance(out, Value):
        raise TypeError(f"the function must give a Value, not {out!r} ({type(out).__name__})")
    before = {v: v.grad for v in (*values, *_graph(out))}
    try:
        for v in values:
            v.grad = 0.0
        out.backward()
        rows = tuple(
            Row(v.label or f"input {i}", v.data, v.grad, _central_difference(f, values, i, step))
            for i, v in enumerate(values)
        )
    finally:
        for v, grad in before.items():
            v.grad = grad
    return Report(rows, tolerance)


def _graph(out: Value) -> set[Value]:
    """Return `out` and everything it was computed from."""
    graph, stack = {out}, [out]
    while stack:
        parents = [p for p in stack.pop().parents if p not in graph]
        graph.update(parents)
        stack += parents
    return graph


def _central_difference(f: Callable[..., Value], values: list[Value], i: int, step: float) -> float:
    x = values[i].data
    h = step * max(1.0, abs(x))
    try:
        values[i].data = high = x + h
        above = f(*values).data
        values[i].data = low = x - h
        below = f(*values).data
    finally:
        values[i].data = x
    return (above - below) / (high - low)  # not / (2h), because x + h is rounded
