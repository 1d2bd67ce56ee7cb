"""Checks for adapters."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pealm_core import AdapterSpec
from pealm_testing.base import ComponentConformance
from pealm_testing.core import Layer, apply_adapter, make_model, merged_state, plan, trainable_state
from pealm_testing.dummies import Small
from pealm_testing.errors import ConformanceError


class AdapterConformance(ComponentConformance):
    """An adapter, applied to a small model.

    model, sizes: the installed model that it adapts, and its settings; by default a small one with linear layers.
    """

    kind = AdapterSpec
    model: ClassVar[str | None] = None
    sizes: ClassVar[Mapping[str, Any]] = {}

    def base(self) -> nn.Module:
        """Make the model with the same random weights every time."""
        torch.manual_seed(0)
        if self.model is None:
            model: nn.Module = Small(19, 16)
        else:
            job = plan(("model", "tokenizer"), file=Layer("the test", {"model": {"name": self.model, **self.sizes}}))
            model, _ = make_model(job, 19)
        return model.eval()

    def adapted(self) -> nn.Module:
        """Make the adapted model, and change what is trainable, so that it differs from the base."""
        model = self.base()
        try:
            apply_adapter(self.make(), model)
        except ValueError as error:
            raise ConformanceError(str(error)) from error
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in (p for p in model.parameters() if p.requires_grad):
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
        return model

    def test_a_part_is_trainable(self) -> None:
        """Catches an adapter that freezes everything, or whose parameters get no gradient."""
        model = self.adapted().train()
        idx = _tokens(model)
        loss = model(idx, idx)[1]
        if loss.requires_grad:
            loss.backward()
        if missing := [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]:
            raise ConformanceError(f"{', '.join(missing)} has no gradient: use it in the changed model's forward")

    def test_merging_keeps_the_logits(self) -> None:
        """Catches a wrong scale or orientation in `merge`: an exported model would answer differently."""
        model, base = self.adapted(), self.base()
        idx = _tokens(model)
        before = _logits(model, idx)
        state = merged_state(model)
        if not torch.allclose(before, after := _logits(model, idx), atol=1e-4):
            raise ConformanceError(f"merge changes the logits by {float((before - after).abs().max()):.2g}")
        own = base.state_dict()
        if state.keys() != own.keys():
            names = sorted(state.keys() ^ own.keys())
            raise ConformanceError(f"after merge, the state dict has other names than the base's: {', '.join(names)}")
        base.load_state_dict(state)
        if not torch.allclose(before, _logits(base, idx), atol=1e-4):
            raise ConformanceError("the merged state dict in the base model gives other logits: undo all changes")

    def test_what_is_trainable_is_all_that_is_needed(self) -> None:
        """Catches state that a checkpoint would lack: only trainable and added tensors are saved."""
        first, second = self.adapted(), self.base()
        torch.manual_seed(7)
        apply_adapter(self.make(), second)
        second.load_state_dict(trainable_state(first), strict=False)
        idx = _tokens(first)
        if not torch.equal(_logits(first, idx), _logits(second, idx)):
            raise ConformanceError(
                "a new adapted model with the saved tensors gives other logits: keep what is learned in "
                "nn.Parameter, what is random in register_buffer, and leave frozen weights as they are"
            )


def _tokens(model: Any) -> Tensor:
    shape = 3, min(16, model.config.block_size)
    return torch.randint(model.config.vocab_size, shape, generator=torch.Generator().manual_seed(2))


def _logits(model: Any, idx: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(idx)[0]
    return logits
