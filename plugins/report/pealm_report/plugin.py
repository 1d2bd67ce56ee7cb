"""What pealm-report provides."""

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from pealm_core import CommandSpec, hookimpl

if TYPE_CHECKING:
    from pealm_core import Trainer


@hookimpl
def pealm_commands() -> Iterator[CommandSpec]:
    """The commands `report` and `runs`."""
    yield CommandSpec(
        name="report",
        summary="Write an HTML report on runs: curves, settings, samples, evaluations.",
        command="pealm_report.commands:report",
    )
    yield CommandSpec(name="runs", summary="List runs.", command="pealm_report.commands:runs")


@hookimpl
def pealm_run_start(trainer: "Trainer") -> None:
    """Write machine.json: on which machine, and from which git commit. A disk that refuses it stops no run."""
    if trainer.run.rank == 0:
        from pealm_report.machine import write

        with suppress(OSError):
            write(trainer.run.dir)


@hookimpl
def pealm_run_end(trainer: "Trainer") -> None:
    """Draw loss.png, however the run ended. No picture is worth a run: what goes wrong here is one line."""
    run = trainer.run
    if run.rank != 0:
        return
    try:
        from pealm_report.picture import draw

        draw(run.dir)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        click.echo(f"pealm: {run.dir / 'loss.png'} could not be drawn: {reason}", err=True)
