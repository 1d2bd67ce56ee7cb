"""`pealm new-plugin`: write a new plugin to start from. The work is done by the distribution pealm-testing."""

from importlib import import_module
from typing import Any

import click

from pealm_core.contract.errors import UserError
from pealm_core.contract.specs import KINDS


@click.command("new-plugin", short_help="Write a new plugin to start from.")
@click.argument("kind", type=click.Choice([*KINDS, "observer"]))
@click.argument("name")
@click.option("--file", "single", is_flag=True, help="Write one file for `pealm --plugin`, not a package.")
def new_plugin(kind: str, name: str, single: bool) -> None:
    """Write a small, complete plugin of a KIND to the folder pealm-NAME, with tests.

    \b
    pealm new-plugin model mine
    cd pealm-mine
    pip install -e '.[test]'
    pytest

    \b
    pealm new-plugin model mine --file
    pealm --plugin mine.py train mine --input.text book.txt
    """
    testing("new_plugin").write(kind, name, single=single)


def testing(module: str) -> Any:
    """Import a module of pealm-testing. Raises UserError if it is not installed."""
    try:
        return import_module(f"pealm_testing.{module}")
    except ModuleNotFoundError as error:
        if error.name != "pealm_testing":
            raise
        raise UserError("this command needs pealm-testing; try: pip install pealm-testing") from error
