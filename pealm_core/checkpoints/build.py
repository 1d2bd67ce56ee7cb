"""Make the components of a job: tokenizer, dataset, model. The only module that calls factories."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from pealm_core.checkpoints.folder import CONFIG, find
from pealm_core.checkpoints.initial_weights import InitialWeights, without_wrappers
from pealm_core.checkpoints.tensors import load_tensors
from pealm_core.config.job import Job, plan
from pealm_core.config.layers import file_layer
from pealm_core.contract.errors import PealmError, PluginError, UserError
from pealm_core.contract.protocols import Dataset, Tokenizer, has
from pealm_core.plugins.host import Entry

# What torch says when sizes are too large, on a CPU and on GPUs.
NO_MEMORY = ("can't allocate memory", "not enough memory", "Storage size calculation overflowed", "out of memory")


def plan_of(path: Path) -> Job:
    """Return the job of a checkpoint: its model and tokenizer with their settings. Raises PealmError."""
    return plan(("model", "tokenizer"), file=file_layer(find(path) / CONFIG))


def make(entry: Entry[Any], *args: Any, **kwargs: Any) -> Any:
    """Call a record's factory. ValueError is the user's mistake; any other exception is a bug in the plugin."""
    factory = entry.load("factory")
    try:
        return factory(*args, **kwargs)
    except PealmError:
        raise
    except ValueError as error:
        raise UserError(f"{entry.spec.kind} {entry.name}: {error}") from error
    except (Exception, SystemExit) as error:
        if isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY):
            reason = f"{entry.spec.kind} {entry.name} does not fit into memory: {type(error).__name__}: {error}"
            raise UserError(f"{reason.splitlines()[0]}; choose smaller sizes") from error
        raise PluginError(
            f"{entry.plugin.dist}: making {entry.spec.kind} {entry.name!r} failed: {type(error).__name__}: {error}"
        ) from error


def make_component(job: Job, table: str) -> Any:
    """Make the tokenizer, dataset or evaluator of a job. A component without settings gets no arguments."""
    entry, config = job.entries[table], job.configs[table]
    return make(entry) if config is None else make(entry, config)


def make_tokenizer(job: Job, saved: Path | None = None, dataset: Dataset | None = None) -> Tokenizer:
    """Make the job's tokenizer, with a saved vocabulary or fitted on the dataset's training text."""
    tokenizer: Tokenizer = make_component(job, "tokenizer")
    name, dist = job.entries["tokenizer"].name, job.entries["tokenizer"].plugin.dist
    if has(tokenizer, "fit") and not (has(tokenizer, "save") and has(tokenizer, "load")):
        raise PluginError(f"{dist}: tokenizer {name!r} can fit but not save and load: its checkpoints would be lost")
    try:
        if saved is not None:
            if has(tokenizer, "load"):
                tokenizer.load(saved)  # type: ignore[attr-defined]
        elif dataset is not None and has(tokenizer, "fit"):
            if not has(dataset, "documents"):
                raise UserError(
                    f"--input.{job.entries['input'].name} is tokenized already, and {name!r} learns from text; "
                    f"give the --tokenizer that made its tokens"
                )
            tokenizer.fit(dataset.documents("train"))  # type: ignore[attr-defined]
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"tokenizer {name}: {saved or 'training text'}: {error}") from error
    return tokenizer


def make_model(job: Job, vocab_size: int, start: InitialWeights | None = None) -> tuple[torch.nn.Module, Job]:
    """Return the job's model for a vocabulary, and the job as built. start: the weights of `--init`."""
    entry = job.entries["model"]
    config, weights = job.configs["model"], None
    if start is not None:
        config, weights = start.config, start.tensors
        if config.vocab_size not in (0, vocab_size):
            raise UserError(
                f"the tokenizer has {vocab_size:,} tokens and the weights of --init {config.vocab_size:,}"
            )
        config = dataclasses.replace(config, vocab_size=vocab_size)
        job = job.with_model_config(config)
    elif entry.spec.pretrained is not None:
        config, weights = entry.load("pretrained")(config)
        if vocab_size > config.vocab_size:
            raise UserError(f"the tokenizer has {vocab_size:,} tokens and {entry.name} only {config.vocab_size:,}")
    else:
        config = dataclasses.replace(config, vocab_size=vocab_size)
        job = job.with_model_config(config)
    model: torch.nn.Module = make(entry, config)
    if not isinstance(model, torch.nn.Module):
        raise PluginError(
            f"{entry.plugin.dist}: the factory of model {entry.name!r} returned {model!r}, which is not an nn.Module"
        )
    if weights is not None:
        where = f"--init {job.configs['train'].init}" if start else entry.name
        weights = without_wrappers(weights, model.state_dict())
        if has(model, "adapt_weights"):
            try:
                weights = model.adapt_weights(weights)  # type: ignore[operator]
            except ValueError as error:
                raise UserError(f"{where} does not fit {entry.name}: {error}") from error
        load_tensors(model, weights, where)
    try:
        check_model(model, config.vocab_size)
    except Exception as error:
        raise PluginError(f"{entry.plugin.dist}: model {entry.name!r}: {type(error).__name__}: {error}") from error
    return model, job


@torch.no_grad()
def check_model(model: Any, vocab_size: int) -> None:
    """Check the model contract with two tokens. Raises what the model raises, or TypeError."""
    for name in ("vocab_size", "block_size"):
        if not isinstance(getattr(getattr(model, "config", None), name, None), int):
            raise TypeError(f"needs .config.{name}, a whole number")
    training, random = model.training, torch.get_rng_state()
    model.eval()
    idx = torch.zeros(1, min(2, model.config.block_size), dtype=torch.long, device=next(model.parameters()).device)
    _, loss = model(idx, idx)
    if not isinstance(loss, torch.Tensor) or loss.shape != () or not loss.is_floating_point():
        raise TypeError("forward with targets must give (logits or None, loss), the loss a scalar tensor")
    cache = model.make_cache(1, model.config.block_size) if has(model, "make_cache") else None
    logits, _ = model(idx, cache=cache, at=[-1])
    if not isinstance(logits, torch.Tensor) or logits.shape != (1, 1, vocab_size):
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else logits
        raise TypeError(f"forward with at=[-1] must give logits of shape (1, 1, {vocab_size}), not {shape}")
    if cache is not None:
        two = cache.repeat(2)
        if idx.shape[1] < model.config.block_size:
            model(idx[:, :1].expand(2, -1), cache=two, at=[-1])
    model.train(training)
    torch.set_rng_state(random)
