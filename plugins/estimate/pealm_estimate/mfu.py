"""Model FLOPs utilization (Chowdhery et al., 2022): which part of the GPU's peak the model's products use."""

from collections.abc import MutableMapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

# Dense bf16 (or, before Ampere, fp16) FLOP/s by a part of the device's name, from NVIDIA's data sheets.
PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "GH200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "A10G": 70e12,
    "L40S": 362e12,
    "L4": 121e12,
    "V100": 125e12,
    "T4": 65e12,
}

_runs: "WeakKeyDictionary[Any, float]" = WeakKeyDictionary()  # tokens/s of all processes at the peak, by trainer


def peak_of(name: str) -> float | None:
    """Return the peak FLOP/s of a GPU by its name, None if it is not known.

    >>> peak_of("NVIDIA A100-SXM4-80GB"), peak_of("NVIDIA GeForce GTX 1080")
    (312000000000000.0, None)
    >>> peak_of("NVIDIA L40S") == PEAKS["L40S"]
    True
    """
    words = name.replace("-", " ")
    return next((flops for part, flops in PEAKS.items() if f" {part} " in f" {words} "), None)


def flops_per_token(model: nn.Module, block_size: int) -> float:
    """Return the floating-point operations of training on one token: three times those of a forward pass.

    The backward pass has two products for each one of the forward pass. Counted on the meta device.
    """
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shapes = {name: torch.empty(t.shape, dtype=t.dtype, device="meta") for name, t in state.items()}
    idx = torch.zeros(1, block_size, dtype=torch.long, device="meta")
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        functional_call(model, shapes, (idx, idx))
    return 3 * counter.get_total_flops() / block_size


def start(trainer: Any) -> None:
    """Remember what the processes' GPUs could do."""
    device = next(trainer.model.parameters()).device
    peak = peak_of(torch.cuda.get_device_name(device))
    whole = not any(hasattr(p, "full_tensor") for p in trainer.model.parameters())  # a sharded one can't be called
    if peak is not None and whole:
        size = trainer.settings.block_size or trainer.model.config.block_size
        with torch.compiler.set_stance("force_eager"), torch.random.fork_rng(devices=()):
            _runs[trainer] = peak * trainer.world.size / flops_per_token(trainer.model, size)


def add(trainer: Any, metrics: MutableMapping[str, Any]) -> None:
    """Add `mfu` to a step's metrics, if the peak is known."""
    if trainer in _runs:
        metrics["mfu"] = round(metrics["tokens_per_second"] / _runs[trainer], 4)
