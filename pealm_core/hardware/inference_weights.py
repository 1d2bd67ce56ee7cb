"""Prepare a model's weights for inference, where reading them for every token is most of the cost.

`prepare` replaces the weights that reach `F.linear` by tensors with a faster product: int8, or on a CPU fp32 read in
blocks. Models need no change, those with a tied head included.
"""

import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pealm_core.contract.errors import UserError
from pealm_core.hardware.int8 import Int8Weight
from pealm_core.hardware.linear_weight import BlockWeight, LinearWeight

LARGE = 2**16  # elements; a smaller matrix stays in the processor's cache, where blocks gain nothing


def prepare(model: nn.Module, quantize: str | None = None) -> nn.Module:
    """Replace a model's linear weights, in place, by those for inference. Raises UserError for an unknown `quantize`.

    quantize: "int8", or None. The model can't be trained afterwards. Its state dict stays the same, except for what
    int8 rounds.
    """
    if quantize not in (None, "int8"):
        raise UserError(f"--quantize {quantize}: unknown; int8 is the only choice")
    for parameter in linear_weights(model):
        if quantize == "int8":
            _replace(model, parameter, Int8Weight.of(parameter))
        elif parameter.device.type == "cpu" and parameter.dtype == torch.float32 and parameter.numel() >= LARGE:
            _replace(model, parameter, BlockWeight.of(parameter))
    return model


def _replace(model: nn.Module, parameter: Tensor, weight: LinearWeight) -> None:
    """Put a weight in every place of a parameter: a tied one has several."""
    weight._is_param = True  # isinstance(weight, nn.Parameter) holds
    for module in model.modules():
        for name, own in module._parameters.items():
            if own is parameter:
                module._parameters[name] = weight  # type: ignore[assignment]


@torch.inference_mode()
def linear_weights(model: nn.Module) -> list[Tensor]:
    """List the parameters that a forward pass gives to `F.linear`, whole or flattened: every token reads them."""
    own = {_key(parameter): parameter for parameter in model.parameters() if parameter.dim() >= 2}
    linear: dict[int, Tensor] = {}

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if func is F.linear:
                weight = kwargs["weight"] if "weight" in kwargs else args[1]
                if (parameter := own.get(_key(weight))) is not None and parameter.numel() == weight.numel():
                    linear[_key(parameter)] = parameter
            return func(*args, **kwargs)

    with Watch():
        model(torch.zeros(1, 1, dtype=torch.long, device=next(model.parameters()).device))
    return list(linear.values())


def _key(weight: Tensor) -> int:
    return (weight.q if isinstance(weight, Int8Weight) else weight).data_ptr()


def nbytes(weight: Tensor) -> int:
    """Return the bytes of memory that a product with a weight reads."""
    return weight.bytes_read() if isinstance(weight, LinearWeight) else weight.numel() * weight.element_size()


def bytes_per_token(model: nn.Module) -> int:
    """Return the bytes of weights that a new token reads: linear weights and vectors, but not a whole embedding."""
    return sum(map(nbytes, linear_weights(model))) + sum(nbytes(p) for p in model.parameters() if p.dim() < 2)


def read_bandwidth(device: torch.device | str = "cpu") -> float:
    """Measure how many bytes a second the device reads from memory: the best of a few sums over 256 MiB."""
    data, best = torch.ones(2**26, device=device), float("inf")
    for _ in range(6):
        began = time.perf_counter()
        float(data.sum())
        best = min(best, time.perf_counter() - began)
    return data.nbytes / best
