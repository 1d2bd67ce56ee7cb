"""Where pealm keeps things in the user's home."""

import os
from pathlib import Path


def cache_root() -> Path:
    """Where pealm keeps what it can make again: PEALM_CACHE, else the user's cache folder."""
    base = os.environ.get("PEALM_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pealm"
