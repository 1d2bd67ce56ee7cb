"""`pealm new-plugin`: write a new plugin to start from. The work is done by the distribution pealm-testing."""

from importlib import import_module
from typing import Any

import click

from pealm_core.contract.errors import UserError
from pealm_core.contract.specs import KINDS


@click.command("new-plugin", short_help="Write a new plugin to start from.")
@click.argument("kind", type=click.Choice(list(KINDS)))
@click.argument("name")
def new_plugin(kind: str, name: str) -> None:
    """Write a small, complete plugin of a KIND to the folder pealm-NAME, with tests.

    \b
    pealm new-plugin model mine
    cd pealm-mine
    pip install -e '.[test]'
    pytest
    """
    testing("new_plugin").write(kind, name)


def testing(module: str) -> Any:
    """Import a module of pealm-testing. Raises UserError if it is not installed."""
    try:
        return import_module(f"pealm_testing.{module}")
    except ModuleNotFoundError as error:
        if error.name != "pealm_testing":
            raise
        raise UserError("this command needs pealm-testing; try: pip install pealm-testing") from error
