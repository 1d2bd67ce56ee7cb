"""Validation: the loss over the same samples every time, shared among the processes."""

import time
from math import log
from typing import TYPE_CHECKING, Any

import torch

from pealm_core.contract.errors import UserError
from pealm_core.contract.protocols import has
from pealm_core.contract.training_protocols import IGNORE, Source
from pealm_core.hardware.device import autocast, to_device
from pealm_core.plugins.plugin_errors import FORWARD, Returns, call_plugin, check, owner
from pealm_core.training.objective import MEAN, NextToken, prepared, scored

if TYPE_CHECKING:
    from pealm_core.training.trainer import Trainer

EVAL_TOKENS = 8192  # in one pass of validation, which keeps no activations

TEXT: Returns = (lambda r: isinstance(r, str), "the text of ids, a str")


def validate(t: "Trainer") -> float | None:
    """Return the mean loss in nats per token over the validation data; None if a signal cut it short.

    Several inputs are weighted as in training. Called on every rank.
    """
    ends = [time.perf_counter()]  # of the rounds
    losses: dict[str, float] = {}
    with t.observers.evaluating() as model:
        for name, _, source in t.data.val:
            part = validation_loss(t, model, source, ends)
            if part is None:
                return None
            losses[name] = part
    total = sum(weight for _, weight, _ in t.data.val)
    t.val_loss = sum(weight * losses[name] for name, weight, _ in t.data.val) / total
    t.val_losses = {f"val_loss/{name}": part for name, part in losses.items() if len(losses) > 1}
    if not t.bytes_per_token:
        t.bytes_per_token = {name: _bytes_per_token(t, source) for name, _, source in t.data.val}
    bits = {name: part / log(2) / size for name, part in losses.items() if (size := t.bytes_per_token[name])}
    if len(bits) == len(losses):
        t.val_losses["val_bits_per_byte"] = sum(weight * bits[name] for name, weight, _ in t.data.val) / total
    t.val_losses |= {f"val_bits_per_byte/{name}": part for name, part in bits.items() if len(losses) > 1}
    counted = ends if t.validated is not None else ends[1:]  # the process's first pass may have compiled
    seconds = (counted[-1] - counted[0]) * (len(ends) - 1) / max(1, len(counted) - 1)
    t.eval_seconds = t.world.gather(seconds)[0][0]
    t.validated = t.clock()
    t.stale = t.stale + 1 if t.step and t.val_loss >= t.best_loss else 0
    if 0 < t.settings.patience <= t.stale:
        t.stop(f"{t.stale} validations without a lower loss (--patience)")
    t.observers.call("pealm_validation_end", loss=t.val_loss)
    return t.val_loss


@torch.no_grad()
def validation_loss(t: "Trainer", model: Any, source: Source, ends: list[float]) -> float | None:
    """Return the mean loss in nats per token over evenly spaced samples of a source; None if a signal came.

    ends: gets the time after each round of passes.
    """
    objective: Any = t.objective
    world = t.world
    model.eval()
    block, samples = source.block_size, _samples(t, source)
    size = max(1, EVAL_TOKENS // block)
    losses, weights = [], []
    # Every rank takes part in every round; a rank without samples of its own computes one that counts as nothing.
    for start in range(0, len(samples), world.size * size):
        in_round = samples[start : start + world.size * size]
        own = in_round[world.rank :: world.size]
        batch = prepared(objective, source, own or in_round[:1], t.settings.seed)
        weight = scored(objective, batch) / block  # also where it doesn't count: the loss must not be 0/0
        batch = to_device(batch, t.device)
        with autocast(t.device, t.dtype):
            if has(objective, "validate"):
                loss = call_plugin(objective.validate, MEAN, model, batch)
            else:
                loss = check(owner(model.forward), FORWARD, model(batch["idx"], batch["targets"]))[1]
        losses.append(loss)
        weights.append(weight if own else 0.0)
        ends.append(time.perf_counter())
        if any(number for (number,) in world.gather(t.signals.number)):
            return None
    total = 0.0  # added in order, in float64: Python's own sum() rounds differently from 3.12 on
    for loss, weight in zip(torch.stack(losses).tolist(), weights, strict=True):
        total += loss * weight
    everyone = world.gather(total, sum(weights))
    if not (weight := sum(row[1] for row in everyone)):
        raise UserError("the validation data has no token that is scored; give it some, or more --eval-tokens")
    return sum(row[0] for row in everyone) / weight


def _samples(t: "Trainer", source: Source) -> list[int]:
    """Return the numbers of the samples to validate on, evenly spaced."""
    rows = len(source)
    count = min(rows, max(1, t.settings.eval_tokens // source.block_size))
    return [number * rows // count for number in range(count)]


def _bytes_per_token(t: "Trainer", source: Source) -> float | None:
    """Return the bytes of text in the scored targets of the validation, for each of them, special tokens included.

    None if they have no text, or the loss is another objective's.
    """
    if not isinstance(t.objective, NextToken) or not has(t.tokenizer, "decode"):
        return None
    known = getattr(t.tokenizer, "specials", {}).values()
    special = {*known, *(getattr(t.tokenizer, name, None) for name in ("eot_id", "bos_id"))}
    size = tokens = 0
    for sample in _samples(t, source)[t.world.rank :: t.world.size]:
        targets = [token for token in source.rows([sample])["targets"][0].tolist() if token != IGNORE]
        text = call_plugin(t.tokenizer.decode, TEXT, [token for token in targets if token not in special])
        size, tokens = size + len(text.encode("utf-8", "replace")), tokens + len(targets)
    everyone = t.world.gather(size, tokens)
    return sum(row[0] for row in everyone) / max(1, sum(row[1] for row in everyone)) or None
