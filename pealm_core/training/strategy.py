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


def missing_gradients(model: torch.nn.Module) -> str:
    """Return what to say of parameters without a gradient, for which DDP would wait for ever; "" if all have one."""
    names = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if not names:
        return ""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (
        f"the model gives {', '.join(names[:5])}{more} no gradient, which several processes need at every step: "
        f"use it in forward, remove it, or set requires_grad=False"
    )
