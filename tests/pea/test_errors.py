"""One rule for what cannot be computed: Python's floats decide, and the message has the values in it."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import pea
from pea import Value

REFUSED: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: Value(0.0).log(), ValueError, r"log\(0\.0\)"),
    (lambda: Value(-2.0).log(), ValueError, r"log\(-2\.0\)"),
    (lambda: Value(3.0) / 0, ZeroDivisionError, r"3\.0 / 0\.0"),
    (lambda: 3 / Value(0.0), ZeroDivisionError, r"3\.0 / 0\.0"),
    (lambda: Value(1000.0).exp(), OverflowError, r"exp\(1000\.0\)"),
    (lambda: Value(0.0) ** -1, ZeroDivisionError, r"0\.0 \*\* -1\.0"),
    (lambda: Value(0.0) ** 0.5, ZeroDivisionError, r"slope of 0\.0 \*\* 0\.5: 0\.0 \*\* -0\.5: division by zero"),
    (
        lambda: Value(0.0) ** Value(0.5),
        ZeroDivisionError,
        r"slope of 0\.0 \*\* 0\.5: 0\.0 \*\* -0\.5: division by zero",
    ),
    (lambda: 0 ** Value(-1.0), ZeroDivisionError, r"0\.0 \*\* -1\.0: division by zero"),
    (lambda: Value(0.0) ** Value(-1.0), ZeroDivisionError, r"0\.0 \*\* -1\.0"),
    (lambda: Value(10.0) ** 400, OverflowError, r"10\.0 \*\* 400\.0"),
    (lambda: Value(1e-200) ** -1.5, OverflowError, r"slope of 1e-200 \*\* -1\.5: 1e-200 \*\* -2\.5: too large"),
    (lambda: Value(-8.0) ** (1 / 3), ValueError, r"-8\.0 \*\* 0\.333.* not real"),
    (lambda: (-8) ** Value(0.5), ValueError, r"-8\.0 \*\* 0\.5 is not real"),
    (lambda: Value(-2.0) ** Value(2.0), ValueError, r"-2\.0 \*\* Value\(2\.0\).*log\(-2\.0\)"),
    (lambda: (-2) ** Value(2.0), ValueError, r"-2\.0 \*\* Value\(2\.0\).*log\(-2\.0\)"),
    (lambda: Value(10**400), OverflowError, "too large to convert to float"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_refused_with_the_values(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "bad", ["2", 2j, None, [2.0], Value, np.array(2.0), np.array([1.0, 2.0]), np.complex128(2), np.True_]
)
def test_only_numbers_are_operands(bad: Any) -> None:
    a = Value(1.0)
    calls: list[Callable[[], object]] = [
        lambda: Value(bad),
        lambda: a + bad,
        lambda: bad + a,
        lambda: a - bad,
        lambda: bad - a,
        lambda: a * bad,
        lambda: bad * a,
        lambda: a / bad,
        lambda: bad / a,
        lambda: a**bad,
        lambda: bad**a,
        lambda: pea.sum([a, bad]),
        lambda: pea.dot([a, a], [1.0, bad]),
        lambda: pea.dot([a], [1.0], bias=bad),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="a Value holds one real number, not "):
            call()


def test_a_value_is_not_a_number_to_wrap() -> None:
    with pytest.raises(TypeError, match=r"not Value\(1\.0"):
        Value(Value(1.0))  # type: ignore[arg-type]


def test_float_does_not_drop_the_graph_silently() -> None:
    with pytest.raises(TypeError):
        math.exp(Value(1.0))  # type: ignore[arg-type]


def test_true_is_one() -> None:
    assert Value(True).data == 1.0
    assert (Value(2.0) + True).data == 3.0


def test_infinity_passes_as_in_python() -> None:
    assert (Value(1e308) * 10).data == math.inf
    assert (Value(1e308) + 1e308).data == math.inf
    assert pea.sum([math.inf, -math.inf]).data != pea.sum([math.inf, -math.inf]).data  # nan
    assert (Value(math.inf).tanh().data, Value(-math.inf).sigmoid().data) == (1.0, 0.0)


@pytest.mark.parametrize("name", ["relu", "abs", "exp", "log", "tanh", "sigmoid", "__neg__"])
def test_nan_stays_nan_in_functions(name: str) -> None:
    assert math.isnan(getattr(Value(math.nan), name)().data)


def test_nan_stays_nan_in_arithmetic_and_gradients() -> None:
    a, nan = Value(2.0), Value(math.nan)
    for out in (a + nan, a - nan, a * nan, a / nan, a**nan, nan**a, pea.sum([a, nan]), pea.dot([a], [nan])):
        assert math.isnan(out.data)
    (a * nan).backward()
    assert math.isnan(a.grad)
    assert (nan**0).data == 1.0  # as in Python


def test_nan_passes_through_relu_backwards() -> None:
    nan = Value(math.nan)
    (nan.relu() * 3).backward()
    assert nan.grad == 3.0
