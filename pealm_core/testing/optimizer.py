"""What an optimizer must do."""

import tempfile
from collections import Counter
from pathlib import Path
from typing import ClassVar

import torch

from pealm_core.checkpoints.build import make
from pealm_core.checkpoints.tensors import read_optimizer, write_optimizer
from pealm_core.contract.specs import OptimizerSpec
from pealm_core.testing.base import Conformance
from pealm_core.testing.dummies import Toy


class OptimizerConformance(Conformance):
    """An optimizer, on a matrix and a bias whose loss is a quadratic.

    lr: a peak rate that suits it. steps: how many, of a rate that falls to zero, take the loss to a hundredth.
    """

    kind = OptimizerSpec
    lr: ClassVar[float] = 0.1
    steps: ClassVar[int] = 200

    def on(self, model: Toy) -> torch.optim.Optimizer:
        """The optimizer of a model's parameters."""
        config = self.settings()
        optimizer: torch.optim.Optimizer = make(self.entry, *([] if config is None else [config]), model, lr=self.lr)
        assert isinstance(optimizer, torch.optim.Optimizer), (
            f"the factory gives {optimizer!r:.60}: factory(config, model, *, lr) must give a torch.optim.Optimizer"
        )
        return optimizer

    def test_it_takes_every_parameter_once(self) -> None:
        """Catches a parameter that is never trained, or stepped twice, and a frozen one that is trained."""
        model = Toy()
        optimizer = self.on(model)
        taken = Counter(id(p) for group in optimizer.param_groups for p in group["params"])
        for name, p in model.named_parameters():
            if p.requires_grad:
                assert taken[id(p)] == 1, f"{name} is in {taken[id(p)]} groups: each trainable parameter is in one"
        before = model.frozen.clone()
        _step(model, optimizer)
        assert torch.equal(model.frozen, before), "it changes a parameter with requires_grad=False: leave those out"
        assert all("lr" in group for group in optimizer.param_groups), "a group has no `lr` for the schedule to set"

    def test_it_minimises_a_quadratic(self) -> None:
        """Catches a wrong sign, a state that is mixed up, a step that does not shrink with the rate."""
        model = Toy()
        optimizer = self.on(model)
        start = model.loss().item()
        rates = [group["lr"] for group in optimizer.param_groups]
        for step in range(self.steps):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * (1 - step / self.steps)
            _step(model, optimizer)
        end = model.loss().item()
        assert end < start / 100, (
            f"after {self.steps} steps at lr = {self.lr}, falling to 0, a quadratic is at {end:.4g} of {start:.4g}: "
            f"is the sign right? A rate that suits it better: lr = ... in the test class"
        )

    def test_a_rate_of_zero_changes_nothing(self) -> None:
        """Catches a rate of its own: the warm-up and the decay of --lr would have no effect."""
        model = Toy()
        optimizer = self.on(model)
        _step(model, optimizer)
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        before = {name: p.clone() for name, p in model.named_parameters()}
        _step(model, optimizer)
        moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
        assert not moved, (
            f"with lr = 0 in every group {', '.join(moved)} still moves: use group['lr'] in each step, for weight "
            f"decay as well"
        )

    def test_it_goes_on_bit_for_bit(self) -> None:
        """Catches state outside of state_dict, such as a step counter of its own: a resumed run would differ."""
        whole, first, second = Toy(), Toy(), Toy()
        _steps(whole, self.on(whole), 10)
        optimizer = self.on(first)
        _steps(first, optimizer, 5)
        second.load_state_dict(first.state_dict())
        resumed = self.on(second)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "optimizer.safetensors")
            try:
                write_optimizer(path, optimizer.state_dict())
                resumed.load_state_dict(read_optimizer(path))
            except Exception as error:
                raise AssertionError(
                    f"its state_dict can't be saved and loaded ({type(error).__name__}: {error}): per parameter it "
                    f"holds tensors, numbers and text"
                ) from error
        _steps(second, resumed, 5)
        for (name, p), q in zip(whole.named_parameters(), second.parameters(), strict=True):
            assert torch.equal(p, q), (
                f"{name} differs (by {(p - q).abs().max().item():.2g}) between 10 steps and 5 + 5 with a save in "
                f"between: keep all state in self.state[p] or the groups"
            )

    def test_a_parameter_without_a_gradient_is_left_alone(self) -> None:
        """Catches a step that fails, or decays, where a parameter took no part."""
        model = Toy()
        optimizer = self.on(model)
        model.loss().backward()
        model.linear.bias.grad, before = None, model.linear.bias.clone()
        try:
            optimizer.step()
        except Exception as error:
            raise AssertionError(
                f"a parameter without a gradient makes it fail ({type(error).__name__}: {error}): skip those"
            ) from error
        assert torch.equal(before, model.linear.bias), "it changes a parameter without a gradient: skip those"


def _step(model: Toy, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    model.loss().backward()
    optimizer.step()


def _steps(model: Toy, optimizer: torch.optim.Optimizer, n: int) -> None:
    for _ in range(n):
        _step(model, optimizer)
