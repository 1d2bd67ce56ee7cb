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
