"""Scalar reverse-mode automatic differentiation: a `Value` records how it was computed.

Every operation returns a new `Value` with its result, its parents, and one *slope* for each parent: the local
derivative, a plain number, computed at the same time. `backward()` then needs a single rule, the chain rule:
walk from the result back to the inputs and add `slope * gradient` to the gradient of each parent.

Operands. A number is an `int`, a `float` or another real number such as a numpy scalar, on either side of the
operator; `True` is 1.0, as everywhere in Python. Anything else is a `TypeError`: `complex`, `str`, arrays.

Errors. The rule is that of Python's floats. What they refuse raises the same exception here, with the values in
its message: `log(0)` is a `ValueError`, `1 / 0` and `0 ** -1` are a `ZeroDivisionError`, `exp(1000)` is an
`OverflowError`. A slope that cannot be computed (`Value(0) ** 0.5`) raises as well. What floats accept is
accepted: `1e308 * 10` is `inf`, `nan` stays `nan`. There is one exception: a negative number to a fractional
power is complex in Python, and a `ValueError` here.

Setting `.data` changes what is computed from then on. An existing graph keeps its values and slopes, so its
`backward()` still gives the gradients at the numbers it was built from.
"""

from __future__ import annotations

import math
from numbers import Real


class Value:
    """A number in a graph: `data`, its gradient `grad`, and how it was made: `op`, `parents` and `slopes`.

    >>> a, b = Value(2.0), Value(3.0)
    >>> c = a * b + b
    >>> c.backward()
    >>> c.data, a.grad, b.grad
    (9.0, 3.0, 3.0)
    """

    __slots__ = ("data", "grad", "label", "op", "parents", "slopes")
    __array_ufunc__ = None  # so that numpy leaves `np.float64(2) * value` to `__rmul__`

    def __init__(self, data: float, label: str = "") -> None:
        if not isinstance(data, (int, float, Real)):
            raise TypeError(f"a Value holds one real number, not {data!r} ({type(data).__name__})")
        self.data = float(data)
        self.grad = 0.0
        self.label = label
        self.op = ""  # empty for a leaf, which no operation made
        self.parents: tuple[Value, ...] = ()
        self.slopes: tuple[float, ...] = ()  # one for each parent, or none if no gradient flows back

    # Arithmetic. Each result consists of its number, the name of the operation, the parents and their slopes.

    def __add__(self, other: Value | float) -> Value:
        other = other if isinstance(other, Value) else Value(other)
        return make_node(self.data + other.data, "+", (self, other), (1.0, 1.0))  # d(x+y)/dx = d(x+y)/dy = 1

    def __sub__(self, other: Value | float) -> Value:
        other = other if isinstance(other, Value) else Value(other)
        return make_node(self.data - other.data, "-", (self, other), (1.0, -1.0))

    def __mul__(self, other: Value | float) -> Value:
        other = other if isinstance(other, Value) else Value(other)
        return make_node(self.data * other.data, "*", (self, other), (other.data, self.data))  # d(xy)/dx = y

    def __truediv__(self, other: Value | float) -> Value:
        other = other if isinstance(other, Value) else Value(other)
        x, y = self.data, other.data
        try:
            out = x / y
        except ZeroDivisionError:
            raise ZeroDivisionError(f"{x} / {y}: division by zero") from None
        return make_node(out, "/", (self, other), (1.0 / y, -out / y))  # (x/y)' = 1/y and -x/y²

    def __pow__(self, other: Value | float) -> Value:
        """Raise to a power. If `other` is a `Value`, it gets a gradient, and a negative base is an error."""
        x = self.data
        if not isinstance(other, Value):
            y = Value(other).data
            return make_node(_power(x, y), f"**{y:g}", (self,), (_base_slope(x, y),))
        y = other.data
        return make_node(_power(x, y), "**", (self, other), (_base_slope(x, y), _exponent_slope(x, y)))

    def __neg__(self) -> Value:
        return make_node(-self.data, "neg", (self,), (-1.0,))

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: float) -> Value:
        return Value(other) - self

    def __rtruediv__(self, other: float) -> Value:
        return Value(other) / self

    def __rpow__(self, other: float) -> Value:
        x, y = Value(other).data, self.data
        return make_node(_power(x, y), f"{x:g}**", (self,), (_exponent_slope(x, y),))

    # Functions of one number. At a kink (relu and abs at 0) the slope is 0, as in torch.

    def relu(self) -> Value:
        x = self.data
        if x <= 0.0:
            return make_node(0.0, "relu", (self,), ())  # the slope is 0: backward() can skip the parents
        return make_node(x, "relu", (self,), (1.0,))

    def abs(self) -> Value:
        x = self.data
        return make_node(math.fabs(x), "abs", (self,), (math.copysign(1.0, x) if x else 0.0,))

    __abs__ = abs

    def exp(self) -> Value:
        try:
            out = math.exp(self.data)
        except OverflowError:
            raise OverflowError(f"exp({self.data}): too large for a float, whose limit is exp(709.78)") from None
        return make_node(out, "exp", (self,), (out,))  # exp is its own derivative

    def log(self) -> Value:
        x = self.data
        try:
            out = math.log(x)
        except ValueError:
            raise ValueError(f"log({x}): only positive numbers have a logarithm") from None
        return make_node(out, "log", (self,), (1.0 / x,))

    def tanh(self) -> Value:
        out = math.tanh(self.data)
        return make_node(out, "tanh", (self,), (1.0 - out * out,))

    def sigmoid(self) -> Value:
        x = self.data
        e = math.exp(-math.fabs(x))  # at most 1, so it cannot overflow
        out = (1.0 if x >= 0.0 else e) / (1.0 + e)
        return make_node(out, "sigmoid", (self,), (e / (1.0 + e) ** 2,))  # s (1 - s), without cancellation

    # The chain rule.

    def backward(self) -> None:
        """Add the derivative of this value to the `grad` of every leaf it was computed from.

        Gradients of leaves accumulate over calls, so that a training step can have several losses; `zero_grad`
        resets them. Intermediate results have the gradient of the last call that reached them.
        """
        order = self._order()
        for node in order:
            node.grad = 0.0
        self.grad = 1.0 if self.parents else self.grad + 1.0
        for node in reversed(order):
            grad = node.grad
            for parent, slope in zip(node.parents, node.slopes):  # noqa: B905 - a flat node has no slopes
                parent.grad += slope * grad

    def _order(self) -> list[Value]:
        """List the results that gradients flow through in topological order: parents first, without the leaves.

        A depth-first search with an explicit stack, because recursion would fail on deep graphs. Each node is
        pushed a second time, below the marker `done`: when the marker is popped, all parents are in the list.
        """
        done = Value(0.0)
        order: list[Value] = []
        seen: set[Value] = set()
        stack = [self] if self.parents else []
        while stack:
            node = stack.pop()
            if node is done:
                order.append(stack.pop())
            elif node not in seen:
                seen.add(node)
                stack.append(node)
                stack.append(done)
                if node.slopes:
                    for parent in node.parents:
                        if parent.parents and parent not in seen:
                            stack.append(parent)
        return order

    def zero_grad(self) -> None:
        """Set the gradient of this value to zero."""
        self.grad = 0.0

    def __repr__(self) -> str:
        label = f", label={self.label!r}" if self.label else ""
        return f"Value({self.data!r}, grad={self.grad!r}{label})"

    def __reduce__(self) -> tuple[object, ...]:
        """Support copying and pickling of leaves, and so of models. A result needs its graph, so it is refused."""
        if self.parents:
            raise TypeError(f"only leaves can be copied or pickled, not a result of {self.op!r}: use Value(v.data)")
        return Value, (self.data, self.label), (None, {"grad": self.grad})


