"""The loss that training minimizes, over the passes of a step."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pealm_core.contract.errors import PluginError
from pealm_core.contract.protocols import has
from pealm_core.contract.training_protocols import IGNORE, Batch, Source
from pealm_core.hardware.device import autocast
from pealm_core.plugins.plugin_errors import FORWARD, METRICS, Returns, call_plugin, check, metrics, owner, scalar

if TYPE_CHECKING:
    from pealm_core.training.trainer import Trainer

LOSS: Returns = (
    lambda r: isinstance(r, tuple | list) and scalar(r[0]) and len(r) == 2 and metrics(r[1]),
    f"(loss, metrics): the mean loss, a scalar tensor, and {METRICS}, {{}} without any",
)
MEAN: Returns = (scalar, "the mean loss, a scalar tensor")
WEIGHT: Returns = (lambda r: int(r) == r >= 0, "the number of scored targets, 0 or more")
BATCH: Returns = (
    lambda r: len({r["idx"].shape[0], *(tensor.shape[0] for tensor in r.values())}) == 1 and r["targets"].dim(),
    "a batch: tensors by name with a row for each sample, `idx` and `targets` among them",
)
RESERVED = {"step", "tokens", "loss", "val_loss", "lr", "grad_norm", "loss_scale", "tokens_per_second", "seconds"}


class NextToken:
    """The default objective: the cross-entropy of the next token, as the model computes it."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        """Every objective is made from the model and the tokenizer; this one needs neither."""

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Mapping[str, Any]]:
        """Return the model's loss and its metrics, if it has any."""
        _, loss, *metrics = check(author(self, model), FORWARD, model(batch["idx"], batch["targets"]))
        return loss, metrics[0] if metrics else {}


def author(objective: Any, model: Any) -> str:
    """Return the plugin and function that make a loss and metrics: the objective's, or the model's by default."""
    return owner(getattr(model, "module", model).forward if isinstance(objective, NextToken) else objective.loss)


def prepared(objective: Any, source: Source, samples: Sequence[int], seed: int) -> Batch:
    """Return samples as the objective wants them. `sample` has their numbers, from which noise is drawn."""
    batch = {**call_plugin(source.rows, BATCH, samples), "sample": torch.tensor(samples)}
    return call_plugin(objective.prepare, BATCH, batch, seed) if has(objective, "prepare") else batch


def part(batch: Batch, start: int, size: int) -> Batch:
    """Return some rows of a batch."""
    return {name: tensor[start : start + size] for name, tensor in batch.items()}


def scored(objective: Any, batch: Batch) -> int:
    """Return the number of scored targets of a batch on the CPU. If there are none, one is filled in.

    The batch has the weight 0 then; without a target, its loss would be 0 divided by 0.
    """
    own = call_plugin(objective.weight, WEIGHT, batch) if has(objective, "weight") else None
    if not (count := int((batch["targets"] != IGNORE).sum() if own is None else own)):
        batch["targets"][0, 0] = batch["idx"][0, 0]
    return count


def accumulate(t: "Trainer", batch: Batch, weights: Sequence[float]) -> dict[str, Tensor]:
    """Run a forward and a backward pass over each of `len(weights)` equal parts of a batch.

    Returns the weighted sums of `loss` (nats per token) and of the metrics, which stay on the device. The last
    backward pass averages the gradients over the processes. The gradients are scaled, where the scaler is enabled.
    """
    size, sums = len(batch["idx"]) // len(weights), {"loss": torch.zeros((), device=t.device)}
    by = author(t.objective, t.model)
    for number, weight in enumerate(weights, 1):
        with t.strategy.no_sync(t.module) if number < len(weights) else nullcontext():
            with autocast(t.device, t.dtype):
                loss, metrics = call_plugin(t.objective.loss, LOSS, t.module, part(batch, (number - 1) * size, size))
            if not loss.requires_grad:
                raise PluginError(f"{by}: the loss has no gradient: is it detached, or all of the model frozen?")
            loss = loss * weight
            t.scaler.scale(loss).backward()
        sums["loss"] += loss.detach()
        if taken := metrics.keys() & RESERVED:
            raise PluginError(f"{by}: a metric can't be called {min(taken)}, which each step has already")
        for name, value in metrics.items():
            value = torch.as_tensor(value, dtype=torch.float32, device=t.device).detach() * weight
            sums[name] = sums[name] + value if name in sums else value
    return sums
