"""Prepare a model's weights for inference, where reading them for every token is most of the cost.

`prepare` replaces the weights that reach `F.linear` by faster ones: int8, bf16, or on a CPU faster fp32 products.
Models need no change, those with a tied head included.
"""

import time
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pealm_core.contract.errors import UserError
from pealm_core.contract.protocols import has
from pealm_cpu import Int4Weight, Int8Weight, LinearWeight, RowWeight

LARGE = 2**16  # elements; a smaller matrix stays in the processor's cache
ROLES = {F.linear: ("weight", "bias"), F.embedding: ("embedding",)}  # of the arguments after the input


def prepare(model: nn.Module, quantize: str | None = None, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Replace a model's linear weights, in place, by those for inference. Raises UserError for an unknown `quantize`.

    quantize: "int8", "int4" (int8 for embeddings, the head, and what torch has no int4 product for), or None. dtype:
    if lower than fp32, linear layers get it and forward passes run under autocast, as in training: embeddings, norms,
    rotary tables and gates stay in fp32. The model can't be trained afterwards. Its state dict stays the same, except
    for what quantizing or dtype round.
    """
    if quantize not in (None, "int8", "int4"):
        raise UserError(f"--quantize {quantize}: unknown; use int8 or int4")
    uses, low = _uses(model), dtype != torch.float32
    last = [*uses["weight"]][-1:]  # the head's
    for key, parameter in uses["weight"].items():
        weight = parameter.detach()
        if quantize:
            four = quantize == "int4" and key not in uses["embedding"] and key not in last and Int4Weight.fits(weight)
            _replace(model, parameter, (Int4Weight if four else Int8Weight).of(weight))
        elif low and key in uses["embedding"]:
            _replace(model, parameter, LinearWeight(weight, weight.to(dtype)))
        elif low:
            parameter.data = weight.to(dtype)
        elif weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() >= LARGE:
            _replace(model, parameter, RowWeight(weight))
    if low:
        for bias in uses["bias"].values():
            bias.data = bias.data.to(dtype)
        _run_under_autocast(model, dtype)
    return model


def _replace(model: nn.Module, parameter: Tensor, weight: LinearWeight) -> None:
    """Put a weight in every place of a parameter: a tied one has several."""
    for module in model.modules():
        for name, own in module._parameters.items():
            if own is parameter:
                module._parameters[name] = weight  # type: ignore[assignment]


def _run_under_autocast(model: nn.Module, dtype: torch.dtype) -> None:
    """Give the model a class whose forward passes, caches and logits are made under autocast."""
    kind, device = type(model), next(model.parameters()).device.type

    def low(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def run(*args: Any, **kwargs: Any) -> Any:
            with torch.autocast(device, dtype=dtype):  # one for each call: a shared one can't be nested
                return method(*args, **kwargs)

        return run

    methods = [name for name in ("forward", "make_cache", "unembed") if has(kind, name)]
    model.__class__ = type(kind.__name__, (kind,), {name: low(getattr(kind, name)) for name in methods})


@torch.inference_mode()
def _uses(model: nn.Module) -> dict[str, dict[int, Tensor]]:
    """Find the parameters that a forward pass uses as a linear layer's weight or bias, or as an embedding."""
    own = {_key(parameter): parameter for parameter in model.parameters()}
    uses: dict[str, dict[int, Tensor]] = {"weight": {}, "bias": {}, "embedding": {}}

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            for role, tensor in zip(ROLES.get(func, ()), [*args, *kwargs.values()][1:], strict=False):
                parameter = own.get(_key(tensor)) if tensor is not None else None
                if parameter is not None and parameter.numel() == tensor.numel():
                    uses[role][_key(parameter)] = parameter
            return func(*args, **kwargs)

    with Watch():
        model(torch.zeros(1, 1, dtype=torch.long, device=next(model.parameters()).device))
    return uses


def _key(weight: Tensor) -> int:
    return (weight.parts[0] if isinstance(weight, LinearWeight) else weight).data_ptr()


def bytes_per_token(model: nn.Module) -> int:
    """Return the bytes of weights that a new token reads: linear weights and vectors, but not a whole embedding."""
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    return sum(weight.nbytes for weight in [*_uses(model)["weight"].values(), *vectors])


def read_bandwidth(device: torch.device | str = "cpu") -> float:
    """Measure how many bytes a second the device reads from memory: the best of a few sums over 256 MiB."""
    data, best = torch.ones(2**26, device=device), float("inf")
    for _ in range(6):
        began = time.perf_counter()
        float(data.sum())
        best = min(best, time.perf_counter() - began)
    return data.nbytes / best
