"""Walk through a graph one operation at a time: forward to the result, then backward to the gradients."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import count

from pea.engine import Value

INFIX = ("+", "-", "*", "/")


def forward(value: Value) -> Iterator[str]:
    """Yield a line for each operation that `value` was computed by, in the order of computation.

    >>> w, x = Value(2.0, label="w"), Value(3.0, label="x")
    >>> list(forward(w * x - 1.0))
    ['v1 = w * x = 6', 'v2 = v1 - 1 = 5']
    """
    names = _names(value)
    for node in _order(value):
        if node.parents:
            yield f"{names[node]} = {_formula(node, names)} = {node.data:.4g}"


def backward(value: Value) -> Iterator[str]:
    """Yield how the chain rule carries the gradient from `value` back to each value that it was computed from.

    Nothing is changed; `value.backward()` adds the same numbers to `grad`.

    >>> w = Value(2.0, label="w")
    >>> list(backward(w * w))
    ['grad v1 = 1', 'grad w += slope 2 * grad v1 = 2', 'grad w += slope 2 * grad v1 = 2  (4 in all)']
    """
    names, grads, times = _names(value), {value: 1.0}, {value: 1}
    yield f"grad {names[value]} = 1"
    for node in reversed(_order(value)):
        for parent, slope in zip(node.parents, node.slopes or (0.0,) * len(node.parents), strict=True):
            if not (parent.parents or parent.label):
                continue  # a constant
            added = slope * grads.get(node, 0.0)
            grads[parent] = grads.get(parent, 0.0) + added
            times[parent] = times.get(parent, 0) + 1
            total = f"  ({grads[parent]:.4g} in all)" if times[parent] > 1 else ""
            yield f"grad {names[parent]} += slope {slope:.4g} * grad {names[node]} = {added:.4g}{total}"


def show(lines: Iterable[str], *, wait: bool) -> bool:
    """Print lines; with `wait`, each after Enter. Returns False if the user typed q; after a, no more waiting."""
    for line in lines:
        if wait:
            print(f"  {line}", end="  ", flush=True)
            answer = sys.stdin.readline()
            if answer.strip() == "q" or not answer:
                return False
            wait = answer.strip() != "a"
        else:
            print(f"  {line}")
    return True


def _order(value: Value) -> list[Value]:
    """List all values that `value` was computed from, and itself: parents first, in the order of the operands."""
    order: list[Value] = []
    seen: set[Value] = set()
    stack: list[tuple[Value, bool]] = [(value, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(parent, False) for parent in reversed(node.parents)]
    return order


def _names(value: Value) -> dict[Value, str]:
    """Name each value by its label, an operation's result by a number, a constant by its data."""
    numbers = count(1)
    return {
        node: node.label or (f"v{next(numbers)}" if node.parents else f"{node.data:.4g}") for node in _order(value)
    }


def _formula(node: Value, names: dict[Value, str]) -> str:
    terms = [names[parent] for parent in node.parents]
    if node.op in INFIX:
        return f" {node.op} ".join(terms)
    if node.op.startswith("**"):
        return f"{terms[0]} ** {node.op[2:] or terms[1]}"
    return f"{node.op}({', '.join(terms)})"
