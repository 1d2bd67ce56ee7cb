"""What pealm-data provides."""

from collections.abc import Iterator

from pealm_core import CommandSpec, hookimpl


@hookimpl
def pealm_commands() -> Iterator[CommandSpec]:
    """Register the command `tokenize`."""
    yield CommandSpec(
        name="tokenize",
        summary="Turn any input into token shards, in parallel.",
        command="pealm_data.command:tokenize",
    )
