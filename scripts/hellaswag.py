"""Download HellaSwag's validation file for `pealm eval`: `python scripts/hellaswag.py --help`."""

from pealm_hellaswag.download import main

if __name__ == "__main__":
    main()
