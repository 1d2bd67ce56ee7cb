"""Weights to start from: `--init` takes a pretrained model's name, a run or checkpoint, or a file of tensors."""

import dataclasses
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.checkpoints.tensors import read_tensors
from pealm_core.config.choice import preset_tables
from pealm_core.config.job import Job, plan
from pealm_core.config.layers import file_layer
from pealm_core.contract.errors import UserError
from pealm_core.contract.specs import ModelSpec

PICKLED = (".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Start:
    """config: of the model to train; tensors: its state dict; tokenizer: the saved vocabulary of the weights."""

    config: Any
    tensors: Mapping[str, Tensor]
    tokenizer: Path | None


def read_start(job: Job, init: str) -> Start:
    """The weights that `--init` names, for the job's model. Raises PealmError."""
    entry, path = job.entries["model"], Path(init)
    if path.is_file() and not (path.parent / checkpoint.STATE).is_file():
        return Start(job.configs["model"], read_file(path), None)
    if path.exists():
        folder = checkpoint.find(path)
        checkpoint.verify(folder)
        there = plan(("model",), host=job.host, file=file_layer(folder / checkpoint.CONFIG))
        if there.entries["model"].name != entry.name:
            raise UserError(f"--init {init} is a {there.entries['model'].name!r}, no {entry.name!r}")
        tensors, _ = read_tensors(folder / checkpoint.MODEL)
        return Start(_changed(there.configs["model"], job), tensors, folder / checkpoint.TOKENIZER)
    known = job.host.entries(ModelSpec)
    names = [
        name for name, (first, *_) in known.items() if first.spec.pretrained and first.spec.family == entry.spec.name
    ]
    if init not in names:
        offer = f", or one of {', '.join(names)}" if names else ""
        raise UserError(f"--init {init}: no such run, checkpoint or file of weights{offer}")
    other = job.host.find(ModelSpec, init)
    chosen = plan(("model",), host=job.host, preset=_preset(job, other.spec), words={"model": {"name": init}})
    config, tensors = other.load("pretrained")(_changed(chosen.configs["model"], job))
    return Start(_changed(config, job), tensors, None)


def _preset(job: Job, pretrained: ModelSpec) -> str | None:
    """The preset that the job's model has: as the command line names it or, as with a run's config, by its values."""
    origins, values = job.resolved.origins["model"], job.resolved.values["model"]
    for name in pretrained.presets:
        sizes = preset_tables(job.entries["model"].spec.presets.get(name, {}))["model"]
        same = bool(sizes) and all(values[key.replace("-", "_")] == value for key, value in sizes.items())
        if same or f"preset {name}" in origins.values():
            return name
    return None


def _changed(config: Any, job: Job) -> Any:
    """The config with what the user himself has set of the model, as far as it has such fields."""
    origins, values = job.resolved.origins["model"], job.resolved.values["model"]
    given = [name for name, o in origins.items() if o not in ("default", "recipe") and not o.startswith("preset ")]
    fields = {field.name for field in dataclasses.fields(config)} - {"vocab_size"}
    return dataclasses.replace(config, **{name: values[name] for name in given if name in fields})


def read_file(path: Path) -> dict[str, Tensor]:
    """A state dict in a foreign file: safetensors, or what torch.save wrote. Code in it is never run.

    Of a training checkpoint, the entry `model` or `state_dict` is taken; the prefixes that DDP and torch.compile put
    before the names are cut off. Raises UserError.
    """
    if path.suffix not in PICKLED:
        return read_tensors(path)[0]
    try:
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} was refused: it holds more than tensors, and reading it could run its code"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UserError(f"{path} can't be read as a file of weights: {str(error).splitlines()[0]}") from None
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path} holds no state dict: names and tensors")
    return {str(name).removeprefix("module.").removeprefix("_orig_mod."): value for name, value in content.items()}