def make_node(data: float, op: str, parents: tuple[Value, ...], slopes: tuple[float, ...]) -> Value:
    """Make the result of an operation. It skips the checks of `Value()`, since most of the time is spent here."""
    node = _new(Value)
    node.data = data
    node.grad = 0.0
    node.label = ""
    node.op = op
    node.parents = parents
    node.slopes = slopes
    return node


_new = object.__new__


def _power(x: float, y: float, where: str = "") -> float:
    try:
        out = x**y
    except (ZeroDivisionError, OverflowError) as error:
        reason = "division by zero" if isinstance(error, ZeroDivisionError) else "too large for a float"
        raise type(error)(f"{where}{x} ** {y}: {reason}") from None
    if isinstance(out, complex):
        raise ValueError(f"{x} ** {y} is not real: a negative base needs a whole exponent")
    return float(out)


def _base_slope(x: float, y: float) -> float:
    return y * _power(x, y - 1.0, f"slope of {x} ** {y}: ") if y else 0.0  # (xʸ)' = y xʸ⁻¹


def _exponent_slope(x: float, y: float) -> float:
    if x < 0.0:
        raise ValueError(f"{x} ** Value({y}): the slope of the exponent needs log({x}); use a number as exponent")
    if x == 0.0 <= y:
        return 0.0  # the limit for y > 0; there is none for y = 0, where torch has 0 as well
    return _power(x, y) * (math.log(x) if x else -math.inf)  # (xʸ)' = xʸ log x
