"""Numbers that remember how they were made, so that one number's gradient reaches all the others.

Every operation makes a new `Value` that keeps its result, its parents, and one *slope* a parent: the local
derivative, a plain number, worked out on the spot. `backward()` then needs a single rule, the chain rule:
walk from the result to the inputs and add `slope * gradient` to each parent.

Operands. A number is an `int`, a `float` or another real number such as a numpy scalar, on either side of the
operator; `True` is 1.0, as everywhere in Python. Anything else is a `TypeError`: `complex`, `str`, arrays.

Errors. Python's own floats decide. What they refuse is refused, by the same kind of exception with the values
in its message: `log(0)` is a `ValueError`, `1 / 0` and `0 ** -1` are a `ZeroDivisionError`, `exp(1000)` is an
`OverflowError`; a slope that cannot be computed (`0 ** 0.5`) counts like a value that cannot. What they let
through goes through: `1e308 * 10` is `inf`, `nan` stays `nan`. One thing is stricter: a negative number to a
fractional power, complex in Python, is a `ValueError` here.

Setting `.data` changes what is computed from then on. A graph that already exists keeps its values and its
slopes, so its `backward()` still gives the gradients at the numbers it was built from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Real
from operator import mul


class Value:
    """A number in a graph: `data`, its gradient `grad`, and the `op`, `parents` and `slopes` that made it.

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
        self.op = ""  # a leaf: nothing made it
        self.parents: tuple[Value, ...] = ()
        self.slopes: tuple[float, ...] = ()  # one a parent, or none at all where nothing flows back

    # Arithmetic. Each result says: its number, its name, what made it, how fast it moves with each of those.

    def __add__(self, other: Value | float) -> Value:
        other = other if isinstance(other, Value) else Value(other)
        return _node(self.data + other.data, "+", (self, other), (1.0, 1.0))  # moves as much as either term

    def __sub__(self, other: Value | float) -> Value:
        other = other if isinstance(other, Value) else Value(other)
        return _node(self.data - other.data, "-", (self, other), (1.0, -1.0))

    def __mul__(self, other: Value | float) -> Value:
        other = other if isinstance(other, Value) else Value(other)
        return _node(self.data * other.data, "*", (self, other), (other.data, self.data))  # the other factor

    def __truediv__(self, other: Value | float) -> Value:
        other = other if isinstance(other, Value) else Value(other)
        x, y = self.data, other.data
        try:
            out = x / y
        except ZeroDivisionError:
            raise ZeroDivisionError(f"{x} / {y}: division by zero") from None
        return _node(out, "/", (self, other), (1.0 / y, -out / y))  # (x/y)' = 1/y and -x/y²

    def __pow__(self, other: Value | float) -> Value:
        """`self ** other`; the exponent gets a gradient if it is a `Value`, and then no base is negative."""
        x = self.data
        if not isinstance(other, Value):
            y = Value(other).data
            return _node(_power(x, y), f"**{y:g}", (self,), (_base_slope(x, y),))
        y = other.data
        return _node(_power(x, y), "**", (self, other), (_base_slope(x, y), _exponent_slope(x, y)))

    def __neg__(self) -> Value:
        return _node(-self.data, "neg", (self,), (-1.0,))

    def __radd__(self, other: float) -> Value:
        return self + other

    def __rsub__(self, other: float) -> Value:
        return Value(other) - self

    def __rmul__(self, other: float) -> Value:
        return self * other

    def __rtruediv__(self, other: float) -> Value:
        return Value(other) / self

    def __rpow__(self, other: float) -> Value:
        x, y = Value(other).data, self.data
        return _node(_power(x, y), f"{x:g}**", (self,), (_exponent_slope(x, y),))

    # Functions of one number. At a kink (relu and abs at 0) the slope is 0, which is torch's choice as well.

    def relu(self) -> Value:
        x = self.data
        if x <= 0.0:
            return _node(0.0, "relu", (self,), ())  # flat here: backward() need not look behind it
        return _node(x, "relu", (self,), (1.0,))

    def abs(self) -> Value:
        x = self.data
        return _node(math.fabs(x), "abs", (self,), (math.copysign(1.0, x) if x else 0.0,))

    __abs__ = abs

    def exp(self) -> Value:
        try:
            out = math.exp(self.data)
        except OverflowError:
            raise OverflowError(f"exp({self.data}): too large for a float, whose limit is exp(709.78)") from None
        return _node(out, "exp", (self,), (out,))  # the one function that is its own slope

    def log(self) -> Value:
        x = self.data
        try:
            out = math.log(x)
        except ValueError:
            raise ValueError(f"log({x}): only positive numbers have a logarithm") from None
        return _node(out, "log", (self,), (1.0 / x,))

    def tanh(self) -> Value:
        out = math.tanh(self.data)
        return _node(out, "tanh", (self,), (1.0 - out * out,))

    def sigmoid(self) -> Value:
        x = self.data
        e = math.exp(-math.fabs(x))  # never above 1, so neither end overflows
        out = (1.0 if x >= 0.0 else e) / (1.0 + e)
        return _node(out, "sigmoid", (self,), (e / (1.0 + e) ** 2,))  # s (1 - s), without the cancellation

    # The chain rule.

    def backward(self) -> None:
        """Add the derivative of this value to the `grad` of every leaf it was made from.

        Leaves add up over calls, as a training step with several losses needs it; `zero_grad` starts afresh.
        Results in the middle show the gradient of the last call that reached them.
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
        """List the results that gradients flow through, each after all of its parents; leaves are left out.

        Depth first, with a stack of its own, since a deep graph would exhaust Python's. A node goes back on
        it below the mark `done`: when that comes up again, what lay above it, the node's parents, is listed.
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
        """Set this value's own gradient to zero."""
        self.grad = 0.0

    def __repr__(self) -> str:
        label = f", label={self.label!r}" if self.label else ""
        return f"Value({self.data!r}, grad={self.grad!r}{label})"

    def __reduce__(self) -> tuple[object, ...]:
        """Let leaves, and so whole models, be copied and pickled; a result, tied to its graph, refuses."""
        if self.parents:
            raise TypeError(f"only leaves can be copied or pickled, not a result of {self.op!r}: use Value(v.data)")
        return Value, (self.data, self.label), (None, {"grad": self.grad})


