"""The harness's own command line with the model `pealm`: `python -m pealm_lm_eval --model pealm ...`."""

from lm_eval.__main__ import cli_evaluate

import pealm_lm_eval.model  # noqa: F401  # registers it

if __name__ == "__main__":
    cli_evaluate()
