"""Where pealm keeps things, and the mark by which it knows its own folders again."""

import os
from pathlib import Path

MARK = ".pealm"


def cache_root() -> Path:
    """Where pealm keeps what it can make again: PEALM_CACHE, else the user's cache folder."""
    base = os.environ.get("PEALM_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pealm"


def mark(folder: Path) -> None:
    """Say that pealm made this folder: `pealm clean` looks into no other one. Raises OSError."""
    if not (folder / MARK).exists():
        (folder / MARK).write_text("pealm made this folder; `pealm clean` may remove what is in it\n")
