"""The validation file: downloaded once, whole or not at all; `python scripts/hellaswag.py` does the same."""

import hashlib
import http.client
import sys
import urllib.request
from pathlib import Path
from typing import NoReturn

import click

from pealm_core import PealmError, UserError, cache_root

URL = "https://raw.githubusercontent.com/rowanz/hellaswag/master/data/hellaswag_val.jsonl"
SHA256 = "0aa3b88843990f3f10a97b9575c94d7b71fb2205240ba04ae4884d9e9c992588"
TIMEOUT = 30  # seconds


def path() -> Path:
    """Where the file is kept."""
    return cache_root() / "hellaswag_val.jsonl"


def download() -> None:
    """Fetch the file unless it is there, and check it. Raises UserError."""
    if path().exists():
        if hashlib.sha256(path().read_bytes()).hexdigest() != SHA256:
            raise UserError(f"{path()} is not HellaSwag's validation file; remove it, and run the same again")
        return
    try:
        with urllib.request.urlopen(URL, timeout=TIMEOUT) as reply:
            data = reply.read()
        if hashlib.sha256(data).hexdigest() != SHA256:
            raise UserError(f"{URL} gave {len(data):,} bytes that are not HellaSwag's validation file; try again")
        aside = path().with_name(path().name + ".part")
        aside.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(data)
        aside.replace(path())
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        reason = getattr(error, "reason", error)
        raise UserError(
            f"HellaSwag can't be downloaded ({reason}); give a local copy: pealm eval ... --eval.file FILE"
        ) from error


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Download HellaSwag's validation file (10,042 rows, 12 MB) into the cache that `pealm eval` reads."""
    download()
    click.echo(f"{path()} is ready")


def main() -> NoReturn:
    """Run the command as a program of its own."""
    try:
        command.main(prog_name=Path(sys.argv[0]).name, standalone_mode=False)
    except PealmError as error:
        click.echo(f"hellaswag: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("hellaswag: interrupted", err=True)
        sys.exit(130)
    sys.exit(0)
