"""Random graphs, their gradients against torch's and against central differences."""

from collections.abc import Callable, Sequence
from math import isclose
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import pea
from pea import Value

Step = tuple[str, int, int, int]
Calls = dict[str, Callable[..., Any]]

# What is written once for both: a and b are Values or tensors; n is a small number. Bases, divisors and
# arguments of log stay away from 0; exponents and arguments of exp stay small.
SMOOTH: Calls = {
    "add": lambda a, b, n: a + b,
    "add in place": lambda a, b, n: _plus(a, b),
    "add number": lambda a, b, n: n + a + n,
    "subtract": lambda a, b, n: a - b,
    "subtract from number": lambda a, b, n: n - a,
    "multiply": lambda a, b, n: a * b,
    "multiply by number": lambda a, b, n: n * a * 0.7,
    "divide": lambda a, b, n: a / (b * b + 0.5),
    "divide number": lambda a, b, n: n / (a * a + 0.5),
    "square": lambda a, b, n: a * a,
    "negate": lambda a, b, n: -a,
    "whole power": lambda a, b, n: a**3 - a**2 + a**1 + a**0,
    "negative power": lambda a, b, n: (a * a + 0.5) ** -n,
    "fractional power": lambda a, b, n: (a * a + 0.5) ** (n + 0.5),
    "negative base": lambda a, b, n: (-0.5 - a * a) ** n + (-0.5 - a * a) ** -n,
    "power of values": lambda a, b, n: (a * a + 0.5) ** b.tanh(),
    "power of number": lambda a, b, n: (n + 0.5) ** a.tanh(),
    "exp": lambda a, b, n: (n * a.tanh()).exp(),
    "log": lambda a, b, n: (a * a + 0.1).log(),
    "tanh": lambda a, b, n: a.tanh(),
    "sigmoid": lambda a, b, n: a.sigmoid(),
}
KINKED: Calls = {
    "relu": lambda a, b, n: a.relu(),
    "abs": lambda a, b, n: abs(a),
    "method abs": lambda a, b, n: a.abs(),
}


def _plus(a: Any, b: Any) -> Any:
    total = a * 1.0
    total += b
    total += total
    return total


def run(
    leaves: Sequence[Any],
    program: Sequence[Step],
    total: Callable[..., Any],
    dot: Callable[..., Any],
    shrunk: list[int] | None = None,
) -> Any:
    """Interpret a program on a growing pool of numbers, and give the sum of the pool.

    shrunk: gets the number of every step whose result was too large and was made smaller.
    """
    pool = list(leaves)
    for number, (name, i, j, n) in enumerate(program):
        a, b = pool[i % len(pool)], pool[j % len(pool)]
        if name == "sum":
            result = total(pool)
        elif name == "dot":
            result = dot(pool, [b, *pool[:0:-1]], a)
        else:
            result = (SMOOTH | KINKED)[name](a, b, n)
        while abs(float(result.data)) > 20.0:  # a tower of powers would leave the floats
            result = result * 0.05
            if shrunk is not None:
                shrunk.append(number)
        pool.append(result)
    return total(pool)


def torch_dot(ws: list[torch.Tensor], xs: list[torch.Tensor], bias: torch.Tensor) -> torch.Tensor:
    return torch.stack(ws) @ torch.stack(xs) + bias


def torch_sum(terms: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(terms).sum()


def programs(calls: Sequence[str], most: int) -> st.SearchStrategy[list[Step]]:
    index = st.integers(0, 30)
    return st.lists(st.tuples(st.sampled_from(calls), index, index, st.integers(1, 3)), min_size=1, max_size=most)


numbers = st.lists(st.floats(-3.0, 3.0), min_size=1, max_size=4)


@settings(max_examples=300, deadline=None)
@given(numbers, programs([*SMOOTH, *KINKED, "sum", "dot"], most=12))
def test_random_graphs_agree_with_torch(data: list[float], program: list[Step]) -> None:
    ours = [Value(x) for x in data]
    theirs = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in data]
    out = run(ours, program, pea.sum, pea.dot)
    expected = run(theirs, program, torch_sum, torch_dot)
    out.backward()
    torch.autograd.backward(expected)
    assert isclose(out.data, expected.item(), rel_tol=1e-9, abs_tol=1e-12)
    gradients = [0.0 if t.grad is None else t.grad.item() for t in theirs]
    floor = 1e-12 * max(1.0, *map(abs, gradients))  # where large terms cancel, less is left to agree
    for v, gradient in zip(ours, gradients, strict=True):
        assert isclose(v.grad, gradient, rel_tol=1e-9, abs_tol=floor)
    once = [v.grad for v in ours]
    out.backward()
    assert all(isclose(v.grad, 2 * grad, rel_tol=1e-9, abs_tol=floor) for v, grad in zip(ours, once, strict=True))


