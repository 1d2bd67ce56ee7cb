"""The harness's own command line with the model `pealm`: `python -m pealm_lm_eval --model pealm ...`."""

import argparse
import sys

from lm_eval.__main__ import cli_evaluate

import pealm_lm_eval.model  # noqa: F401  # registers it
from pealm_core import PealmError, processes


def main() -> None:
    """Run the harness's command; the processes of torchrun share its requests."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--device")
    device = "cpu" if parser.parse_known_args()[0].device == "cpu" else "auto"
    try:
        with processes(device) as (world, _), world.together():
            cli_evaluate()
    except PealmError as error:
        if type(error).__name__ != "ElsewhereError":  # another process says what is wrong
            print(f"pealm: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