def _node(data: float, op: str, parents: tuple[Value, ...], slopes: tuple[float, ...]) -> Value:
    """Make the result of an operation, without the checks of `Value()`: all speed hangs on it."""
    node = _new(Value)
    node.data = data
    node.grad = 0.0
    node.label = ""
    node.op = op
    node.parents = parents
    node.slopes = slopes
    return node


_new = object.__new__


def _power(x: float, y: float) -> float:
    try:
        out = x**y
    except ZeroDivisionError:
        raise ZeroDivisionError(f"{x} ** {y}: division by zero") from None
    except OverflowError:
        raise OverflowError(f"{x} ** {y}: too large for a float") from None
    if isinstance(out, complex):
        raise ValueError(f"{x} ** {y} is not real: a negative base needs a whole exponent")
    return float(out)


def _base_slope(x: float, y: float) -> float:
    try:
        return float(y * x ** (y - 1.0)) if y else 0.0  # (xʸ)' = y xʸ⁻¹
    except ZeroDivisionError:
        raise ZeroDivisionError(f"{x} ** {y}: its slope divides by zero") from None
    except OverflowError:
        raise OverflowError(f"{x} ** {y}: its slope is too large for a float") from None


def _exponent_slope(x: float, y: float) -> float:
    if x == 0.0 <= y:
        return 0.0  # the limit of xʸ log x for y > 0; for y = 0 there is none, and torch has 0 as well
    try:
        return float(x**y * (math.log(x) if x else -math.inf))  # (xʸ)' = xʸ log x
    except ValueError:
        raise ValueError(
            f"{x} ** Value({y}): the exponent's slope needs log({x}); use a plain number as exponent"
        ) from None


# Sums over sequences. As one node, `w·x + b` has 2n + 1 parents; as `*` and `+` it would be 2n nodes. They add from
# left to right, as `+` does: the built-in `sum` compensates for rounding, but only from Python 3.12 on.


def sum(terms: Iterable[Value | float]) -> Value:
    """Add up `terms` as one node.

    >>> sum([Value(1.0), Value(2.0), 3])
    Value(6.0, grad=0.0)
    """
    values = as_values(terms)
    out = 0.0
    for v in values:
        out += v.data
    return _node(out, "sum", values, (1.0,) * len(values))


def dot(weights: Iterable[Value | float], inputs: Iterable[Value | float], bias: Value | float = 0.0) -> Value:
    """Compute `w₁x₁ + w₂x₂ + … + bias` as one node; `ValueError` unless both sequences are of one length.

    >>> dot([Value(2.0), Value(3.0)], [10.0, 1.0], bias=0.5)
    Value(23.5, grad=0.0)
    """
    ws, xs = as_values(weights), as_values(inputs)
    if len(ws) != len(xs):
        raise ValueError(f"dot needs as many inputs as weights: {len(ws)} weights, {len(xs)} inputs")
    return affine(ws, xs, bias if isinstance(bias, Value) else Value(bias))


def affine(ws: Sequence[Value], xs: Sequence[Value], b: Value) -> Value:
    """Do what `dot` does, for `Value`s that have been checked: `nn` checks once and calls this many times."""
    wdata = [w.data for w in ws]
    xdata = [x.data for x in xs]
    out = b.data
    for product in map(mul, wdata, xdata):
        out += product
    return _node(out, "dot", (*ws, *xs, b), (*xdata, *wdata, 1.0))  # as in `*`: the slope is the other factor


def as_values(numbers: Iterable[Value | float]) -> tuple[Value, ...]:
    """Turn the plain numbers of a sequence into constants, that is into leaves that nobody asks about."""
    return tuple([v if isinstance(v, Value) else Value(v) for v in numbers])
