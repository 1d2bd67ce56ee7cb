"""Sums over sequences as single nodes: `w·x + b` has 2n + 1 parents, where `*` and `+` would make 2n nodes.

Sums add from left to right, as `+` does, and so give the same result on every Python version: the built-in `sum`
compensates for rounding, but only from Python 3.12 on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import mul

from pea.engine import Value, make_node


def sum(terms: Iterable[Value | float]) -> Value:
    """Add up `terms` as one node.

    >>> sum([Value(1.0), Value(2.0), 3])
    Value(6.0, grad=0.0)
    """
    values = as_values(terms)
    out = 0.0
    for v in values:
        out += v.data
    return make_node(out, "sum", values, (1.0,) * len(values))


def dot(weights: Iterable[Value | float], inputs: Iterable[Value | float], bias: Value | float = 0.0) -> Value:
    """Compute `w₁x₁ + w₂x₂ + … + bias` as one node. Lengths that differ are a `ValueError`.

    >>> dot([Value(2.0), Value(3.0)], [10.0, 1.0], bias=0.5)
    Value(23.5, grad=0.0)
    """
    ws, xs = as_values(weights), as_values(inputs)
    if len(ws) != len(xs):
        raise ValueError(f"dot needs as many inputs as weights: {len(ws)} weights, {len(xs)} inputs")
    return affine(ws, xs, bias if isinstance(bias, Value) else Value(bias), [x.data for x in xs])


def affine(ws: Sequence[Value], xs: Sequence[Value], b: Value, xdata: Sequence[float]) -> Value:
    """Compute `dot` without its checks. xdata: the numbers of `xs`, which a layer reads once for all neurons."""
    wdata = [w.data for w in ws]
    out = b.data
    for product in map(mul, wdata, xdata):
        out += product
    return make_node(out, "dot", (*ws, *xs, b), (*xdata, *wdata, 1.0))  # as in `*`, the slope is the other factor


def as_values(numbers: Iterable[Value | float]) -> tuple[Value, ...]:
    """Convert the plain numbers of a sequence to leaves."""
    return tuple([v if isinstance(v, Value) else Value(v) for v in numbers])
