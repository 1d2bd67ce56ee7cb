"""What pealm-estimate provides."""

import sys
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
    if next(trainer.model.parameters()).device.type == "cuda":
        from pealm_estimate.mfu import start

        start(trainer)


@hookimpl
def pealm_metrics(trainer: Any, metrics: Any) -> None:
    """Add `mfu` to the metrics of a step."""
    if module := sys.modules.get("pealm_estimate.mfu"):  # imported at the start where the device has a peak
        module.add(trainer, metrics)
