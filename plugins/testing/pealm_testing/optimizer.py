"""Checks for optimizers."""

import tempfile
from collections import Counter
from pathlib import Path
from typing import ClassVar

import torch

from pealm_core import OptimizerSpec
from pealm_testing.base import Conformance
from pealm_testing.core import read_tree, write_tree
from pealm_testing.dummies import Toy
from pealm_testing.errors import ConformanceError


class OptimizerConformance(Conformance):
    """An optimizer, applied to a matrix and a bias with a quadratic loss.

    lr: a suitable peak learning rate. steps: how many, with a learning rate that falls linearly to zero, reduce the
    loss to a hundredth.
    """

    kind = OptimizerSpec
    lr: ClassVar[float] = 0.1
    steps: ClassVar[int] = 200

    def on(self, model: Toy) -> torch.optim.Optimizer:
        """Make the optimizer for a model."""
        config = self.settings()
        optimizer = self.entry.make(config, model, lr=self.lr)
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ConformanceError(
                f"factory(config, model, *, lr) must return a torch.optim.Optimizer, not {optimizer!r:.60}"
            )
        return optimizer

    def test_it_has_every_parameter_once(self) -> None:
        """Catches a parameter that is not trained or is updated twice, and a frozen one that is trained."""
        model = Toy()
        optimizer = self.on(model)
        counts = Counter(id(p) for group in optimizer.param_groups for p in group["params"])
        for name, p in model.named_parameters():
            if p.requires_grad and counts[id(p)] != 1:
                raise ConformanceError(f"{name} is in {counts[id(p)]} groups; every trainable parameter is in one")
        before = model.frozen.clone()
        _step(model, optimizer)
        if not torch.equal(model.frozen, before):
            raise ConformanceError("it changes a parameter with requires_grad=False: leave those out")
        if not all("lr" in group for group in optimizer.param_groups):
            raise ConformanceError("a group has no `lr` for the schedule to set")

    def test_it_minimises_a_quadratic(self) -> None:
        """Catches a wrong sign, mixed-up state, and steps that do not shrink with the learning rate."""
        model = Toy()
        optimizer = self.on(model)
        start = model.loss().item()
        rates = [group["lr"] for group in optimizer.param_groups]
        for step in range(self.steps):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * (1 - step / self.steps)
            _step(model, optimizer)
        end = model.loss().item()
        if not end < start / 100:
            raise ConformanceError(
                f"after {self.steps} steps with lr = {self.lr}, falling to 0, a quadratic loss went from {start:.4g} "
                f"to {end:.4g}: check the sign, or set a more suitable lr = ... in the test class"
            )

    def test_zero_learning_rate_changes_nothing(self) -> None:
        """Catches an optimizer that ignores the schedule: warm-up and decay would have no effect."""
        model = Toy()
        optimizer = self.on(model)
        _step(model, optimizer)
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        before = {name: p.clone() for name, p in model.named_parameters()}
        _step(model, optimizer)
        if moved := [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]:
            raise ConformanceError(
                f"with lr = 0 in every group, {', '.join(moved)} still changes: multiply every update by "
                f"group['lr'], also weight decay"
            )

    def test_resume_is_exact(self) -> None:
        """Catches state outside of state_dict, such as a step counter: a resumed run would differ."""
        reference, first, second = Toy(), Toy(), Toy()
        _steps(reference, self.on(reference), 10)
        optimizer = self.on(first)
        _steps(first, optimizer, 5)
        second.load_state_dict(first.state_dict())
        resumed = self.on(second)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "optimizer.safetensors")
            try:
                write_tree(path, optimizer.state_dict())
                resumed.load_state_dict(read_tree(path))
            except Exception as error:
                raise ConformanceError(
                    f"its state_dict can't be saved and loaded ({type(error).__name__}: {error}): the state of a "
                    f"parameter consists of tensors, numbers and text"
                ) from error
        _steps(second, resumed, 5)
        for (name, p), q in zip(reference.named_parameters(), second.parameters(), strict=True):
            if not torch.equal(p, q):
                raise ConformanceError(
                    f"{name} differs (by {(p - q).abs().max().item():.2g}) between 10 steps, and 5 + 5 steps with a "
                    f"save between them: keep all state in self.state[p] or the groups"
                )

    def test_parameters_without_gradient_are_skipped(self) -> None:
        """Catches a step that fails on, or decays, a parameter without a gradient."""
        model = Toy()
        optimizer = self.on(model)
        model.loss().backward()
        model.linear.bias.grad, before = None, model.linear.bias.clone()
        try:
            optimizer.step()
        except Exception as error:
            raise ConformanceError(
                f"it fails on a parameter without a gradient ({type(error).__name__}: {error}): skip those"
            ) from error
        if not torch.equal(before, model.linear.bias):
            raise ConformanceError("it changes a parameter without a gradient: skip those")


def _step(model: Toy, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    model.loss().backward()
    optimizer.step()


def _steps(model: Toy, optimizer: torch.optim.Optimizer, n: int) -> None:
    for _ in range(n):
        _step(model, optimizer)