@settings(max_examples=100, deadline=None)
@given(numbers, programs([*SMOOTH, "sum", "dot"], most=4))
def test_random_graphs_agree_with_central_differences(data: list[float], program: list[Step]) -> None:
    h = 1e-5

    def at(values: Sequence[Value]) -> tuple[Value, list[int]]:
        shrunk: list[int] = []
        return run(values, program, pea.sum, pea.dot, shrunk), shrunk

    ours = [Value(x) for x in data]
    out, steps = at(ours)
    out.backward()
    scale = max(1.0, *(abs(v.grad) for v in ours))
    for i, v in enumerate(ours):
        above, below = (at([Value(x + s * (k == i)) for k, x in enumerate(data)]) for s in (h, -h))
        assume(above[1] == below[1] == steps)  # no limit was crossed between the two
        assert isclose(v.grad, (above[0].data - below[0].data) / (2 * h), rel_tol=1e-4, abs_tol=1e-4 * scale)


@pytest.mark.parametrize("x", [-40.0, -30.0, -1e-9, -0.0, 0.0, 1e-9, 3.0, 40.0])
@pytest.mark.parametrize("name", ["relu", "abs", "exp", "tanh", "sigmoid"])
def test_functions_at_the_ends_and_at_the_kink(name: str, x: float) -> None:
    v, t = Value(x), torch.tensor(x, dtype=torch.float64, requires_grad=True)
    out, expected = getattr(v, name)(), getattr(t, name)()
    out.backward()
    torch.autograd.backward(expected)
    assert t.grad is not None
    assert isclose(out.data, expected.item(), rel_tol=1e-9)
    assert isclose(v.grad, t.grad.item(), rel_tol=1e-9, abs_tol=1e-15)  # torch's sigmoid cancels at 40


POSITIVE = [(x, y) for x in (0.3, 2.0) for y in (-2.0, -1.5, -1.0, 0.0, 0.5, 1.0, 2.0, 3.0)]
NEGATIVE = [(x, y) for x in (-2.0, -0.3) for y in (-2.0, -1.0, 0.0, 1.0, 2.0, 3.0)]
ZERO = [(0.0, y) for y in (0.0, 1.0, 1.5, 2.0)]


@pytest.mark.parametrize(("x", "y"), POSITIVE + NEGATIVE + ZERO)
def test_powers(x: float, y: float) -> None:
    v, t = Value(x), torch.tensor(x, dtype=torch.float64, requires_grad=True)
    (v**y).backward()
    torch.autograd.backward(t**y)
    assert t.grad is not None
    assert isclose(v.grad, t.grad.item(), rel_tol=1e-9)


@pytest.mark.parametrize(("x", "y"), [(0.3, -1.5), (2.0, 0.0), (0.0, 0.0), (0.0, 1.0), (0.0, 2.0), (-0.0, 0.0)])
def test_powers_with_a_value_as_exponent(x: float, y: float) -> None:
    ours = [Value(x), Value(y)]
    theirs = [torch.tensor(n, dtype=torch.float64, requires_grad=True) for n in (x, y)]
    (ours[0] ** ours[1]).backward()
    torch.autograd.backward(theirs[0] ** theirs[1])
    for v, t in zip(ours, theirs, strict=True):
        assert t.grad is not None
        assert isclose(v.grad, t.grad.item(), rel_tol=1e-9)


INF, NAN = float("inf"), float("nan")
NUMBER_BASES = [(x, y) for x in (0, 0.0, -0.0) for y in (0.0, -0.0, 1e-300, 0.5, 1.0, 2.0, INF, -INF, NAN)]
NUMBER_BASES += [(2, 0.0), (2, -3.0), (0.3, 0.5), (1e-200, -1.5), (INF, 0.0), (NAN, 0.0), (NAN, 1.0)]


@pytest.mark.parametrize(("x", "y"), NUMBER_BASES)
def test_powers_of_a_number(x: float, y: float) -> None:
    v, t = Value(y), torch.tensor(y, dtype=torch.float64, requires_grad=True)
    out, expected = x**v, x**t
    out.backward()
    torch.autograd.backward(expected)
    assert t.grad is not None
    assert out.data == pytest.approx(expected.item(), rel=1e-12, nan_ok=True)
    assert v.grad == pytest.approx(t.grad.item(), rel=1e-12, nan_ok=True)
