"""What pealm-data provides."""

from collections.abc import Iterator

from pealm_core import CommandSpec, hookimpl


@hookimpl
def pealm_commands() -> Iterator[CommandSpec]:
    """Register the commands `tokenize`, `tokens` and `data`."""
    yield CommandSpec(
        name="tokenize",
        summary="Turn any input into token shards, in parallel.",
        command="pealm_data.command:tokenize",
    )
    yield CommandSpec(
        name="tokens",
        summary="Show the tokens of a text.",
        command="pealm_data.tokens:tokens",
    )
    yield CommandSpec(
        name="data",
        summary="Show documents, lengths and duplicates of an input.",
        command="pealm_data.look:data",
    )
