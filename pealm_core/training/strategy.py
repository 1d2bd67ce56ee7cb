"""How a model is spread over the processes of a run: data parallel, a copy of the model in each."""

import inspect
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel


def data_parallel(model: torch.nn.Module) -> torch.nn.Module:
    """Wrap a model so that gradients are averaged over the processes. Buffers are constants and are not sent."""
    names = inspect.signature(DistributedDataParallel).parameters
    sync = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"  # until torch 2.12
    options: dict[str, Any] = {sync: False}
    return DistributedDataParallel(model, **options)


def gradient_problem(model: torch.nn.Module, *, several: bool) -> str:
    """Return what is wrong with the gradients after a backward pass, "" if nothing is.

    several: there are other processes, for which DistributedDataParallel needs every gradient at every step.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if sparse := [name for name, p in trained.items() if p.grad is not None and p.grad.is_sparse]:
        return f"the model gives {sparse[0]} a sparse gradient, which can't be clipped; use a dense one"
    missing = [name for name, p in trained.items() if p.grad is None]
    if not several or not missing:
        return ""
    more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    return (
        f"the model gives {', '.join(missing[:5])}{more} no gradient, which several processes need at every step: "
        f"use it in forward, remove it, or set requires_grad=False"
    )
