"""What pealm-estimate provides."""

from typing import Any

from pealm_core import CommandSpec, hookimpl


@hookimpl
def pealm_commands() -> CommandSpec:
    """Register the command `estimate`."""
    return CommandSpec(
        name="estimate",
        summary="Estimate a run's memory, speed, time and cost.",
        command="pealm_estimate.command:estimate",
    )


@hookimpl
def pealm_run_start(trainer: Any) -> None:
    """Count the run's operations, where the GPU's peak is known."""
    if trainer.world.size and next(trainer.model.parameters()).device.type == "cuda":
        from pealm_estimate.mfu import start

        start(trainer)


@hookimpl
def pealm_metrics(trainer: Any, metrics: Any) -> None:
    """Add `mfu` to the metrics of a step."""
    if next(trainer.model.parameters()).device.type == "cuda":
        from pealm_estimate.mfu import add

        add(trainer, metrics)
