"""Checks for strategies, in one process."""

import copy
from typing import Any

import torch

from pealm_core import StrategySpec
from pealm_testing.base import ComponentConformance
from pealm_testing.dummies import Small
from pealm_testing.errors import ConformanceError


class StrategyConformance(ComponentConformance):
    """A strategy, with a small model in a single process, where it must change nothing."""

    kind = StrategySpec

    def test_one_process_trains_as_without_it(self) -> None:
        """Catches a strategy that needs a process group, or changes the loss or the gradients of one process."""
        model, strategy = _model(), self.make()
        if not isinstance(getattr(strategy, "collective", None), bool):
            raise ConformanceError("it has no `collective`: whether a forward pass needs all processes")
        module = strategy.wrap(model)
        plain, idx = _model(), torch.arange(16)[None]
        with strategy.no_sync(module):
            module(idx, idx)[1].backward()
        plain(idx, idx)[1].backward()
        norm = float(strategy.grad_norm([*model.parameters()]))
        expected = float(torch.nn.utils.get_total_norm([p.grad for p in plain.parameters() if p.grad is not None]))
        if not abs(norm - expected) <= 1e-4 * expected:
            raise ConformanceError(f"grad_norm is {norm:.6f} after one backward pass, not {expected:.6f}")

    def test_its_full_state_restores_a_run(self) -> None:
        """Catches names with a wrapper's prefix, and state that `load_state` leaves out."""
        first, strategy = _model(), self.make()
        module, optimizer = _started(strategy, first)
        _step(module, optimizer)
        weights, state = strategy.full_state(first, optimizer)
        if weights.keys() != _model().state_dict().keys():
            raise ConformanceError(f"full_state names the weights {', '.join(weights)}; use the model's own names")
        second, other = _model(), self.make()
        module2, optimizer2 = _started(other, second)
        other.load_state(second, optimizer2, weights, copy.deepcopy(state))  # not the tensors in use
        for _ in range(2):
            _step(module, optimizer)
            _step(module2, optimizer2)
        if not all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True)):
            raise ConformanceError("after full_state and load_state, the next steps differ")


def _model() -> Small:
    torch.manual_seed(0)
    return Small(16, 16)


def _started(strategy: Any, model: Small) -> tuple[Any, torch.optim.Optimizer]:
    return strategy.wrap(model), torch.optim.AdamW(model.parameters(), lr=0.01)


def _step(module: Any, optimizer: torch.optim.Optimizer) -> None:
    idx = torch.arange(16)[None]
    optimizer.zero_grad()
    module(idx, idx)[1].backward()
    optimizer.step()
