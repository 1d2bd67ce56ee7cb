"""A plugin is a module behind an entry point of the group `pealm`, with functions marked `@hookimpl`.

Registration hooks take no arguments. Each record of `specs` has one, such as `pealm_models` for ModelSpec: it returns
one record or a list, or yields records. The hooks of a run, below, are called on every rank; docs/contract.md says
when, in which order, and what happens if one raises.
"""

from collections.abc import MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from torch import nn

    from pealm_core.contract.training_protocols import Trainer

hookspec = pluggy.HookspecMarker("pealm")
hookimpl = pluggy.HookimplMarker("pealm")


@hookspec
def pealm_run_start(trainer: "Trainer") -> None:
    """A training run starts or resumes. Called before the first validation."""


@hookspec
def pealm_step_end(trainer: "Trainer") -> None:
    """An optimizer step is done. Its numbers come later, with `pealm_metrics`: nothing waits for a GPU here."""


@hookspec
def pealm_metrics(trainer: "Trainer", step: int, metrics: MutableMapping[str, Any]) -> None:
    """The metrics of a step are known: its line of metrics.jsonl, to which numbers may be added; on a GPU, late."""


@hookspec
def pealm_validation_end(trainer: "Trainer", loss: float) -> None:
    """A validation is done, also the one before the first step. loss: mean, in nats per token."""


@hookspec
def pealm_eval_model(trainer: "Trainer") -> "nn.Module | None":
    """Return the module to validate, to sample from and to keep in `best/`, or None; one plugin at most does."""


@hookspec
def pealm_checkpoint_saved(trainer: "Trainer", path: Path) -> None:
    """A checkpoint folder is complete on disk."""


@hookspec
def pealm_run_end(trainer: "Trainer", status: str) -> None:
    """The run ends; `status` is "done", "interrupted" or "failed"."""
