"""What pealm-evals provides: `pealm compare`, and `--track` as hooks of a run; `pealm eval` is known to the core."""

from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pealm_core import CommandSpec, ObserverSpec, hookimpl

if TYPE_CHECKING:
    from pealm_core import Trainer

TRACKERS: "MutableMapping[Trainer, Any]" = WeakKeyDictionary()


@hookimpl
def pealm_commands() -> Iterator[CommandSpec]:
    """Register `pealm compare`."""
    yield CommandSpec(
        name="compare",
        summary="Compare models on the same rows, with confidence intervals.",
        command="pealm_evals.compare:compare",
    )


@hookimpl
def pealm_observers() -> Iterator[ObserverSpec]:
    """Register `--track`."""
    yield ObserverSpec(
        name="track",
        summary="Run evaluations during training",
        config="pealm_evals.config:TrackConfig",
        options={"track": "on", "track-every": "every", "track-limit": "limit"},
    )


@hookimpl
def pealm_run_start(trainer: "Trainer") -> None:
    """Make the evaluations of a run. Raises UserError for one that can't be run."""
    options = trainer.options("track")
    if options.on:
        from pealm_evals.track import Tracker

        TRACKERS[trainer] = Tracker(trainer, options)


@hookimpl
def pealm_step_end(trainer: "Trainer") -> None:
    """Evaluate the model, on all ranks, if it is time."""
    if trainer in TRACKERS:
        TRACKERS[trainer].evaluate_if_due()


@hookimpl
def pealm_metrics(trainer: "Trainer", step: int, metrics: MutableMapping[str, Any]) -> None:
    """Add the results to the metrics of their step."""
    if trainer in TRACKERS:
        metrics.update(TRACKERS[trainer].results.pop(step, {}))


@hookimpl
def pealm_run_end(trainer: "Trainer") -> None:
    """Forget the evaluations."""
    if trainer in TRACKERS:
        del TRACKERS[trainer]
