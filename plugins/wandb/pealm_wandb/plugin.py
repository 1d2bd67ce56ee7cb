"""Logs a run to Weights & Biases, if `--observer.wandb.project` is set."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pealm_core import ObserverSpec, hookimpl

if TYPE_CHECKING:
    from pealm_core import Trainer

loggers: "WeakKeyDictionary[Trainer, Any]" = WeakKeyDictionary()  # the logger of a run


@hookimpl
def pealm_observers() -> Iterator[ObserverSpec]:
    """Register the settings `--observer.wandb.KEY`."""
    yield ObserverSpec(
        name="wandb",
        summary="Curves, samples, settings and evaluations for Weights & Biases",
        config="pealm_wandb.config:WandbConfig",
    )


@hookimpl
def pealm_run_start(trainer: "Trainer") -> None:
    """Start to log, on rank 0."""
    options = trainer.options("wandb")
    if trainer.world.main and options.project is not None:
        from pealm_wandb.logger import Logger

        loggers[trainer] = Logger(trainer.run, options)


@hookimpl
def pealm_metrics(trainer: "Trainer", step: int, metrics: Mapping[str, Any]) -> None:
    """Add a point to each curve."""
    if trainer in loggers:
        loggers[trainer].metrics(step, metrics)


@hookimpl
def pealm_run_end(trainer: "Trainer", status: str) -> None:
    """Log what is left: the last sample, evaluations, the status."""
    if trainer in loggers:
        loggers.pop(trainer).close(status)
