"""What pealm-serve provides."""

from collections.abc import Iterator

from pealm_core import CommandSpec, hookimpl


@hookimpl
def pealm_commands() -> Iterator[CommandSpec]:
    """The command `serve`."""
    yield CommandSpec(
        name="serve",
        summary="Serve models through OpenAI's protocol, and a web page.",
        command="pealm_serve.command:serve",
    )
