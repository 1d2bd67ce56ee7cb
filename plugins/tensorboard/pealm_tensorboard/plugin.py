"""Writes a run for TensorBoard, if `--observer.tensorboard.every` is set."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pealm_core import ObserverSpec, hookimpl

if TYPE_CHECKING:
    from pealm_core import Trainer

writers: "WeakKeyDictionary[Trainer, Any]" = WeakKeyDictionary()  # the writer of a run


@hookimpl
def pealm_observers() -> Iterator[ObserverSpec]:
    """Register the settings `--observer.tensorboard.KEY`."""
    yield ObserverSpec(
        name="tensorboard",
        summary="Curves, samples, settings and evaluations for TensorBoard",
        config="pealm_tensorboard.config:TensorBoardConfig",
    )


@hookimpl
def pealm_run_start(trainer: "Trainer") -> None:
    """Open the files, on rank 0."""
    options = trainer.options("tensorboard")
    if trainer.world.main and options.every is not None:
        from pealm_tensorboard.writer import Writer

        writers[trainer] = Writer(trainer.run, options, trainer.step)


@hookimpl
def pealm_metrics(trainer: "Trainer", step: int, metrics: Mapping[str, Any]) -> None:
    """Add a point to each curve."""
    if trainer in writers:
        writers[trainer].metrics(step, metrics)


@hookimpl
def pealm_run_end(trainer: "Trainer", status: str) -> None:
    """Write what is left: the last sample, the settings beside the result, evaluations."""
    if trainer in writers:
        writers.pop(trainer).close()
