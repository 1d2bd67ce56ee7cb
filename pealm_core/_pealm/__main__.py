"""`python -m pealm` is `pealm`."""

from pealm_core.cli import main

main()
