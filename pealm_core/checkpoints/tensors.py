"""Tensors on disk: state dicts as safetensors, with JSON for what is not a tensor. Nothing is pickled."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pealm_core.contract.errors import InvalidCheckpointError, UserError

NOTES = "pealm"  # the key of our part of a header's metadata
WRAPPERS = ("module.", "_orig_mod.", "transformer.")  # of DDP, torch.compile, and models inside a larger one


def identity(tensor: Tensor) -> tuple[Any, ...]:
    """Return a key that only tensors over the same memory share."""
    if not tensor.numel():
        return (id(tensor),)
    return (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], extra: Mapping[str, Any] | None = None) -> None:
    """Write a state dict as safetensors, with `extra` as JSON in its header. Raises OSError.

    Tied tensors are stored once, the others as aliases. Equal content gives equal bytes: the header's metadata has a
    single key, because safetensors writes several in random order.
    """
    first: dict[tuple[Any, ...], str] = {}
    names = {name: first.setdefault(identity(tensor), name) for name, tensor in tensors.items()}
    aliases = {name: original for name, original in names.items() if name != original}
    kept = {name: t.detach().cpu().contiguous() for name, t in tensors.items() if name not in aliases}
    notes = {"aliases": aliases, **(extra or {})} if aliases or extra else {}
    try:
        save_file(kept, path, {NOTES: json.dumps(notes)} if notes else {"format": "pt"})
    except SafetensorError as error:  # such as a full disk
        raise OSError(str(error)) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a safetensors file: its tensors, aliases included, and the `extra` of `write_tensors`, if it has any."""
    try:
        if not path.is_file():
            raise OSError("not a regular file" if path.exists() else "no such file")
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            extra = dict(json.loads((file.metadata() or {}).get(NOTES, "{}")))
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and tensor.element_size() == 1:
                raise ValueError(f"{name} is {tensor.dtype}, in which torch can't compute; convert it to bf16 first")
        aliases = extra.pop("aliases", {})
        return tensors | {alias: tensors[name] for alias, name in aliases.items()}, extra
    except Exception as error:  # also for metadata that is not ours
        raise InvalidCheckpointError(f"{path} can't be read: {error or repr(error)}") from None


def without_wrappers(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Strip the prefixes that wrappers put before the names, in any order, unless the model's own names have them."""
    foreign = [re.escape(prefix) for prefix in WRAPPERS if not any(name.startswith(prefix) for name in own)]
    return {re.sub(f"^({'|'.join(foreign)})+", "", name): tensor for name, tensor in tensors.items()}


def load_tensors(model: torch.nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load a state dict into a model. Raises UserError that names each mismatch: names, shapes, kinds of numbers."""
    own = model.state_dict()
    mistakes = [f"{name} is missing" for name in own if name not in tensors]
    mistakes += [f"{name} is not in the model" for name in tensors if name not in own]
    for name, wanted in own.items():
        saved = tensors.get(name, wanted)
        if saved.shape != wanted.shape:
            mistakes.append(f"{name} is {tuple(saved.shape)} there and {tuple(wanted.shape)} in the model")
        elif saved.is_floating_point() != wanted.is_floating_point() or saved.is_complex() != wanted.is_complex():
            mistakes.append(f"{name} is {saved.dtype} there and {wanted.dtype} in the model")
    if mistakes:
        more = f" (and {len(mistakes) - 3} more)" if len(mistakes) > 3 else ""
        raise UserError(f"{where} does not fit the model: {'; '.join(mistakes[:3])}{more}")
    for name, _ in model.named_parameters(remove_duplicate=False):  # a mask among the buffers may be infinite
        if tensors[name].is_floating_point() and not all(map(math.isfinite, tensors[name].aminmax())):
            raise UserError(f"{where}: {name} has values that are NaN or infinite; the weights are not usable")
    model.load_state_dict(tensors)


def write_optimizer(path: Path, state: Mapping[str, Any]) -> None:
    """Write an optimizer's state dict. Raises OSError."""
    flat = {f"{index}.{key}": value for index, values in state["state"].items() for key, value in values.items()}
    tensors = {place: value for place, value in flat.items() if isinstance(value, Tensor)}
    rest = {place: value for place, value in flat.items() if place not in tensors}
    write_tensors(path, tensors, {"values": rest, "param_groups": state["param_groups"]})


def read_optimizer(path: Path) -> dict[str, Any]:
    """Read what `write_optimizer` wrote. Raises InvalidCheckpointError."""
    tensors, extra = read_tensors(path)
    state: dict[int, dict[str, Any]] = {}
    for place, value in [*tensors.items(), *extra["values"].items()]:
        index, _, key = place.partition(".")
        state.setdefault(int(index), {})[key] = value
    return {"state": state, "param_groups": extra["param_groups"]}
