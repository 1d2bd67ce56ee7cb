"""The loss that training minimizes, over the passes of a step."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from pealm_core.contract.errors import PluginError
from pealm_core.contract.protocols import has
from pealm_core.contract.training_parts import IGNORE, Batch, Source, Strategy
from pealm_core.hardware.device import autocast

RESERVED = {"step", "tokens", "loss", "val_loss", "lr", "grad_norm", "tokens_per_second", "seconds"}


class NextToken:
    """The default objective: the cross-entropy of the next token, as the model computes it."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        """Every objective is made from the model and the tokenizer; this one needs neither."""

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Mapping[str, Any]]:
        """Return the model's loss and its metrics, if it has any."""
        _, loss, *metrics = model(batch["idx"], batch["targets"])
        return loss, metrics[0] if metrics else {}


def prepared(objective: Any, source: Source, samples: Sequence[int], seed: int) -> Batch:
    """Return samples as the objective wants them. `sample` has their numbers, from which noise is drawn."""
    batch = {**source.rows(samples), "sample": torch.tensor(samples)}
    return objective.prepare(batch, seed) if has(objective, "prepare") else batch


def part(batch: Batch, start: int, size: int) -> Batch:
    """Return some rows of a batch."""
    return {name: tensor[start : start + size] for name, tensor in batch.items()}


def scored(objective: Any, batch: Batch) -> int:
    """Return the number of scored targets of a batch on the CPU. If there are none, one is filled in.

    The batch has the weight 0 then; without a target, its loss would be 0 divided by 0.
    """
    weigh = objective.weight if has(objective, "weight") else lambda b: (b["targets"] != IGNORE).sum()
    if not (count := int(weigh(batch))):
        batch["targets"][0, 0] = batch["idx"][0, 0]
    return count


def accumulate(
    objective: Any, module: Any, batch: Batch, weights: Sequence[float], dtype: torch.dtype, strategy: Strategy
) -> dict[str, Tensor]:
    """Run a forward and a backward pass over each of `len(weights)` equal parts of a batch.

    Returns the weighted sums of `loss` (nats per token) and of the metrics, which stay on the device. The last
    backward pass averages the gradients over the processes.
    """
    size, device = len(batch["idx"]) // len(weights), batch["idx"].device
    sums = {"loss": torch.zeros((), device=device)}
    for number, weight in enumerate(weights, 1):
        with strategy.no_sync(module) if number < len(weights) else nullcontext():
            with autocast(device, dtype):
                loss, metrics = objective.loss(module, part(batch, (number - 1) * size, size))
            if not loss.requires_grad:
                module = type(getattr(module, "module", module)).__module__
                raise PluginError(f"{module}: the loss has no gradient: is it detached, or all of the model frozen?")
            loss = loss * weight
            loss.backward()
        sums["loss"] += loss.detach()
        if taken := metrics.keys() & RESERVED:
            raise PluginError(f"a metric can't be called {min(taken)}, which each step has already")
        for name, value in metrics.items():
            value = torch.as_tensor(value, dtype=torch.float32, device=device).detach() * weight
            sums[name] = sums[name] + value if name in sums else value
    return sums
