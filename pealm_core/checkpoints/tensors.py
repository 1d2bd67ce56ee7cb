"""Tensors on disk: state dicts as safetensors, with JSON for what is not a tensor. Nothing is pickled."""

import json
import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from pealm_core.checkpoints.adapters import trainable_state
from pealm_core.contract.errors import InvalidCheckpointError, PealmError, UserError

PLAIN = (bool, int, float, str)
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


def load_model(model: torch.nn.Module, path: Path) -> None:
    """Load a checkpoint's weights into a model. Raises UserError that names each mismatch."""
    load_tensors(model, read_tensors(path)[0], str(path))


def load_tensors(model: torch.nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load a state dict, of an adapted model `trainable_state`. Raises UserError as `check_tensors` does."""
    check_tensors(model, tensors, where)
    model.load_state_dict(tensors, strict=False)  # the names are checked


def check_tensors(model: torch.nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise UserError that names each mismatch of a state dict and a model: names, shapes, kinds of numbers."""
    own = model.state_dict()
    mistakes = [f"{name} is missing" for name in trainable_state(model) if name not in tensors]
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
        tensor = tensors.get(name)
        if tensor is not None and tensor.is_floating_point() and not all(map(math.isfinite, tensor.aminmax())):
            raise UserError(f"{where}: {name} has values that are NaN or infinite; the weights are not usable")


def flatten(tree: Any, place: str) -> tuple[Any, dict[str, Tensor]]:
    """Return nested dicts, lists and tuples as JSON, and the tensors in them by place: `optimizer.state.0.exp_avg`.

    Other leaves and the keys are numbers, strings, bools and None. Raises PealmError that names the place of anything
    else.
    """
    tensors: dict[str, Tensor] = {}

    def encode(value: Any, place: str) -> Any:
        if isinstance(value, dict) and all(key is None or isinstance(key, PLAIN) for key in value):
            return ["dict", [[key, encode(item, f"{place}.{key}")] for key, item in value.items()]]
        if type(value) in (list, tuple):
            return [type(value).__name__, [encode(item, f"{place}.{i}") for i, item in enumerate(value)]]
        if type(value) in (Tensor, torch.nn.Parameter) and value.layout == torch.strided and _storable(value.dtype):
            while place in tensors:  # {"a.b": x, "a": {"b": y}}
                place += "'"
            tensors[place] = value
            return ["tensor", place]
        if value is None or isinstance(value, PLAIN):
            return value
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        kind = f"tensor of {value.dtype}, {value.layout}" if type(value) is Tensor else kind
        raise PealmError(
            f"{place} can't be saved: it is a {kind}; tensors, numbers, strings, bools, None, and dicts, "
            f"lists and tuples of them can"
        )

    try:
        return encode(tree, place), tensors
    except RecursionError:
        raise PealmError(f"{place} can't be saved: it is nested too deeply, or contains itself") from None


def unflatten(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return what `flatten` got. Raises an Exception for anything that it did not return."""
    if not isinstance(tree, list):
        return tree
    kind, items = tree
    if kind == "tensor":
        return tensors[items]
    if kind == "dict":
        return {unflatten(key, tensors): unflatten(value, tensors) for key, value in items}
    return {"list": list, "tuple": tuple}[kind](unflatten(item, tensors) for item in items)


@cache
def _storable(dtype: torch.dtype) -> bool:
    """Whether safetensors has the dtype."""
    try:
        return bool(save({"": torch.empty(0, dtype=dtype)}))
    except Exception:
        return False


def write_tree(path: Path, tree: Any) -> None:
    """Write what `flatten` accepts: state dicts of optimizers and other objects. Raises OSError and PealmError."""
    structure, tensors = flatten(tree, path.stem)
    write_tensors(path, tensors, {"tree": structure})


def read_tree(path: Path) -> Any:
    """Read what `write_tree` wrote. Raises InvalidCheckpointError."""
    tensors, extra = read_tensors(path)
    try:
        return unflatten(extra["tree"], tensors)
    except Exception as error:
        raise InvalidCheckpointError(f"{path} can't be read: {error!r}") from None
