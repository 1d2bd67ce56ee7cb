"""Neurons, layers and multi-layer perceptrons, and the functions that turn their outputs into a loss."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pea.engine import Value
from pea.sums import affine, as_values, sum

ACTIVATIONS: dict[str, Callable[[Value], Value]] = {
    "relu": Value.relu,
    "tanh": Value.tanh,
    "sigmoid": Value.sigmoid,
    "linear": lambda v: v,
}


class Module:
    """Base class of everything with parameters."""

    def parameters(self) -> list[Value]:
        """Return the values that training changes."""
        raise NotImplementedError(f"{type(self).__name__} must define parameters()")

    def zero_grad(self) -> None:
        """Set all gradients to zero."""
        for p in self.parameters():
            p.grad = 0.0


class Neuron(Module):
    """`activation(w·x + b)`, over `nin` inputs.

    Weights are uniform with variance 1/nin, or 2/nin for relu, which drops half of the signal
    (He et al. 2015, arXiv:1502.01852); the bias starts at 0. They are drawn from `rng`, or from the module
    `random` by default, so `rng=random.Random(0)` or `random.seed(0)` makes them reproducible.

    >>> n = Neuron(2)
    >>> n.w[0].data, n.w[1].data = 1.0, -2.0
    >>> n([3.0, 1.0])
    Value(1.0, grad=0.0)
    """

    def __init__(self, nin: int, *, activation: str = "relu", rng: random.Random | None = None) -> None:
        if nin < 1:
            raise ValueError(f"a neuron needs at least one input, got nin={nin}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {activation!r}; known are {', '.join(ACTIVATIONS)}")
        bound = (3.0 * (2.0 if activation == "relu" else 1.0) / nin) ** 0.5
        uniform = (rng or random).uniform
        self.nin = nin
        self.activation = activation
        self.w = [Value(uniform(-bound, bound)) for _ in range(nin)]
        self.b = Value(0.0)

    def __call__(self, x: Iterable[Value | float]) -> Value:
        values = _inputs(self, x, self.nin)
        return self.forward(values, [v.data for v in values])

    def forward(self, x: Sequence[Value], data: Sequence[float]) -> Value:
        """Compute the output for inputs that are already checked and converted, and their numbers."""
        return ACTIVATIONS[self.activation](affine(self.w, x, self.b, data))

    def parameters(self) -> list[Value]:
        return [*self.w, self.b]

    def __repr__(self) -> str:
        return f"Neuron({self.nin}, activation={self.activation!r})"


class Layer(Module):
    """`nout` neurons with the same `nin` inputs. Gives a list of `nout` values, or one `Value` if `nout` is 1."""

    def __init__(self, nin: int, nout: int, *, activation: str = "relu", rng: random.Random | None = None) -> None:
        if nout < 1:
            raise ValueError(f"a layer needs at least one neuron, got nout={nout}")
        self.nin = nin
        self.neurons = [Neuron(nin, activation=activation, rng=rng) for _ in range(nout)]

    def __call__(self, x: Iterable[Value | float]) -> Any:
        out = self.forward(_inputs(self, x, self.nin))
        return out[0] if len(out) == 1 else out

    def forward(self, x: Sequence[Value]) -> list[Value]:
        """Compute the list of outputs for inputs that are already checked and converted."""
        data = [v.data for v in x]
        return [neuron.forward(x, data) for neuron in self.neurons]

    def parameters(self) -> list[Value]:
        return [p for neuron in self.neurons for p in neuron.parameters()]

    def __repr__(self) -> str:
        return f"Layer({self.nin}, {len(self.neurons)}, activation={self.neurons[0].activation!r})"


class MLP(Module):
    """A multi-layer perceptron: layers of sizes `nouts`, each applied to the outputs of the previous one.

    `activation` is the activation function of hidden layers, `output` that of the last one. Gives a list of
    `nouts[-1]` values, or one `Value` if that is 1:

    >>> model = MLP(2, [16, 16, 1])
    >>> isinstance(model([0.5, -1.0]), Value), len(model.parameters())
    (True, 337)
    """

    def __init__(
        self,
        nin: int,
        nouts: Sequence[int],
        *,
        activation: str = "relu",
        output: str = "linear",
        rng: random.Random | None = None,
    ) -> None:
        if not nouts:
            raise ValueError("an MLP needs at least one layer: give the sizes, such as MLP(2, [16, 1])")
        activations = [activation] * (len(nouts) - 1) + [output]
        sizes = zip([nin, *nouts[:-1]], nouts, activations, strict=True)
        self.nin = nin
        self.layers = [Layer(n, m, activation=act, rng=rng) for n, m, act in sizes]

    def __call__(self, x: Iterable[Value | float]) -> Any:
        out = self.forward(_inputs(self, x, self.nin))
        return out[0] if len(out) == 1 else out

    def forward(self, x: Sequence[Value]) -> list[Value]:
        """Compute the list of outputs for inputs that are already checked and converted."""
        first, *others = self.layers
        out = first.forward(x)
        for layer in others:
            out = layer.forward(out)
        return out

    def parameters(self) -> list[Value]:
        return [p for layer in self.layers for p in layer.parameters()]

    def __repr__(self) -> str:
        return f"MLP of [{', '.join(map(repr, self.layers))}]"


def _inputs(module: Module, x: Iterable[Value | float], nin: int) -> tuple[Value, ...]:
    """Check and convert the inputs of a call. `forward` of the inner modules then needs no checks."""
    values = as_values(x)
    if len(values) != nin:
        raise ValueError(f"{module!r} takes {nin} inputs, got {len(values)}")
    return values


def softmax(logits: Iterable[Value | float]) -> list[Value]:
    """Turn scores into probabilities, `exp(xᵢ) / Σ exp(xⱼ)`.

    The largest score is subtracted first: it cancels out, and `exp` cannot overflow.

    >>> [p.data for p in softmax([1000.0, 1000.0])]
    [0.5, 0.5]
    """
    exps, total, _ = _exps(as_values(logits))
    return [e / total for e in exps]


def cross_entropy_loss(logits: Iterable[Value | float], target: int) -> Value:
    """Compute `-log softmax(logits)[target]`, finite even for a very unlikely target.

    >>> round(cross_entropy_loss([0.0, 0.0, 0.0, 0.0], target=2).data, 4)  # log 4: four equal guesses
    1.3863
    """
    values = as_values(logits)
    if not 0 <= target < len(values):
        raise ValueError(f"target {target} is not one of the {len(values)} logits (0 to {len(values) - 1})")
    _, total, top = _exps(values)
    return total.log() + top - values[target]  # log Σ exp(xⱼ) - xₜ; the log of softmax could be log(0)


def _exps(logits: Sequence[Value]) -> tuple[list[Value], Value, float]:
    """Return `exp(x - top)` for every score, their sum (at least 1), and the largest score `top`."""
    if not logits:
        raise ValueError("no logits")
    top = max(x.data for x in logits)
    exps = [(x - top).exp() for x in logits]
    return exps, sum(exps), top


def one_hot(idx: int, n: int) -> list[float]:
    """Encode class `idx` of `n` as a list of zeros with a single one: `one_hot(1, 3) == [0.0, 1.0, 0.0]`."""
    if not 0 <= idx < n:
        raise ValueError(f"class {idx} is not one of {n} (0 to {n - 1})")
    return [1.0 if i == idx else 0.0 for i in range(n)]
