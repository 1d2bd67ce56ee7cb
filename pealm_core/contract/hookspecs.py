"""The hooks: registration (no arguments, they return records) and the life of a run.

A plugin is a module, found through the entry-point group `pealm`, with functions of these names marked
`@hookimpl`. Registration hooks may return one record, return a list, or `yield` them.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from pealm_core.contract.specs import (
    CommandSpec,
    DatasetSpec,
    EvaluatorSpec,
    FormatSpec,
    ModelSpec,
    OptimizerSpec,
    TokenizerSpec,
)

if TYPE_CHECKING:
    from pealm_core.contract.protocols import Run

hookspec = pluggy.HookspecMarker("pealm")
hookimpl = pluggy.HookimplMarker("pealm")


@hookspec
def pealm_models() -> Iterable[ModelSpec] | ModelSpec:  # type: ignore[empty-body]
    """Model families: `pealm train NAME`."""


@hookspec
def pealm_tokenizers() -> Iterable[TokenizerSpec] | TokenizerSpec:  # type: ignore[empty-body]
    """Tokenizers: `--tokenizer NAME`."""


@hookspec
def pealm_datasets() -> Iterable[DatasetSpec] | DatasetSpec:  # type: ignore[empty-body]
    """Datasets: `--input.NAME [VALUE]`."""


@hookspec
def pealm_evaluators() -> Iterable[EvaluatorSpec] | EvaluatorSpec:  # type: ignore[empty-body]
    """Evaluations: `pealm eval --on NAME`."""


@hookspec
def pealm_optimizers() -> Iterable[OptimizerSpec] | OptimizerSpec:  # type: ignore[empty-body]
    """Optimizers: `--optimizer NAME`."""


@hookspec
def pealm_formats() -> Iterable[FormatSpec] | FormatSpec:  # type: ignore[empty-body]
    """Foreign checkpoint formats."""


@hookspec
def pealm_commands() -> Iterable[CommandSpec] | CommandSpec:  # type: ignore[empty-body]
    """Commands beside `train`, `sample`, `eval`."""


@hookspec
def pealm_run_start(run: "Run") -> None:
    """A training run begins or goes on. Called on every rank, before the first step."""


@hookspec
def pealm_step_end(run: "Run", step: int, metrics: Mapping[str, Any]) -> None:
    """An optimizer step is done; `metrics` is the step's line of metrics.jsonl. On every rank.

    A collective called here on rank 0 alone hangs the run: call it on all ranks or on none.
    """


@hookspec
def pealm_checkpoint_saved(run: "Run", path: Path) -> None:
    """A checkpoint folder is complete on disk. Called on every rank."""


@hookspec
def pealm_run_end(run: "Run", status: str) -> None:
    """The run ends: `status` is "done", "interrupted" or "failed". On every rank."""
