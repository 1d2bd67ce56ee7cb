"""What pealm-wordcount provides."""

from collections.abc import Iterator

from pealm_core import CommandSpec, EvaluatorSpec, hookimpl


@hookimpl
def pealm_commands() -> Iterator[CommandSpec]:
    """The command `pealm wordcount`."""
    yield CommandSpec(
        name="wordcount",
        summary="Count the words of text files.",
        command="pealm_wordcount.command:command",
    )


@hookimpl
def pealm_evaluators() -> Iterator[EvaluatorSpec]:
    """The evaluation `wordcount`."""
    yield EvaluatorSpec(
        name="wordcount",
        summary="How many of the words that a model writes does a text have?",
        config="pealm_wordcount.config:WordcountConfig",
        factory="pealm_wordcount.evaluator:Wordcount",
    )
