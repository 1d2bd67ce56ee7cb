"""Make the components of a job: tokenizer, dataset, model. The only module that calls factories."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pealm_core.checkpoints.folder import CONFIG, find
from pealm_core.checkpoints.tensors import load_tensors, without_wrappers
from pealm_core.config.job import Job, plan
from pealm_core.config.toml_layers import file_layer
from pealm_core.contract.errors import PealmError, PluginError, UserError, describe
from pealm_core.contract.protocols import Dataset, Tokenizer, has
from pealm_core.plugins.host import Entry


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
        kind, reason = entry.spec.kind, f"{describe(error)}"
        if "memory" in reason.lower() or "Storage size" in reason:  # as Python and torch say it
            reason = f"{kind} {entry.name} does not fit into memory: {reason}".splitlines()[0]
            raise UserError(f"{reason}; choose smaller sizes") from error
        raise PluginError(f"{entry.plugin.dist}: making {kind} {entry.name!r} failed: {reason}") from error


def make_component(job: Job, table: str) -> Any:
    """Make the tokenizer, dataset or evaluator of a job. A component without settings gets no arguments."""
    if table not in job.entries:
        raise UserError(f"the config does not name a {table}: [{table}] name is missing")
    entry, config = job.entries[table], job.configs[table]
    return make(entry) if config is None else make(entry, config)


def make_tokenizer(job: Job, saved: Path | None = None, dataset: Dataset | None = None) -> Tokenizer:
    """Make the job's tokenizer, with a saved vocabulary or fitted on the dataset's training text."""
    tokenizer: Tokenizer = make_component(job, "tokenizer")
    name, dist = job.entries["tokenizer"].name, job.entries["tokenizer"].plugin.dist
    if has(tokenizer, "fit") and not (has(tokenizer, "save") and has(tokenizer, "load")):
        raise PluginError(f"{dist}: tokenizer {name!r} can fit but not save and load: its checkpoints would be lost")
    try:
        if saved is not None and has(tokenizer, "load"):
            tokenizer.load(saved)  # type: ignore[attr-defined]
        elif saved is None and dataset is not None and has(tokenizer, "fit"):
            if not has(dataset, "documents"):
                given = f"--input.{job.entries['input'].name}"
                raise UserError(f"{given} is tokenized already, not text for {name!r}; give its own --tokenizer")
            tokenizer.fit(dataset.documents("train"))  # type: ignore[attr-defined]
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"tokenizer {name}: {saved or 'training text'}: {error}") from error
    if not isinstance(size := tokenizer.vocab_size, int) or size < 0:  # 0: fitted on no text
        raise PluginError(f"{dist}: vocab_size of tokenizer {name!r} is {size!r:.60}, not a number of tokens")
    if (eot := getattr(tokenizer, "eot_id", None)) is not None and not (isinstance(eot, int) and 0 <= eot < size):
        raise PluginError(f"{dist}: eot_id of tokenizer {name!r} is {eot!r:.60}, not one of its {size:,} tokens")
    return tokenizer


def make_model(job: Job, vocab_size: int, weights: Mapping[str, Tensor] | None = None) -> tuple[nn.Module, Job]:
    """Return the job's model for a vocabulary, and the job as built. weights: those of `--init`."""
    entry, config = job.entries["model"], job.configs["model"]
    where = entry.name if weights is None else f"--init {job.configs['train'].init}"
    if weights is None and entry.spec.pretrained is not None:
        config, weights = entry.load("pretrained")(config)
        sizes = config
    else:
        sizes = replace(config, vocab_size=vocab_size)
        job = job.with_model_config(sizes)
    if weights is not None and vocab_size > config.vocab_size > 0:
        raise UserError(f"the tokenizer has {vocab_size:,} tokens and {where} only {config.vocab_size:,}")
    model = make(entry, sizes)
    if not isinstance(model, nn.Module):
        raise PluginError(f"{entry.plugin.dist}: model {entry.name!r} is {model!r:.80}, which is not an nn.Module")
    if weights is not None:
        weights = without_wrappers(weights, model.state_dict())
        try:
            if has(model, "adapt_weights"):
                weights = model.adapt_weights(weights)  # type: ignore[operator]
        except ValueError as error:
            raise UserError(f"{where} does not fit {entry.name}: {error}") from error
        load_tensors(model, weights, where)
    try:
        check_model(model, sizes.vocab_size)
    except Exception as error:
        raise PluginError(f"{entry.plugin.dist}: model {entry.name!r}: {describe(error)}") from error
    return model, job


def check_model(model: Any, vocab_size: int) -> None:
    """Check the core of the model contract with two tokens. Raises what the model raises, or TypeError."""
    training = model.training
    model.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=()):
        idx = torch.zeros(1, min(2, model.config.block_size), dtype=torch.long)
        _, loss = model(idx, idx)
        logits, _ = model(idx, at=[-1])
    if getattr(loss, "shape", None) != ():
        raise TypeError("forward with targets must give (logits or None, loss), the loss a scalar tensor")
    if (shape := tuple(getattr(logits, "shape", ()))) != (1, 1, vocab_size):
        raise TypeError(f"forward with at=[-1] must give logits of shape (1, 1, {vocab_size}), not {shape}")
    model.train(training)
