"""Checks for objectives."""

from collections.abc import Mapping
from typing import Any
from unittest import SkipTest

import torch
from torch import Tensor, nn

from pealm_core import IGNORE, ObjectiveSpec
from pealm_testing.base import Conformance
from pealm_testing.core import has, part, scored
from pealm_testing.dummies import Bytes, Small
from pealm_testing.errors import ConformanceError
from pealm_testing.watch import watched

ROWS, BLOCK = 8, 16


class ObjectiveConformance(Conformance):
    """An objective, on random tokens and a small model, whose targets are masked differently in each row."""

    kind = ObjectiveSpec

    def objective(self, model: nn.Module) -> Any:
        """Make the objective for a model. Its tokenizer is one of bytes, with the record's special tokens."""
        config = self.settings()
        return self.entry.make(config, model, Bytes(self.entry.spec.specials))

    def model(self) -> nn.Module:
        """Make the model."""
        torch.manual_seed(0)
        return Small(Bytes(self.entry.spec.specials).vocab_size, BLOCK)

    def batch(self, objective: Any, samples: range = range(ROWS), seed: int = 1) -> dict[str, Tensor]:
        """Return the samples with these numbers, prepared."""
        rows = []
        for sample in samples:
            ids = torch.randint(256, (BLOCK + 1,), generator=torch.Generator().manual_seed(sample))
            targets = ids[1:].clone()
            targets[: sample % 4] = IGNORE
            rows.append((ids[:-1], targets))
        idx, targets = (torch.stack(column) for column in zip(*rows, strict=True))
        batch = {"idx": idx, "targets": targets, "sample": torch.tensor(samples)}
        return dict(objective.prepare(batch, seed)) if has(objective, "prepare") else batch

    def test_the_loss_trains_the_model(self) -> None:
        """Catches a loss that is not a scalar, or that no gradient comes from."""
        model = self.model()
        objective = self.objective(model)
        batch = self.batch(objective)
        loss, _ = self._loss(objective, model, batch)
        torch.autograd.backward(loss)
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        if not any(grad.any() for grad in grads):
            raise ConformanceError("after loss.backward(), no parameter of the model has a gradient")
        if not all(grad.isfinite().all() for grad in grads):
            raise ConformanceError("the gradients are not finite")

    def test_it_calls_the_model_once(self) -> None:
        """Catches a second forward pass, which breaks DistributedDataParallel and torch.compile."""
        model, calls = self.model(), list[int]()
        objective = self.objective(model)
        model.register_forward_hook(lambda *_: calls.append(1))
        self._loss(objective, model, self.batch(objective))
        if len(calls) != 1:
            raise ConformanceError(f"loss calls the model {len(calls)} times; it must be exactly once")

    def test_weight_and_loss_agree(self) -> None:
        """Catches a loss that is a sum, or a mean over other targets than `weight` counts."""
        model = self.model()
        objective = self.objective(model)
        batch = self.batch(objective)
        whole, total = self._loss(objective, model, batch)[0], scored(objective, batch)
        parts = [part(batch, start, 1) for start in range(len(batch["idx"]))]
        losses = [self._loss(objective, model, b)[0] * scored(objective, b) for b in parts]
        mean = torch.stack(losses).sum() / total
        if not torch.allclose(whole, mean, rtol=1e-3):
            raise ConformanceError(
                f"the loss of {ROWS} rows is {whole.item():.5f}; the mean of the rows' losses, weighted by `weight`, "
                f"is {mean.item():.5f}: loss must be the mean over the targets that weight counts"
            )

    def test_a_batch_without_scored_targets_is_finite(self) -> None:
        """Catches 0 divided by 0: such a batch has the weight 0, but takes part in the backward pass."""
        model = self.model()
        objective = self.objective(model)
        batch = self.batch(objective)
        batch["targets"] = torch.full_like(batch["targets"], IGNORE)
        scored(objective, batch)  # fills in one, as the trainer does
        if not self._loss(objective, model, batch)[0].isfinite():
            raise ConformanceError("with a single scored target, the loss is not finite")

    def test_prepare_does_not_depend_on_the_processes(self) -> None:
        """Catches noise from a global generator: two processes, or a resumed run, would draw other numbers."""
        objective = self.objective(self.model())
        if not has(objective, "prepare"):
            raise SkipTest("it has no prepare")
        with watched() as effects:
            batch = self.batch(objective)
        if effects:
            raise ConformanceError(f"prepare {' and '.join(effects)}: draw with pealm_core.noise(samples, n, seed)")
        halves = [self.batch(objective, range(start, start + ROWS // 2)) for start in (0, ROWS // 2)]
        for name, tensor in batch.items():
            if not torch.equal(tensor, torch.cat([half[name] for half in halves])):
                raise ConformanceError(
                    f"{name} differs between {ROWS} samples at once and half of them at a time: what a row gets may "
                    f"depend on the row, batch['sample'] and the seed only"
                )

    def test_validation_is_a_mean(self) -> None:
        """Catches a `validate` that is not a finite scalar, or gives another value each time."""
        model = self.model().eval()
        objective = self.objective(model)
        if not has(objective, "validate"):
            raise SkipTest("it has no validate")
        with torch.no_grad():
            losses = [objective.validate(model, self.batch(objective)) for _ in range(2)]
        if not all(isinstance(loss, Tensor) and loss.shape == () and loss.isfinite() for loss in losses):
            raise ConformanceError(f"validate gives {losses[0]!r:.60}, not a finite scalar tensor")
        if not torch.equal(*losses):
            raise ConformanceError(f"validate gives {float(losses[0])} and {float(losses[1])} for one batch")

    def _loss(self, objective: Any, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Any]:
        result = objective.loss(model, batch)
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
            raise ConformanceError(f"loss must return (loss, metrics), metrics a dict, not {result!r:.60}")
        loss, metrics = result
        if not (isinstance(loss, Tensor) and loss.shape == () and loss.isfinite()):
            raise ConformanceError(f"the loss is {loss!r:.60}, not a finite scalar tensor")
        for name, value in metrics.items():
            if torch.as_tensor(value).numel() != 1:
                raise ConformanceError(f"the metric {name!r} is {value!r:.60}, not a scalar")
        return loss, metrics
