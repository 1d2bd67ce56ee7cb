"""The loss that training minimizes: next-token cross-entropy, with gradient accumulation, and its validation."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from pealm_core.contract.errors import PealmError, PluginError
from pealm_core.data.windows import Batch, Windows
from pealm_core.hardware.device import autocast
from pealm_core.hardware.distributed import World

EVAL_TOKENS = 8192  # in one pass of validation, which keeps no activations


def accumulate(model: Any, batch: Batch, micro_batch_size: int, dtype: torch.dtype, *, sync: bool) -> torch.Tensor:
    """Run forward and backward passes over a batch, (B, T) each of idx and targets; return its mean loss.

    micro_batch_size: sequences in a pass. sync: the model is wrapped in DistributedDataParallel, which averages the
    gradients over the processes in the last pass. The loss (nats per token) stays on the device.
    """
    idx, targets = batch
    total = torch.zeros((), device=idx.device)
    for start in range(0, len(idx), micro_batch_size):
        rows = slice(start, start + micro_batch_size)
        last = start + micro_batch_size >= len(idx)
        with model.no_sync() if sync and not last else nullcontext():
            with autocast(idx.device, dtype):
                _, loss = model(idx[rows], targets[rows])
            if not loss.requires_grad:
                module = type(getattr(model, "module", model)).__module__
                raise PluginError(
                    f"{module}: the loss has no gradient; is it detached, or is every parameter frozen?"
                )
            loss = loss * (micro_batch_size / len(idx))
            loss.backward()
        total += loss.detach()
    return total


@torch.no_grad()
def validation_loss(
    model: Any,
    windows: Windows,
    max_tokens: int,
    world: World,
    device: torch.device,
    dtype: torch.dtype,
    round_done: Callable[[], bool] = lambda: False,
) -> float | None:
    """Return the mean loss in nats per token over the same windows every time, shared among the processes.

    round_done: called on every rank after each round of passes; True on any rank stops the validation (None).
    """
    model.eval()
    places = windows.fixed(max_tokens)
    size = max(1, EVAL_TOKENS // windows.block_size)
    losses, counts = [], []
    # Every rank takes part in every round; a rank without rows of its own computes one that counts as nothing.
    for start in range(0, len(places), world.size * size):
        in_round = places[start : start + world.size * size]
        own = in_round[world.rank :: world.size]
        idx, targets = windows.rows(own or in_round[:1])
        with autocast(device, dtype):
            _, loss = model(idx.to(device), targets.to(device))
        losses.append(loss)
        counts.append(len(own))
        if any(stop for (stop,) in world.gather(round_done())):
            return None
    total = 0.0  # added in order, in float64: Python's own sum() rounds differently from 3.12 on
    for loss, count in zip(torch.stack(losses).tolist(), counts, strict=True):
        total += loss * count
    everyone = world.gather(total, sum(counts))
    return sum(row[0] for row in everyone) / sum(row[1] for row in everyone)


@contextmanager
def out_of_memory(explain: Callable[[], str]) -> Iterator[None]:
    """Turn running out of memory into a PealmError with `explain()` as its text."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise PealmError(explain()) from error
