"""What pealm-chat provides."""

from collections.abc import Iterator

from pealm_core import CommandSpec, hookimpl


@hookimpl
def pealm_commands() -> Iterator[CommandSpec]:
    """The command `chat`."""
    yield CommandSpec(name="chat", summary="Chat with a model.", command="pealm_chat.command:chat")
