"""`pealm prepare`: download or build what a dataset or evaluator needs, once."""

from typing import Any

import click

from pealm_core import DatasetSpec, Entry, EvaluatorSpec, PluginHost, UserError


@click.command(context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})
@click.argument("name")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def prepare(name: str, options: tuple[str, ...]) -> None:
    """Download or build what the dataset or evaluation NAME needs, once.

    `pealm prepare NAME --help` lists its options.
    """
    host, bare = PluginHost.installed(), name.rpartition("/")[2]
    evaluator = bare not in host.entries(DatasetSpec) and bare in host.entries(EvaluatorSpec)
    entry: Entry[Any] = host.find(EvaluatorSpec if evaluator else DatasetSpec, name)
    try:
        config = entry.config and entry.config()
    except TypeError:
        raise UserError(f"{entry.spec.kind} {name!r} has nothing to prepare: it needs settings") from None
    component = entry.make(config)
    command = getattr(component, "prepare_command", None)
    if isinstance(command, click.Command):
        with command.make_context(name, list(options), parent=click.get_current_context()) as context:
            command.invoke(context)
        return
    if not callable(getattr(component, "prepare", None)):
        raise UserError(f"{entry.spec.kind} {name!r} needs no preparation")
    if options:
        raise UserError(f"pealm prepare {name} takes no options, not {options[0]}")
    component.prepare()
    click.echo(f"{name} is ready")
