"""Checks of training: every parameter learns, checkpoints are complete, one batch can be overfitted, DDP works."""

import copy
import math
import tempfile
import warnings
from pathlib import Path
from typing import Any
from unittest import SkipTest

import torch
import torch.distributed as dist
from torch import Tensor

from pealm_core import PealmError
from pealm_testing.core import DataParallel, dump, load_model, save_checkpoint
from pealm_testing.dummies import Bytes
from pealm_testing.errors import ConformanceError
from pealm_testing.model.base import ModelKit, call, trainable
from pealm_testing.ranks import on_ranks


class TrainingChecks(ModelKit):
    """Checks of training."""

    def test_every_parameter_learns(self) -> None:
        """Catches a layer that forward does not use (DDP would fail), or that a detach cuts off."""
        model = self.make().train()
        before = copy.deepcopy(dict(model.named_parameters()))
        optimizer = torch.optim.AdamW(trainable(model), lr=1e-2, weight_decay=0)
        for _ in range(5):
            optimizer.zero_grad()
            call(model, *self.batch(model))[1].backward()
            if missing := [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]:
                raise ConformanceError(
                    f"{', '.join(missing)} has no gradient: use it in forward, remove it, or set requires_grad=False"
                )
            optimizer.step()
        if same := [n for n, p in model.named_parameters() if p.requires_grad and torch.equal(p, before[n])]:
            raise ConformanceError(
                f"{', '.join(same)} is the same after 5 steps, its gradient is zero: is its output detached, or "
                f"multiplied by a constant zero?"
            )

    def test_state_dict_is_complete(self) -> None:
        """Catches state outside of the state_dict: a list of layers, a plain tensor, a learned buffer."""
        model = self.noisy()
        idx, _ = self.batch(model)
        config = {"model": {"name": self.entry.name, **dump(self.settings(vocab_size=self.vocab_size))}}
        other = self.make(seed=5)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "saved")
            state = {"step": 1, "data": ""}
            save_checkpoint(path, model=model.state_dict(), config=config, tokenizer=Bytes(), state=state)
            try:
                load_model(other, path / "model.safetensors")
            except PealmError as error:
                raise ConformanceError(
                    f"its state_dict does not fit a new model: {str(error).replace(folder, '')}"
                ) from error
        if not torch.equal(call(model, idx)[0], call(other, idx)[0]):
            raise ConformanceError(
                "a new model with the saved state_dict has other logits: keep what is learned or random in "
                "nn.Parameter, nn.ModuleList or register_buffer"
            )

    def test_training_is_deterministic(self) -> None:
        """Catches randomness that torch's seed does not control: `random`, numpy, the order of a set, the clock."""
        logits = []
        for _ in range(2):
            model = self.make(seed=3).train()
            optimizer = torch.optim.AdamW(trainable(model), lr=1e-2)
            for step in range(3):
                torch.manual_seed(step)
                optimizer.zero_grad()
                call(model, *self.batch(model))[1].backward()
                optimizer.step()
            logits.append(call(model.eval(), self.batch(model)[0])[0])
        if not torch.equal(*logits):
            raise ConformanceError(
                "two models with the same seed differ after three equal steps: use torch's generator only"
            )

    def test_it_overfits_one_batch(self) -> None:
        """Catches anything that prevents learning: a lost gradient, wrong targets, unused positions."""
        model = self.make().train()
        idx, targets = self.batch(model)
        goal = _entropy(idx, targets, self.context)
        optimizer = torch.optim.AdamW(trainable(model), lr=self.fit_lr, weight_decay=0)
        best = math.inf
        for _ in range(self.fit_steps):
            optimizer.zero_grad()
            loss = call(model, idx, targets)[1]
            best = min(best, loss.item())
            if best <= goal + 0.1:
                return
            loss.backward()
            optimizer.step()
        context = "its block size" if self.context is None else f"{self.context} token(s)"
        raise ConformanceError(
            f"after {self.fit_steps} steps on one batch the loss is {best:.3f}; with a context of {context}, "
            f"{goal:.3f} is possible. Is every layer connected, are positions used? Set context if the model sees "
            f"fewer tokens (1 for a bigram), fit_lr or fit_steps if it needs another learning rate or more steps"
        )

    def test_compile_gives_the_same_loss(self) -> None:
        """Catches code that torch.compile interprets differently from Python. Slow."""
        self._only_slow()
        model = self.noisy()
        batch = self.batch(model)
        with warnings.catch_warnings(action="ignore"):  # of torch's compiler; they are not about the model
            # aot_eager traces and rewrites the code as inductor does, and needs no C++ compiler.
            compiled: Any = torch.compile(model, backend="aot_eager")
            loss, expected = compiled(*batch)[1].item(), call(model, *batch)[1].item()
        torch.compiler.reset()
        if not abs(loss - expected) <= 1e-3:
            raise ConformanceError(f"with torch.compile the loss is {loss:.5f}, without it {expected:.5f}")

    def test_two_processes_train_like_one(self) -> None:
        """Catches anything that DDP refuses or changes, with a real second process. Slow."""
        self._only_slow()
        task = self.attributes("vocab_size")
        alone = train_three_steps(task)
        for losses in on_ranks(2, "pealm_testing.model.training:train_three_steps", task):
            if not all(abs(a - b) <= 1e-4 for a, b in zip(losses, alone, strict=True)):
                raise ConformanceError(
                    f"the losses of two processes are {losses}, those of one are {alone}: without dropout they are "
                    f"equal if the loss is the mean over all tokens"
                )

    def _only_slow(self) -> None:
        self.only_slow()
        if self.entry.spec.pretrained is not None:
            raise SkipTest("its weights are downloaded; check the model family instead")


def train_three_steps(task: dict[str, Any]) -> list[float]:
    """Return the losses of three steps on one batch, of which each rank has its rows. task: the kit's attributes."""
    kit = ModelKit.with_attributes(task)
    model = kit.make(seed=4)
    idx, targets = kit.batch(model)
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    wrapped = DataParallel().wrap(model)  # as the trainer wraps it
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = wrapped(idx[rank::size], targets[rank::size])[1]
        loss.backward()
        optimizer.step()
        total = loss.detach().clone()
        if size > 1:
            dist.all_reduce(total)
        losses.append(float(total) / size)
    return losses


def _entropy(idx: Tensor, targets: Tensor, context: int | None) -> float:
    """The lowest possible loss (nats per token) on a batch for a model that sees `context` tokens."""
    counts: dict[tuple[int, ...], dict[int, int]] = {}
    for row, following in zip(idx.tolist(), targets.tolist(), strict=True):
        for t, target in enumerate(following):
            seen = tuple(row[0 if context is None else max(0, t + 1 - context) : t + 1])
            inner = counts.setdefault(seen, {})
            inner[target] = inner.get(target, 0) + 1
    total = sum(-n * math.log(n / sum(inner.values())) for inner in counts.values() for n in inner.values())
    return total / idx.numel()
