"""From a resolved job to the things themselves: tokenizer, dataset, model. The only room that calls factories."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from pealm_core.errors import PealmError, PluginError, UserError
from pealm_core.job import Job
from pealm_core.plugins import Entry
from pealm_core.protocols import Dataset, Tokenizer, has


def make(entry: Entry[Any], *args: Any, **kwargs: Any) -> Any:
    """Call a record's factory. ValueError is the user's mistake; any other exception is the plugin's defect."""
    factory = entry.load("factory")
    try:
        return factory(*args, **kwargs)
    except PealmError:
        raise
    except ValueError as error:
        raise UserError(f"{entry.spec.kind} {entry.name}: {error}") from error
    except Exception as error:
        raise PluginError(
            f"{entry.plugin.dist}: making {entry.spec.kind} {entry.name!r} failed: {type(error).__name__}: {error}"
        ) from error


def make_component(job: Job, table: str) -> Any:
    """The tokenizer, dataset or evaluator of a job. A component without settings is made without arguments."""
    entry, config = job.entries[table], job.configs[table]
    return make(entry) if config is None else make(entry, config)


def make_tokenizer(job: Job, saved: Path | None = None, dataset: Dataset | None = None) -> Tokenizer:
    """The job's tokenizer, with the vocabulary of a saved folder or fitted on the dataset's training text."""
    tokenizer: Tokenizer = make_component(job, "tokenizer")
    name = job.entries["tokenizer"].name
    try:
        if saved is not None:
            if has(tokenizer, "load"):
                tokenizer.load(saved)  # type: ignore[attr-defined]
        elif dataset is not None and has(tokenizer, "fit"):
            tokenizer.fit(dataset.documents("train"))  # type: ignore[attr-defined]
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"tokenizer {name}: {saved or 'training text'}: {error}") from error
    return tokenizer


def make_model(job: Job, vocab_size: int) -> tuple[torch.nn.Module, Job]:
    """The job's model for a vocabulary, with its weights where its record fetches some, and the job as built."""
    entry = job.entries["model"]
    config, weights = job.configs["model"], None
    if entry.spec.pretrained is not None:
        config, weights = entry.load("pretrained")(config)
        if vocab_size > config.vocab_size:
            raise UserError(f"the tokenizer has {vocab_size:,} tokens and {entry.name} only {config.vocab_size:,}")
    else:
        config = dataclasses.replace(config, vocab_size=vocab_size)
        job = job.with_model_config(config)
    model: torch.nn.Module = make(entry, config)
    if not isinstance(model, torch.nn.Module):
        raise PluginError(f"{entry.plugin.dist}: the factory of model {entry.name!r} gave {model!r}, no nn.Module")
    if weights is not None:
        model.load_state_dict(weights)
    return model, job
