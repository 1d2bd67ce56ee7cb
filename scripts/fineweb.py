"""Download FineWeb-Edu and write it as GPT-2 token shards: `python scripts/fineweb.py --help`."""

from pealm_fineweb.command import main

if __name__ == "__main__":  # worker processes import this file, too
    main()
