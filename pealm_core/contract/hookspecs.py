"""The hooks: registration hooks, which return records, and the hooks of a run.

A plugin is a module behind an entry point of the group `pealm`, with functions of these names marked `@hookimpl`.
A registration hook returns one record, returns a list, or yields them. The hooks of a run are called in the order of
discovery (by distribution, then name); pluggy's `tryfirst`, `trylast` and `wrapper` work for them. If one
raises, it is named once, its plugin's hooks aren't called again, and the run continues.
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
    """Register model families: `pealm train NAME`."""


@hookspec
def pealm_tokenizers() -> Iterable[TokenizerSpec] | TokenizerSpec:  # type: ignore[empty-body]
    """Register tokenizers: `--tokenizer NAME`."""


@hookspec
def pealm_datasets() -> Iterable[DatasetSpec] | DatasetSpec:  # type: ignore[empty-body]
    """Register datasets: `--input.NAME [VALUE]`."""


@hookspec
def pealm_evaluators() -> Iterable[EvaluatorSpec] | EvaluatorSpec:  # type: ignore[empty-body]
    """Register evaluations: `pealm eval --on NAME`."""


@hookspec
def pealm_optimizers() -> Iterable[OptimizerSpec] | OptimizerSpec:  # type: ignore[empty-body]
    """Register optimizers: `--optimizer NAME`."""


@hookspec
def pealm_formats() -> Iterable[FormatSpec] | FormatSpec:  # type: ignore[empty-body]
    """Register foreign checkpoint formats: `pealm convert`."""


@hookspec
def pealm_commands() -> Iterable[CommandSpec] | CommandSpec:  # type: ignore[empty-body]
    """Register commands: `pealm NAME`."""


@hookspec
def pealm_run_start(run: "Run") -> None:
    """A training run starts or resumes. Called on every rank, before the first step."""


@hookspec
def pealm_step_end(run: "Run", step: int, metrics: Mapping[str, Any]) -> None:
    """An optimizer step is done; `metrics` is its line of metrics.jsonl. Called on every rank.

    A collective operation on rank 0 only hangs the run: use it on all ranks or on none.
    """


@hookspec
def pealm_checkpoint_saved(run: "Run", path: Path) -> None:
    """A checkpoint folder is complete on disk. Called on every rank."""


@hookspec
def pealm_run_end(run: "Run", status: str) -> None:
    """The run ends; `status` is "done", "interrupted" or "failed". Called on every rank."""
