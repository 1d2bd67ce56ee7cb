"""Make the model of a job."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pealm_core.checkpoints.adapters import apply
from pealm_core.checkpoints.folder import CONFIG, find
from pealm_core.checkpoints.tensors import load_tensors, without_wrappers
from pealm_core.config.resolve_job import Job, plan
from pealm_core.config.toml_layers import Layer, file_layer
from pealm_core.contract.errors import PealmError, PluginError, UserError
from pealm_core.contract.protocols import has
from pealm_core.plugins.loading import Entry
from pealm_core.plugins.plugin_errors import FORWARD, HINT, check, explain


def plan_of(path: Path) -> Job:
    """Return the job of a checkpoint: its model and tokenizer with their settings. Raises PealmError."""
    return plan(("model", "tokenizer"), file=file_layer(find(path) / CONFIG))


def make_model(
    job: Job,
    vocab_size: int,
    weights: Mapping[str, Tensor] | None = None,
    strategy: Any = None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[nn.Module, Job]:
    """Return the job's model for a vocabulary, with its adapter applied, and the job as built.

    weights: those of `--init`. An adapted model without them gets those of its base. strategy: its optional `build`
    makes models with `init_weights()`. say: called with a line if the weights are for another number of tokens.
    """
    entry, adapter = job.entries["model"], job.entries.get("adapter")
    where = f"--init {job.configs['train'].init}" if weights is not None else entry.name
    if adapter is not None and weights is None:
        from pealm_core.checkpoints.initial_weights import read_base  # the base may have a base of its own

        job, weights = read_base(job)
        where = f"the adapter's base {job.base['base']}"
    config = job.configs["model"]
    if weights is None and entry.spec.pretrained is not None:
        config, weights = entry.load("pretrained")(config)
        if vocab_size > config.vocab_size > 0:
            raise UserError(f"the tokenizer has {vocab_size:,} tokens and {where} only {config.vocab_size:,}")
        sizes = config
    else:
        sizes = replace(config, vocab_size=vocab_size)
        job = job.with_model_config(sizes)
    deferred = weights is None and has(strategy, "build") and has(entry.load("factory"), "init_weights")
    model = strategy.build(lambda: entry.make(sizes)) if deferred else entry.make(sizes)
    _check(entry, model, sizes.vocab_size)
    resized: Mapping[str, int | None] = {}
    if weights is not None:
        weights = without_wrappers(weights, model.state_dict())
        try:
            if has(model, "adapt_weights"):
                weights = model.adapt_weights(weights)
        except ValueError as error:
            raise UserError(f"{where} does not fit {entry.name}: {error}") from error
        if config.vocab_size != sizes.vocab_size:
            weights, resized = _resize(entry, model, weights, config.vocab_size, sizes, say)
        load_tensors(model, weights, where)
    if adapter is not None:
        try:
            apply(job.make("adapter"), model, dict.fromkeys(resized) if job.other_tokens else resized)
        except PealmError:
            raise
        except Exception as error:
            reason = explain(error)
            raise PluginError(f"{adapter.plugin.dist}: adapter {adapter.name!r} on {entry.name}: {reason}") from error
        _check(adapter, model, sizes.vocab_size)
    return model, job


def _resize(
    entry: Entry[Any],
    model: nn.Module,
    weights: Mapping[str, Tensor],
    old: int,
    sizes: Any,
    say: Callable[[str], None],
) -> tuple[dict[str, Tensor], dict[str, int | None]]:
    """Return weights for `old` tokens (0: unknown) as weights for the model's, and what was resized.

    The latter by name, with the row from which on it is new, or None where more than rows is.

    Rows are copied by id; new ones are as the model initialises them, as are those beyond its vocabulary. Another
    model, with a larger vocabulary, shows which dimensions depend on it.
    """
    own, weights, new = model.state_dict(), dict(weights), sizes.vocab_size
    if not old and all(weights[name].shape == tensor.shape for name, tensor in own.items() if name in weights):
        return weights, {}
    with torch.random.fork_rng(devices=()):
        larger = entry.make(replace(sizes, vocab_size=2 * new + 1000)).state_dict()
    resized: dict[str, int | None] = {}
    for name, tensor in own.items():
        saved = weights.get(name)
        dims = [dim for dim, size in enumerate(larger[name].shape) if size != tensor.shape[dim]]
        if dims and saved is not None and saved.dim() == tensor.dim():
            sizes_there, sizes_here = ({t.shape[dim] for dim in dims} for t in (saved, tensor))
            if len(sizes_there) != len(sizes_here):
                continue  # cut along one dimension: no vocabulary has such a shape
            old = min(old or saved.shape[dims[0]], *sizes_there)
            copied = tuple(slice(min(old, new) if dim in dims else None) for dim in range(tensor.dim()))
            if saved[copied].shape == tensor[copied].shape:
                weights[name] = tensor.clone()
                weights[name][copied] = saved[copied]
                resized[name] = old if dims == [0] and old < new else None
    if resized:
        count = f"{abs(new - old):,} row{'s are' if abs(new - old) > 1 else ' is'}"
        say(f"vocabulary {old:,} → {new:,}: {count} {'new' if new > old else 'left out'}")
    return weights, resized


def _check(entry: Entry[Any], model: nn.Module, vocab_size: int) -> None:
    """Check a model's contract; a mistake is the fault of the record's plugin."""
    what = f"{entry.plugin.dist}: {entry.spec.kind} {entry.name!r}"
    try:
        dict(model.state_dict())
        check_model(model, vocab_size, f"{what}: forward")
    except PealmError:
        raise
    except Exception as error:
        raise PluginError(f"{what}: {explain(error)}{HINT}") from error


def with_adapter(job: Job, file: Layer, base: Path | None = None) -> Job:
    """Return the job of a checkpoint with the adapter that its config names, if any. Raises UserError.

    base: where the adapter's base is, if not in the place that the config names.
    """
    part = plan(("adapter",), host=job.host, file=file)
    job = replace(
        job, entries={**job.entries, **part.entries}, configs={**job.configs, **part.configs}, base=part.base
    )
    return job if base is None else job.with_base(base)


def check_model(model: Any, vocab_size: int, what: str = "forward") -> None:
    """Check the core of the model contract with two tokens. Raises what the model raises, or PluginError."""
    training = model.training
    model.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=()):
        device = next((p.device for p in model.parameters()), None)
        idx = torch.zeros(1, min(2, model.config.block_size), dtype=torch.long, device=device)
        check(what, FORWARD, model(idx, idx))
        must = f"(logits, None) without targets, with at=[-1] logits of shape (1, 1, {vocab_size})"
        right = (1, 1, vocab_size)
        check(what, (lambda r: isinstance(r, tuple | list) and r[0].shape == right, must), model(idx, at=[-1]))
    model.train(training)
