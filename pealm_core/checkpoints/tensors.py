"""Tensors on disk: state dicts as safetensors, with JSON for what is not a tensor. Nothing is pickled."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pealm_core.contract.errors import InvalidCheckpointError, UserError

NOTES = "pealm"  # the key of our part of a header's metadata
LEGACY_NOTES = ("aliases", "values", "param_groups")


def identity(tensor: Tensor) -> tuple[Any, ...]:
    """Return a key that only tensors over the same memory share."""
    return (
        (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if tensor.numel()
        else (id(tensor),)
    )


def write_tensors(path: Path, tensors: Mapping[str, Tensor], extra: Mapping[str, Any] | None = None) -> None:
    """Write a state dict as safetensors, with `extra` as JSON in its header. Raises OSError.

    Tied tensors are stored once, the others as aliases. Equal content gives equal bytes: the header's metadata has a
    single key, because safetensors writes several in random order.
    """
    first: dict[tuple[Any, ...], str] = {}
    aliases: dict[str, str] = {}
    for name, tensor in tensors.items():
        if identity(tensor) in first:
            aliases[name] = first[identity(tensor)]
        else:
            first[identity(tensor)] = name
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
            extra = _notes(file.metadata() or {})
        aliases = extra.pop("aliases", {})
        return tensors | {alias: tensors[name] for alias, name in aliases.items()}, extra
    except (OSError, SafetensorError) as error:
        raise InvalidCheckpointError(f"{path} can't be read: {error}") from None
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise InvalidCheckpointError(f"{path} can't be read: its metadata is damaged: {error!r}") from None


def _notes(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return pealm's own part of a file's metadata. Other programs keep there what they like."""
    if NOTES in metadata:
        notes: dict[str, Any] = json.loads(metadata[NOTES])
        return dict(notes)
    if "aliases" in metadata:  # an earlier layout: a key for each part
        return {key: json.loads(value) for key, value in metadata.items() if key in LEGACY_NOTES}
    return {}


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise UserError that names the first tensor with NaN or infinite values."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel():
            wide = tensor if tensor.dtype in (torch.float32, torch.float64, torch.bfloat16) else tensor.float()
            if not all(math.isfinite(bound) for bound in torch.stack(wide.aminmax()).tolist()):
                raise UserError(f"{where}: {name} has values that are NaN or infinite; the weights are not usable")


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
    parameters = dict(model.named_parameters(remove_duplicate=False))  # a mask among the buffers may be infinite
    check_finite({name: tensor for name, tensor in tensors.items() if name in parameters}, where)
    model.load_state_dict(tensors)


def write_optimizer(path: Path, state: Mapping[str, Any]) -> None:
    """Write an optimizer's state dict. Raises OSError."""
    tensors, rest = {}, {}
    for index, values in state["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value
            else:
                rest[f"{index}.{key}"] = value
    write_tensors(path, tensors, {"values": rest, "param_groups": state["param_groups"]})


def read_optimizer(path: Path) -> dict[str, Any]:
    """Read what `write_optimizer` wrote. Raises InvalidCheckpointError."""
    tensors, extra = read_tensors(path)
    if not {"values", "param_groups"} <= extra.keys():
        raise InvalidCheckpointError(f"{path} is not the state of an optimizer")
    state: dict[int, dict[str, Any]] = {}
    for place, value in [*tensors.items(), *extra["values"].items()]:
        index, _, key = place.partition(".")
        state.setdefault(int(index), {})[key] = value
    return {"state": state, "param_groups": extra["param_groups"]}
