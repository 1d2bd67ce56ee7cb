"""An evaluation: an evaluator with the datasets that it reads, for any model."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any

import torch

from pealm_core import LM, EvalResult, UserError, call_plugin, load

RESULT = "an EvalResult: metrics, each a pair of numbers by name; n, a number; notes, texts; details, values for JSON"


class Evaluation:
    """The evaluator of a job and its datasets. Every process makes it, and calls its methods.

    job: of a ComponentCommand with the component "eval", or of `plan_evaluation`. world: of `processes`, or a run's.
    limit: rows or documents to evaluate; None: all. details: ask the evaluator for each row's values.
    Raises UserError if the job has no evaluation, or one that needs an input or takes no limit.
    """

    def __init__(self, job: Any, world: Any, *, limit: int | None = None, details: bool = False) -> None:
        self.world = world
        with self.world.together():
            self.job = _changed(job, limit, details)
            self.name, self.evaluator = job.entries["eval"].name, self.job.make("eval")
            self.inputs: dict[str, dict[str, Any]] = {}  # what `evaluate` gets besides, by the label of the dataset
            for label, table in zip(job.labels, job.inputs, strict=True):
                dataset, value = job.make(table), job.entries[table].spec.value
                whole = hasattr(dataset, "whole") and job.origins[table].get(value) == "command line"
                self.inputs[label] = {"dataset": dataset, "split": "whole" if whole else "val"}

    def open(self, ckpt: Path | None, *, device: Any = "auto", dtype: str = "fp32", base: Path | None = None) -> LM:
        """Open the model of a checkpoint, or the job's pretrained one, whose weights one process downloads."""
        with self.world.one_by_one():
            return load(ckpt, job=self.job, device=device, dtype=dtype, base=base)

    def run(self, lm: LM, progress: Callable[..., None] = lambda *_: None) -> EvalResult:
        """Evaluate a model, without a change to the random numbers of others. Raises PealmError."""
        options = {"config": _with_inputs(lm.config), "progress": progress if self.world.main else lambda *_: None}
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with self.world.together(), torch.random.fork_rng(devices):
            try:
                results = {
                    label: call_plugin(
                        self.evaluator.evaluate, (_correct, RESULT), lm.model, lm.tokenizer, **options, **more
                    )
                    for label, more in (self.inputs or {"": {}}).items()
                }
            except ValueError as error:
                raise UserError(f"--on {self.name}: {error}") from error
        return _joined(results)


def _changed(job: Any, limit: int | None, details: bool) -> Any:
    """Return the job with the settings `limit` and `details` of its evaluator. Raises UserError."""
    if "eval" not in job.entries:
        raise UserError("eval needs an evaluation: --on NAME (pealm eval --help lists them)")
    entry, config = job.entries["eval"], job.configs["eval"]
    if entry.spec.input and not job.inputs:
        raise UserError(f"{entry.name} needs an input: --input.NAME, see --help")
    known = entry.config.__dataclass_fields__ if entry.config else {}
    if limit is not None and "limit" not in known:
        raise UserError(f"{entry.name} takes no --limit")
    changes: dict[str, Any] = {} if limit is None else {"limit": limit}
    changes |= {"details": True} if details and "details" in known else {}
    return replace(job, configs={**job.configs, "eval": replace(config, **changes)}) if changes else job


def _joined(results: Mapping[str, EvalResult]) -> EvalResult:
    """Return the results of a mixture's inputs as one, with `loss/NAME`."""
    if len(results) == 1:
        return next(iter(results.values()))
    each = results.items()
    return EvalResult(
        {f"{key}/{name}": metric for name, result in each for key, metric in result.metrics.items()},
        sum(result.n for result in results.values()),
        [f"{name}: {note}" for name, result in each for note in result.notes],
        [{"input": name, **detail} for name, result in each for detail in result.details],
    )


def _correct(r: Any) -> bool:
    """Whether an evaluator's result is one; exceptions mean that it is not."""
    good = isinstance(r, EvalResult) and r.n >= 0 and all(isinstance(text, str) for text in r.notes)
    pairs = all(isinstance(value, Real) and isinstance(error, Real) for value, error in r.metrics.values())
    return good and pairs and bool(json.dumps([*r.details]))


def _with_inputs(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's config with its inputs as a list; those of a mixture only there."""
    given = config.get("input")
    if isinstance(given, list):
        return {**{table: values for table, values in config.items() if table != "input"}, "inputs": given}
    return {**config, "inputs": [given] if given else []}
