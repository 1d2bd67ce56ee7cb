"""Optimizers: update parameters from their gradients. A schedule can set `lr` before each step."""

from __future__ import annotations

from collections.abc import Iterable

from pea.engine import Value


class Optimizer:
    """Base class: the parameters and the learning rate."""

    def __init__(self, params: Iterable[Value], lr: float) -> None:
        self.params = list(params)
        self.lr = lr
        if not self.params:
            raise ValueError("no parameters to optimize")
        if lr < 0:
            raise ValueError(f"lr={lr}: the learning rate must not be negative")

    def zero_grad(self) -> None:
        """Set all gradients to zero."""
        for p in self.params:
            p.grad = 0.0


class SGD(Optimizer):
    """Gradient descent, optionally with momentum.

    `v = momentum * v + grad`, then `p -= lr * v`, as in torch without dampening.
    """

    def __init__(self, params: Iterable[Value], lr: float, *, momentum: float = 0.0) -> None:
        super().__init__(params, lr)
        self.momentum = momentum
        self.velocity = [0.0] * len(self.params)

    def step(self) -> None:
        """Update every parameter once."""
        lr = float(self.lr)  # a schedule may set a numpy scalar, which would turn the weights into numpy scalars
        for i, p in enumerate(self.params):
            self.velocity[i] = self.momentum * self.velocity[i] + p.grad
            p.data -= lr * self.velocity[i]


class Adam(Optimizer):
    """Adam (Kingma & Ba 2014, arXiv:1412.6980, algorithm 1). Steps are about `lr`, whatever the gradient's scale."""

    def __init__(
        self,
        params: Iterable[Value],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, lr)
        self.betas = betas
        self.eps = eps
        self.t = 0
        self.m = [0.0] * len(self.params)  # running mean of gradients
        self.v = [0.0] * len(self.params)  # running mean of squared gradients

    def step(self) -> None:
        """Update every parameter once."""
        lr = float(self.lr)
        beta1, beta2 = self.betas
        self.t += 1
        for i, p in enumerate(self.params):
            self.m[i] = beta1 * self.m[i] + (1.0 - beta1) * p.grad
            self.v[i] = beta2 * self.v[i] + (1.0 - beta2) * p.grad**2
            mean = self.m[i] / (1.0 - beta1**self.t)  # the means start at 0; this corrects the bias
            square = self.v[i] / (1.0 - beta2**self.t)
            p.data -= lr * mean / (square**0.5 + self.eps)
