"""Where pealm keeps its files, and the file that marks a folder as made by pealm."""

import os
from pathlib import Path

MARK = ".pealm"


def cache_root() -> Path:
    """Return the folder of files that can be recreated: PEALM_CACHE, else in the user's cache folder."""
    base = os.environ.get("PEALM_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pealm"


def mark(folder: Path) -> None:
    """Mark a folder as made by pealm: `pealm clean` removes nothing elsewhere. Raises OSError."""
    if not (folder / MARK).exists():
        (folder / MARK).write_text("pealm made this folder; `pealm clean` may remove what is in it\n")
