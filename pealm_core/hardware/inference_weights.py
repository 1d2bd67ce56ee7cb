"""Prepare a model's weights for inference, where reading them for every token is most of the cost.

`prepare` replaces the weights that reach `F.linear` by faster ones: int8, bf16, or on a CPU fp32 read in blocks.
Models need no change, those with a tied head included.
"""

import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pealm_core.contract.errors import UserError
from pealm_core.contract.protocols import has
from pealm_core.hardware.int8 import Int8Weight
from pealm_core.hardware.linear_weight import BlockWeight, LinearWeight, TiedWeight

LARGE = 2**16  # elements; a smaller matrix stays in the processor's cache, where blocks gain nothing


def prepare(model: nn.Module, quantize: str | None = None, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Replace a model's linear weights, in place, by those for inference. Raises UserError for an unknown `quantize`.

    quantize: "int8", or None. dtype: if lower than fp32, linear layers get it and forward passes run under autocast,
    as in training: embeddings, norms, rotary tables and gates stay in fp32. The model can't be trained afterwards.
    Its state dict stays the same, except for what int8 or dtype round.
    """
    if quantize not in (None, "int8"):
        raise UserError(f"--quantize {quantize}: unknown; int8 is the only choice")
    uses, low = _uses(model), dtype != torch.float32
    tied = {id(parameter) for parameter in uses["embedding"]}
    for parameter in uses["weight"]:
        if quantize == "int8":
            _replace(model, parameter, Int8Weight.of(parameter))
        elif low and id(parameter) in tied:
            weight = TiedWeight.of(parameter)
            weight.low = parameter.detach().to(dtype)
            _replace(model, parameter, weight)
        elif low:
            parameter.data = parameter.data.to(dtype)
        elif parameter.device.type == "cpu" and parameter.dtype == torch.float32 and parameter.numel() >= LARGE:
            _replace(model, parameter, BlockWeight.of(parameter))
    if low:
        for bias in uses["bias"]:
            bias.data = bias.data.to(dtype)
        _run_under_autocast(model, dtype)
    return model


def _replace(model: nn.Module, parameter: Tensor, weight: LinearWeight) -> None:
    """Put a weight in every place of a parameter: a tied one has several."""
    weight._is_param = True  # isinstance(weight, nn.Parameter) holds
    for module in model.modules():
        for name, own in module._parameters.items():
            if own is parameter:
                module._parameters[name] = weight  # type: ignore[assignment]


def _run_under_autocast(model: nn.Module, dtype: torch.dtype) -> None:
    """Give the model a class whose forward passes and caches are made under autocast."""
    kind, device = type(model), next(model.parameters()).device.type
    methods = [name for name in ("forward", "make_cache") if has(kind, name)]
    model.__class__ = type(
        kind.__name__, (kind,), {name: torch.autocast(device, dtype=dtype)(getattr(kind, name)) for name in methods}
    )


def linear_weights(model: nn.Module) -> list[Tensor]:
    """List the parameters that a forward pass gives to `F.linear`, whole or flattened: every token reads them."""
    return _uses(model)["weight"]


@torch.inference_mode()
def _uses(model: nn.Module) -> dict[str, list[Tensor]]:
    """List the parameters that a forward pass uses as a linear layer's weight or bias, or as an embedding."""
    own = {_key(parameter): parameter for parameter in model.parameters()}
    uses: dict[str, dict[int, Tensor]] = {"weight": {}, "bias": {}, "embedding": {}}

    def note(use: str, tensor: Tensor | None) -> None:
        parameter = own.get(_key(tensor)) if tensor is not None else None
        if tensor is not None and parameter is not None and parameter.numel() == tensor.numel():
            uses[use][_key(parameter)] = parameter

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
            if func is F.linear:
                note("weight", given["weight"])
                note("bias", given.get("bias"))
            elif func is F.embedding:
                note("embedding", given["weight"])
            return func(*args, **kwargs)

    with Watch():
        model(torch.zeros(1, 1, dtype=torch.long, device=next(model.parameters()).device))
    return {use: list(parameters.values()) for use, parameters in uses.items()}


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
