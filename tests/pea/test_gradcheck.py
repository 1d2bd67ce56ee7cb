"""`pea.check` finds a wrong derivative, names it, and leaves everything as it was."""

import random

import pytest

import pea
from pea import Value
from pea.engine import make_node


def wrong_cube(v: Value) -> Value:
    return make_node(v.data**3, "cube", (v,), (2 * v.data**2,))  # should be 3


def test_right_gradients_are_right() -> None:
    report = pea.check(lambda a, b: (a * b).tanh() + b**3 / a, 0.7, -1.3)
    assert report.ok
    assert report.worst.error < 1e-9
    assert repr(report).startswith("all 2 gradients agree; worst is input ")


def test_a_wrong_gradient_is_shown() -> None:
    a, b = Value(1.5, label="a"), Value(2.0, label="b")
    report = pea.check(lambda a, b: a * 5 + wrong_cube(b), a, b)
    assert not report.ok
    assert report.worst.name == "b"
    assert report.worst.backward == 8.0
    assert report.worst.difference == pytest.approx(12.0)
    assert repr(report).startswith("1 of 2 gradients WRONG; worst is b at 2: backward() says 8, ")


def test_inputs_are_left_as_they_were() -> None:
    a = Value(0.1)
    a.grad = 7.0
    pea.check(lambda a: a * a, a)
    with pytest.raises(ZeroDivisionError):
        pea.check(lambda a: 1 / (a - a.data) * 0.0, a)
    assert (a.data, a.grad) == (0.1, 7.0)


def test_no_gradient_stays_behind() -> None:
    model, outer = pea.nn.MLP(1, [2, 1], activation="tanh"), Value(2.0) * 3
    outer.grad = 5.0
    everything = [*model.parameters(), *outer.parents, outer]
    before = [v.grad for v in everything]
    assert pea.check(lambda x: pea.sum([model([x]) * outer, x, x]), 0.5).ok
    assert [v.grad for v in everything] == before
    leaf = Value(1.0)
    assert pea.check(lambda x: leaf, 2.0).ok
    assert leaf.grad == 0.0


def test_a_whole_model() -> None:
    model = pea.nn.MLP(2, [3, 1], activation="tanh", rng=random.Random(0))
    report = pea.check(lambda *_: (model([0.5, -0.2]) - 1.0) ** 2, *model.parameters())
    assert len(report.rows) == len(model.parameters())
    assert report.ok


def test_kinks_show() -> None:
    report = pea.check(lambda a: a.relu(), 0.0)
    assert not report.ok
    assert report.worst.backward == 0.0
    assert report.worst.difference == pytest.approx(0.5)


def test_nan_agrees_with_nothing() -> None:
    assert not pea.check(lambda a: a * float("nan"), 1.0).ok


def test_mistakes() -> None:
    with pytest.raises(TypeError, match=r"must give a Value, not 2\.0"):
        pea.check(lambda a: a.data, 2.0)
    with pytest.raises(ValueError, match="nothing to check"):
        pea.check(lambda: Value(1.0))
