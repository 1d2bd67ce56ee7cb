"""What pealm-sweep provides."""

from collections.abc import Iterator

from pealm_core import CommandSpec, hookimpl


@hookimpl
def pealm_commands() -> Iterator[CommandSpec]:
    """Register the command `sweep`."""
    yield CommandSpec(
        name="sweep",
        summary="Search hyperparameters with many runs.",
        command="pealm_sweep.command:sweep",
    )
