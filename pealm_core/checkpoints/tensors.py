"""Tensors on disk: state dicts as safetensors, with JSON for what is no tensor. Nothing pickles or unpickles."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pealm_core.contract.errors import InvalidCheckpointError


def identity(tensor: Tensor) -> tuple[Any, ...]:
    """Return a key that only tensors over the same memory share."""
    return (
        (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if tensor.numel()
        else (id(tensor),)
    )


def write_tensors(path: Path, tensors: Mapping[str, Tensor], extra: Mapping[str, Any] | None = None) -> None:
    """A state dict as safetensors. Tied tensors are stored once, the others as aliases. Raises OSError."""
    first: dict[tuple[Any, ...], str] = {}
    aliases: dict[str, str] = {}
    for name, tensor in tensors.items():
        if identity(tensor) in first:
            aliases[name] = first[identity(tensor)]
        else:
            first[identity(tensor)] = name
    kept = {name: t.detach().cpu().contiguous() for name, t in tensors.items() if name not in aliases}
    metadata = {"format": "pt", "aliases": json.dumps(aliases)}
    try:
        save_file(kept, path, metadata | {key: json.dumps(value) for key, value in (extra or {}).items()})
    except SafetensorError as error:  # a full disk comes as one
        raise OSError(str(error)) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write_tensors` wrote: the tensors, aliases included, and the extra metadata."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise InvalidCheckpointError(f"{path} can't be read: {error}") from None
    extra = {key: json.loads(value) for key, value in metadata.items() if key != "format"}
    for alias, name in extra.pop("aliases", {}).items():
        tensors[alias] = tensors[name]
    return tensors, extra


def write_optimizer(path: Path, state: Mapping[str, Any]) -> None:
    tensors, rest = {}, {}
    for index, values in state["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value
            else:
                rest[f"{index}.{key}"] = value
    write_tensors(path, tensors, {"values": rest, "param_groups": state["param_groups"]})


def read_optimizer(path: Path) -> dict[str, Any]:
    """An optimizer's state dict."""
    tensors, extra = read_tensors(path)
    state: dict[int, dict[str, Any]] = {}
    for place, value in [*tensors.items(), *extra["values"].items()]:
        index, _, key = place.partition(".")
        state.setdefault(int(index), {})[key] = value
    return {"state": state, "param_groups": extra["param_groups"]}
