"""What a `Value` does: its numbers, its gradients' bookkeeping, its words, its copies."""

import copy
import doctest
import gc
import importlib
import math
import pickle
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import pea
from pea import Value


@pytest.mark.parametrize("module", ["pea.engine", "pea.sums", "pea.nn", "pea.gradcheck"])
def test_docstrings_are_true(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0


def test_numbers_on_either_side() -> None:
    a = Value(2.0)
    results = [a + 1, 1 + a, a - 1, 1 - a, a * 3, 3 * a, a / 4, 4 / a, a**3, 3**a, -a, abs(-a), True + a]
    assert [v.data for v in results] == [3, 3, 1, -1, 6, 6, 0.5, 2, 8, 9, -2, 2, 3]
    assert all(type(v.data) is float for v in results)


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, np.longdouble, np.int64, np.uint8, Fraction])
def test_numpy_scalars_on_either_side(kind: Callable[[int], Any]) -> None:
    a, n = Value(3.0), kind(2)
    results = [a + n, n + a, a - n, n - a, a * n, n * a, a / n, n / a, a**n, n**a, Value(n)]
    assert all(type(v) is Value and type(v.data) is float for v in results)
    assert [v.data for v in results] == [5, 5, 1, -1, 6, 6, 1.5, 2 / 3, 9, 8, 2]
    (n * a + a * n + n**a).backward()
    assert a.grad == pytest.approx(4 + 8 * math.log(2))
    n += a
    assert type(n) is Value


def test_numpy_arrays_as_sequences() -> None:
    assert pea.sum(np.array([1.0, 2.0])).data == 3.0
    assert pea.dot(np.arange(3), [Value(1.0)] * 3).data == 3.0
    assert type(pea.nn.Neuron(2)(np.array([1.0, 2.0], dtype=np.float32))) is Value


def test_a_value_used_as_both_operands() -> None:
    a = Value(3.0)
    (a * a + a - a / a + a**a).backward()
    assert a.grad == pytest.approx(2 * 3 + 1 + 27 * (1 + 1.0986122886681098), rel=1e-12)  # log 3


def test_in_place_add_makes_a_new_value() -> None:
    a = first = Value(2.0)
    a += 3 * a
    a *= a
    a.backward()
    assert (first.data, a.data, first.grad) == (2.0, 64.0, 64.0)  # (4a)² has the slope 32a


def test_calling_backward_twice_adds_to_leaves_exactly_twice() -> None:
    a, b = Value(2.0), Value(-3.0)
    middle = a * b
    flat = (middle * 1.0).relu()
    out = (middle + a) * middle + flat
    out.backward()
    once = (a.grad, b.grad, middle.grad, flat.grad, out.grad)
    out.backward()
    assert (a.grad, b.grad) == (2 * once[0], 2 * once[1])
    assert (middle.grad, flat.grad, out.grad) == once[2:]
    a.zero_grad()
    assert a.grad == 0.0


def test_backward_on_a_leaf() -> None:
    a = Value(2.0)
    a.backward()
    a.backward()
    assert a.grad == 2.0


def test_setting_data_leaves_the_built_graph_alone() -> None:
    a = Value(3.0)
    square = a * a
    a.data = 10.0
    square.backward()
    assert (square.data, a.grad) == (9.0, 6.0)
    assert (a * a).data == 100.0


def test_nothing_flows_behind_a_silent_relu() -> None:
    a = Value(-2.0)
    inner = a * 3.0
    out = inner.relu() + a
    out.backward()
    assert (inner.grad, a.grad) == (0.0, 1.0)


def test_sum_and_dot_are_single_nodes() -> None:
    a, b = Value(2.0), Value(3.0)
    total = pea.sum([a, b, a, 1])
    product = pea.dot([a, b], [b, 4.0], bias=a)
    assert (total.op, total.data, len(total.parents)) == ("sum", 8.0, 4)
    assert (product.op, product.data, len(product.parents)) == ("dot", 20.0, 5)
    (total + product).backward()
    assert (a.grad, b.grad) == (2 + 3 + 1, 1 + 4 + 2)
    assert (pea.sum([]).data, pea.dot([], []).data) == (0.0, 0.0)
    assert pea.sum(v for v in (a, b)).data == 5.0


def test_sums_add_from_left_to_right() -> None:
    """As `+` does, on every Python: the built-in sum gives 2.0 for the first one from 3.12 on."""
    for terms in ([1.0, 1e100, 1.0, -1e100], [0.1] * 10, [-0.0], [1e308, 1e308, -1e308]):
        by_plus = 0.0
        for term in terms:
            by_plus += term
        assert pea.sum(terms).data == pea.dot(terms, [1.0] * len(terms)).data == by_plus
    assert (pea.sum([1.0, 1e100, 1.0, -1e100]).data, pea.sum([0.1] * 10).data) == (0.0, 0.9999999999999999)


def test_unequal_lengths_are_an_error() -> None:
    with pytest.raises(ValueError, match="2 weights, 3 inputs"):
        pea.dot([1.0, 2.0], [1.0, 2.0, 3.0])


def test_repr() -> None:
    assert repr(Value(2)) == "Value(2.0, grad=0.0)"
    assert repr(Value(0.1, label="w")) == "Value(0.1, grad=0.0, label='w')"


def test_leaves_copy_and_pickle() -> None:
    a = Value(2.0, label="a")
    a.grad = 0.5
    for twin in (copy.copy(a), copy.deepcopy(a), pickle.loads(pickle.dumps(a))):
        assert twin is not a
        assert repr(twin) == repr(a) == "Value(2.0, grad=0.5, label='a')"
    shared = copy.deepcopy([a, a])
    assert shared[0] is shared[1]


def test_results_refuse_to_be_copied_or_pickled() -> None:
    result = Value(2.0) * 3
    for refused in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"only leaves .* '\*'"):
            refused(result)


def test_graphs_make_no_garbage_for_the_cycle_collector() -> None:
    model = pea.nn.MLP(2, [3, 1])
    gc.collect()
    gc.disable()
    try:
        loss = model([1.0, 2.0]) ** 2
        loss.backward()
        del loss
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_no_stray_attributes() -> None:
    with pytest.raises(AttributeError):
        Value(1.0).gard = 1.0  # type: ignore[attr-defined]
