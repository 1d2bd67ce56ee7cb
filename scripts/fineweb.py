"""Download FineWeb-Edu and write it as GPT-2 token shards: `python scripts/fineweb.py --help`."""

import sys

from pealm_core.cli import main

if __name__ == "__main__":  # worker processes import this file as well
    main(["prepare", "fineweb", *sys.argv[1:]])
