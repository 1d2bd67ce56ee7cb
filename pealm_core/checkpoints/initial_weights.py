"""Initial weights of a run: `--init` takes a pretrained model's name, a run or checkpoint, or a file of tensors."""

import pickle
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.checkpoints.api import read_checkpoint
from pealm_core.checkpoints.tensors import read_tensors
from pealm_core.config.choose_components import preset_tables
from pealm_core.config.paths import digest
from pealm_core.config.resolve_job import Job, plan
from pealm_core.config.toml_layers import Layer, Resolved, option_name
from pealm_core.contract.errors import UserError
from pealm_core.contract.fields import dump, settings_of
from pealm_core.contract.specs import ModelSpec

PICKLED = (".pt", ".pth", ".bin")
FREE = ("block-size",)  # and real numbers: settings that may differ from those of the weights
Table = Mapping[str, Any]  # a model's settings as TOML
Tensors = Mapping[str, Tensor]


def read_initial_weights(job: Job, init: str, say: Callable[[str], None] = lambda line: None) -> tuple[Job, Tensors]:
    """Read what `--init` names: the job with the weights' settings and vocabulary, and a state dict.

    An adapter's base is what `--init` names. say: called with a line if the weights are for another tokenizer, whose
    vocabulary is not used then. Raises PealmError.
    """
    job, tensors, tokenizer = _read(job, init, f"--init {init}")
    if job.other_tokens:
        say(f"tokenizer {tokenizer} → {job.entries['tokenizer'].name}: the weights were trained with other tokens")
    return job, tensors


def read_base(job: Job) -> tuple[Job, Tensors]:
    """Read the base of the job's adapter: the job with the weights' settings, and a state dict. Raises UserError."""
    name, place, wanted = job.entries["adapter"].name, job.base.get("base"), job.base.get("base-hash")
    if place is None:
        raise UserError(f"--adapter {name} needs the weights that it adapts: --init NAME or PATH")
    try:
        job, tensors, _ = _read(job, place, f"base {place}")
    except UserError as error:
        raise UserError(f"the base of adapter {name} can't be read: {error}; --base PATH says where it is") from error
    if wanted is not None and (own := job.base.get("base-hash", "unknown")) != wanted:
        raise UserError(
            f"{place} is not the base of adapter {name}: its weights have changed or are others (SHA-256 "
            f"{own:.12}, not {wanted:.12}); --base PATH says where the same weights are"
        )
    return job, tensors


def _read(job: Job, place: str, what: str) -> tuple[Job, Tensors, str | None]:
    """Return the job with the settings and the vocabulary of the weights in a place, the weights, their tokenizer.

    The job knows where its adapter's base is, and whether the weights were trained with another tokenizer. The
    model's vocab_size is that of the weights, or 0 if that is unknown. what: the place as messages call it.
    """
    model, path = job.entries["model"], Path(place)
    tokenizer: str | None = None
    vocabulary: Path | None = None
    if not path.exists():
        config, tensors, tokenizer, vocabulary = _read_pretrained(job, place, what)
        table, base = dump(config), {"base": place}
    elif not path.is_file() or (path.parent / checkpoint.STATE).is_file():
        saved = read_checkpoint(path)
        table = dict(saved.config["model"])
        name = table.pop("name")
        if job.host.find(ModelSpec, name, prefer=saved.config.get("versions", ())).spec is not model.spec:
            raise UserError(f"{what} is {name!r}, not {model.name!r}")
        if saved.adapter is not None and "adapter" in job.entries:
            raise UserError(
                f"{what} has an adapter itself; merge it into the weights first: pealm convert {place} OUT"
            )
        file_hash = checkpoint.state_of(saved.path)["files"][checkpoint.MODEL][1]
        base = {"base": str(saved.path.resolve()), "base-hash": file_hash}
        tensors, vocabulary = saved.model, saved.tokenizer
        tokenizer = saved.config.get("tokenizer", {}).get("name")
    else:
        tensors, sizes = read_file(path)
        keys = {item.key: item.name for item in settings_of(model.config).values()}
        table = {key: sizes[name] for key, name in keys.items() if name in sizes}
        base = {"base": str(path.resolve()), "base-hash": digest(path)}
    job, entry = _with_settings(job, what, table) if table else job, job.entries.get("tokenizer")
    other = tokenizer is not None and entry is not None and tokenizer.rpartition("/")[2] != entry.spec.name
    vocabulary = job.vocabulary or (None if other else vocabulary)
    return replace(job, base=base, vocabulary=vocabulary, other_tokens=other), tensors, tokenizer


def _read_pretrained(job: Job, init: str, what: str) -> tuple[Any, Tensors, str | None, Path | None]:
    """Fetch config, weights, tokenizer and vocabulary of a pretrained model, of the preset with the job's sizes."""
    model, own = job.entries["model"].spec, dump(job.configs["model"])
    entries = job.host.entries(ModelSpec).get(init.rpartition("/")[2], [])
    if not any(entry.spec.pretrained and entry.spec.family == model.name for entry in entries):
        raise UserError(f"{what}: no such run, checkpoint or file of weights, or pretrained {model.name}")
    pretrained, preset = job.host.find(ModelSpec, init), None
    for name in pretrained.spec.presets:
        sizes = preset_tables(model.presets.get(name, {}))["model"]
        if sizes and all(own.get(key.replace("_", "-")) == value for key, value in sizes.items()):
            preset = name
    chosen = plan(("model",), host=job.host, preset=preset, words={"model": {"name": init}})
    config, tensors = pretrained.load("pretrained")(chosen.configs["model"])
    if pretrained.spec.vocabulary is None:
        return config, tensors, None, None
    return config, tensors, pretrained.spec.tokenizer, pretrained.load("vocabulary")(chosen.configs["model"])


def _with_settings(job: Job, what: str, table: Table) -> Job:
    """Return the job with the weights' settings and the user's. Raises UserError for those that the weights decide.

    Shapes alone would not tell: weights for 4 heads also load into a model with 2.
    """
    user = {}
    for key, value in dump(job.configs["model"]).items():
        own = table.get(key, value)
        if key != "vocab-size" and not job.origins["model"][key.replace("-", "_")].startswith(
            ("default", "recipe", "preset ")
        ):
            user[key] = value
            if value != own and key not in FREE and not isinstance(own, float):
                option = option_name("model", key)
                raise UserError(f"{option} {value}: the weights of {what} have {own}; leave the option out")
    layers = [Layer(f"the settings of {what}", {"model": table}), Layer("options", {"model": user})]
    return job.with_model_config(Resolved({}, {"model": job.entries["model"]}, layers).build("model"))


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
    except pickle.UnpicklingError:
        raise UserError(f"{path} was refused: it has more than tensors, and reading it could run its code") from None
    except Exception as error:
        reason = (str(error) or "it is empty or truncated").splitlines()[0]
        raise UserError(f"{path} can't be read as a file of weights: {reason}") from None
    content = content if isinstance(content, Mapping) else {}
    tensors = content.get("model", content.get("state_dict", content))
    if not (tensors and isinstance(tensors, Mapping) and all(isinstance(t, Tensor) for t in tensors.values())):
        raise UserError(f"{path} is not a state dict of names and tensors")
    sizes = content.get("model_args")
    return {str(name): tensor for name, tensor in tensors.items()}, sizes if isinstance(sizes, Mapping) else {}
