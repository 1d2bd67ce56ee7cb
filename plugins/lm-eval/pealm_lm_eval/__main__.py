"""The harness's own command line with the model `pealm`: `python -m pealm_lm_eval --model pealm ...`."""

import sys

from lm_eval.__main__ import cli_evaluate

import pealm_lm_eval.model  # noqa: F401  # registers it
from pealm_core import PealmError, processes


def main() -> None:
    """Run the harness's command; the processes of torchrun share its requests."""
    try:
        with processes("auto"):
            cli_evaluate()
    except PealmError as error:
        print(f"pealm: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
