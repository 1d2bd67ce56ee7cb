"""Sharded checkpoints: safetensors in which each process wrote its part, through `torch.distributed.checkpoint`.

    shards/  shard-00001-model-00001-of-00001.safetensors ...  optimizer.json

Tensors are named `model.NAME` and `optimizer.PARAMETER.KEY`, with their place in the full tensor in the header;
`optimizer.json` has the rest of the optimizer's state. Any number of processes can read them.
"""

import json
import shutil
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from pealm_core import PealmError, UserError

REST = "optimizer.json"


def save(folder: Path, model: nn.Module, optimizer: Any, names: Collection[str]) -> None:
    """Write the tensors `names` of the model and the optimizer's state; called on every rank. Raises PealmError."""
    tensors: dict[str, Tensor] = {f"model.{name}": tensor for name, tensor in once(model) if name in names}
    state = optimizer.state_dict()
    rest: dict[str, Any] = {}
    for number, values in state["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{number}.{key}"] = value
            else:
                rest.setdefault(str(number), {})[key] = value
    first, several = (dist.get_rank() == 0, True) if dist.is_initialized() else (True, False)
    with failures(folder):
        if first:
            shutil.rmtree(folder, ignore_errors=True)  # of an attempt that failed
        if several:
            dist.barrier()
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        state_dict_saver.save(tensors, storage_writer=writer, no_dist=not several)
        if first:
            (folder / REST).write_text(json.dumps({"state": rest, "param_groups": state["param_groups"]}))
            if wrong := [name for name, size in sizes(folder).items() if size != tensors[name].shape]:
                raise PealmError(
                    f"{folder} lacks parts of {wrong[0]}: all nodes must share the folder of a sharded checkpoint"
                )


def load(folder: Path, model: nn.Module, optimizer: Any) -> None:
    """Read the state into a model and its optimizer; called on every rank. Raises UserError if it doesn't fit."""
    with failures(folder):
        saved, rest = sizes(folder), json.loads((folder / REST).read_text(encoding="utf-8"))
        own = {f"model.{name}": tensor for name, tensor in once(model)}
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        tensors: dict[str, Tensor] = {}
        state: dict[int, dict[str, Any]] = {int(number): dict(values) for number, values in rest["state"].items()}
        for name, size in saved.items():
            if name in own:
                tensors[name] = own[name]
            elif name.startswith("optimizer."):
                _, number, key = name.split(".", 2)
                like = parameters[int(number)]
                whole = size == like.shape and size != ()
                tensors[name] = torch.zeros_like(like, requires_grad=False) if whole else torch.zeros(size)
                state.setdefault(int(number), {})[key] = tensors[name]
        wrong = [name for name, size in saved.items() if name not in tensors or tensors[name].shape != size]
        wrong += [f"model.{n}" for n, p in model.named_parameters() if p.requires_grad and f"model.{n}" not in saved]
        if wrong:
            raise UserError(f"{folder} does not fit the model: {wrong[0]} differs")
        with torch.no_grad():
            state_dict_loader.load(
                tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=not dist.is_initialized()
            )
    optimizer.load_state_dict({"state": state, "param_groups": rest["param_groups"]})


def weights(folder: Path) -> dict[str, Tensor]:
    """Return the full weights by name."""
    with failures(folder):
        reader = HuggingFaceStorageReader(str(folder))
        saved: Any = reader.read_metadata().state_dict_metadata
        names = [name for name in saved if name.startswith("model.")]
        tensors = {name: torch.zeros(saved[name].size, dtype=saved[name].properties.dtype) for name in names}
        state_dict_loader.load(tensors, storage_reader=reader, no_dist=True)
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}


def once(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a model's state dict by name; tied ones under their first name."""
    shared = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    shared -= {name for name, _ in model.named_parameters()}
    yield from ((name, tensor) for name, tensor in model.state_dict().items() if name not in shared)


def sizes(folder: Path) -> Mapping[str, torch.Size]:
    """Return the shapes of the full tensors by name."""
    metadata = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {name: each.size for name, each in metadata.items()}  # type: ignore[union-attr]


@contextmanager
def failures(folder: Path) -> Iterator[None]:
    """Raise what goes wrong with the files as PealmError."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)  # with no_dist=True
            yield
    except PealmError:
        raise
    except (Exception, CheckpointException) as error:
        reason = next(iter(getattr(error, "failures", {}).values()), (error,))[0]
        raise PealmError(f"{folder}: the sharded checkpoint can't be read or written: {reason!r:.300}") from error
