"""Initial weights of a run: `--init` takes a pretrained model's name, a run or checkpoint, or a file of tensors."""

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
from pealm_core.config.layers import Layer, file_layer, option_name
from pealm_core.contract.errors import UserError
from pealm_core.contract.fields import settings_of
from pealm_core.contract.specs import ModelSpec

PICKLED = (".pt", ".pth", ".bin")
WRAPPERS = ("module.", "_orig_mod.", "transformer.")  # of DDP, torch.compile, and models inside a larger one


@dataclass(frozen=True)
class InitialWeights:
    """config: of the model to train; tensors: its state dict; tokenizer: the folder with the weights' vocabulary."""

    config: Any
    tensors: Mapping[str, Tensor]
    tokenizer: Path | None


def read_initial_weights(job: Job, init: str) -> InitialWeights:
    """Read what `--init` names, for the job's model. Raises PealmError."""
    entry, path = job.entries["model"], Path(init)
    if path.is_file() and not (path.parent / checkpoint.STATE).is_file():
        tensors, sizes = read_file(path)
        known = {key: sizes[key] for s in settings_of(entry.config).values() for key in (s.name,) if key in sizes}
        if not known:
            return InitialWeights(job.configs["model"], tensors, None)
        known.pop("vocab_size", None)  # the tokenizer's
        layer = Layer(f"{path}, model_args", {"model": known})
        config = plan(("model",), host=job.host, file=layer, words={"model": {"name": entry.name}}).configs["model"]
        return InitialWeights(_with_user_settings(config, job, init), tensors, None)
    if path.exists():
        folder = checkpoint.find(path)
        checkpoint.verify(folder, checkpoint.MODEL, checkpoint.CONFIG, checkpoint.TOKENIZER)
        saved = plan(("model",), host=job.host, file=file_layer(folder / checkpoint.CONFIG))
        other = saved.entries["model"]
        if (other.plugin.dist, other.spec.name) != (entry.plugin.dist, entry.spec.name):
            raise UserError(f"--init {init} is {other.name!r}, not {entry.name!r}")
        tensors, _ = read_tensors(folder / checkpoint.MODEL)
        config = _with_user_settings(saved.configs["model"], job, init)
        return InitialWeights(config, tensors, folder / checkpoint.TOKENIZER)
    offered = [
        e
        for entries in job.host.entries(ModelSpec).values()
        for e in entries
        if e.spec.pretrained and e.spec.family == entry.spec.name
    ]
    if not any(init in (e.spec.name, f"{e.plugin.dist}/{e.spec.name}") for e in offered):
        names = ", ".join(sorted({e.spec.name for e in offered}))
        raise UserError(
            f"--init {init}: no such run, checkpoint or file of weights" + (f", or one of {names}" if names else "")
        )
    pretrained = job.host.find(ModelSpec, init)
    chosen = plan(("model",), host=job.host, preset=_preset(job, pretrained.spec), words={"model": {"name": init}})
    config, tensors = pretrained.load("pretrained")(_replace(chosen.configs["model"], _user_settings(job)))
    return InitialWeights(_with_user_settings(config, job, init), tensors, None)


def _preset(job: Job, pretrained: ModelSpec) -> str | None:
    """Return the preset of the job's model, named on the command line or recognized by its values."""
    config = job.configs["model"]
    for name in pretrained.presets:
        sizes = preset_tables(job.entries["model"].spec.presets.get(name, {}))["model"]
        same = bool(sizes) and all(getattr(config, key.replace("-", "_")) == value for key, value in sizes.items())
        if same or f"preset {name}" in job.origins["model"].values():
            return name
    return None


def _user_settings(job: Job) -> dict[str, Any]:
    """Return the model's settings that come from the command line or a config file."""
    origins, config = job.origins["model"], job.configs["model"]
    given = [name for name, o in origins.items() if o not in ("default", "recipe") and not o.startswith("preset ")]
    return {name: getattr(config, name) for name in given if name != "vocab_size"}


def _replace(config: Any, values: Mapping[str, Any]) -> Any:
    """Return the config with those of the values that it has fields for. Raises UserError."""
    fields = {field.name for field in dataclasses.fields(config)}
    try:
        return dataclasses.replace(config, **{name: value for name, value in values.items() if name in fields})
    except ValueError as error:
        raise UserError(f"[model] {error}") from None


def _with_user_settings(config: Any, job: Job, init: str) -> Any:
    """Return the weights' config with the user's settings. Raises UserError for those that the weights decide.

    Shapes alone would not tell: weights for 4 heads also load into a model with 2. Free are the context length (where
    the model allows it) and real numbers, such as dropout.
    """
    given = _user_settings(job)
    for name, value in given.items():
        own = getattr(config, name, value)
        if value != own and name != "block_size" and not isinstance(own, float):
            option = option_name("model", name.replace("_", "-"))
            raise UserError(f"{option} {value}: the weights of --init {init} have {own}; leave the option out")
    return _replace(config, given)


def read_file(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Read a foreign file: safetensors, or what torch.save wrote. Code in it is never run. Raises UserError.

    Returns a state dict and the model's sizes, if the file has them: of a training checkpoint the entries `model` or
    `state_dict`, and `model_args` (nanoGPT).
    """
    if path.suffix not in PICKLED:
        return read_tensors(path)[0], {}
    try:
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError):
            raise UserError(
                f"{path} was refused: it is not a file of tensors alone, and reading it could run its code"
            ) from None
        reason = (str(error) or "it is empty or truncated").splitlines()[0]
        raise UserError(f"{path} can't be read as a file of weights: {reason}") from None
    sizes = content.get("model_args") if isinstance(content, Mapping) else None
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path} is not a state dict of names and tensors")
    return {str(name): value for name, value in content.items()}, sizes if isinstance(sizes, Mapping) else {}


def without_wrappers(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Strip the prefixes that wrappers put before the names, in any order, unless the model's own names have them."""
    foreign = [prefix for prefix in WRAPPERS if not any(name.startswith(prefix) for name in own)]
    while any(name.startswith(tuple(foreign)) for name in tensors):
        stripped = {}
        for name, tensor in tensors.items():
            prefix = next((prefix for prefix in foreign if name.startswith(prefix)), "")
            stripped[name.removeprefix(prefix)] = tensor
        if len(stripped) < len(tensors):
            raise UserError("--init: the file has some tensors both with and without a prefix such as `module.`")
        tensors = stripped
    return tensors
