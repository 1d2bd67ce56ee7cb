"""A plugin is a module behind an entry point of the group `pealm`, with functions marked `@hookimpl`.

Registration hooks take no arguments. They return one record or a list, or yield records:

pealm_models():      ModelSpec, a model family: `pealm train NAME`
pealm_tokenizers():  TokenizerSpec, a tokenizer: `--tokenizer NAME`
pealm_datasets():    DatasetSpec, a dataset: `--input.NAME [VALUE]`
pealm_evaluators():  EvaluatorSpec, an evaluation: `pealm eval --on NAME`
pealm_optimizers():  OptimizerSpec, an optimizer: `--optimizer NAME`
pealm_formats():     FormatSpec, a foreign checkpoint format: `pealm convert`
pealm_commands():    CommandSpec, a command: `pealm NAME`

The hooks of a run are called on every rank, in the order of discovery (by distribution, then name); pluggy's
`tryfirst`, `trylast` and `wrapper` work for them. If one raises, it is named once,
its plugin's hooks are not called again, and the run continues.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from pealm_core.contract.protocols import Run

hookspec = pluggy.HookspecMarker("pealm")
hookimpl = pluggy.HookimplMarker("pealm")


@hookspec
def pealm_run_start(run: "Run") -> None:
    """A training run starts or resumes. Called before the first step."""


@hookspec
def pealm_step_end(run: "Run", step: int, metrics: Mapping[str, Any]) -> None:
    """An optimizer step is done; `metrics` is its line of metrics.jsonl.

    A collective operation on rank 0 only hangs the run: use it on all ranks or on none.
    """


@hookspec
def pealm_checkpoint_saved(run: "Run", path: Path) -> None:
    """A checkpoint folder is complete on disk."""


@hookspec
def pealm_run_end(run: "Run", status: str) -> None:
    """The run ends; `status` is "done", "interrupted" or "failed"."""
