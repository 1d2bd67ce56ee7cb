"""Discovery: the entry points of the group `pealm` in every installed distribution.

The `*.dist-info` folders on `sys.path` are read without `importlib.metadata`, which loads the email parser: every
command would take 40 percent of a bare `import click, pluggy` longer.
"""

import re
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pealm_core.contract.specs import Spec


@dataclass
class Plugin:
    """An entry point or a file: where it comes from, whether it could be loaded, what it provides.

    status: "ok", "failed" or "disabled"; `reason` explains the last two.
    """

    name: str  # of the entry point, or the file's stem
    module: str
    dist: str  # of a file: `file:NAME.py`
    version: str  # of a file: the start of its hash
    requires: str = ""  # the versions of pealm-core that it works with: ">=0.1,<0.2"
    location: str = ""
    file: Path | None = None  # of a local plugin: asked for by name, so that a failure to load is an error at once
    status: str = "ok"
    reason: str = ""
    error: BaseException | None = None
    load_ms: float = 0.0
    records: list[Spec] = field(default_factory=list)


def discover() -> list[Plugin]:
    """Return every installed plugin, sorted by distribution, then name. The first on `sys.path` wins."""
    plugins: dict[str, list[Plugin]] = {}
    for folder in sys.path:
        files: list[Path] = []
        with suppress(OSError):  # Python's import ignores a folder that it can't read as well
            files = sorted(Path(folder or ".").glob("*.dist-info/entry_points.txt"))
        for file in files:
            name, _, version = file.parent.stem.rpartition("-")
            dist = re.sub(r"[-_.]+", "-", name).lower()
            if dist not in plugins:
                plugins[dist] = _read(file, dist, version)
    return sorted((p for group in plugins.values() for p in group), key=lambda p: (p.dist, p.name))


def _read(file: Path, dist: str, version: str) -> list[Plugin]:
    """Return the plugins of an `entry_points.txt`; what is wrong in it fails when it is imported."""
    lines = _text(file).partition("[pealm]")[2].partition("\n[")[0].splitlines()
    pairs = [line.partition("=") for line in lines if line.strip() and line.lstrip()[0] not in "#;"]
    metadata = _text(file.with_name("METADATA")) if pairs else ""
    needs = re.search(r"^Requires-Dist: *pealm[-_.]core *\(?([^;()\n]*)\)?$", metadata, re.MULTILINE | re.IGNORECASE)
    requires, location = needs[1].strip() if needs else "", str(file.parents[1])
    return [Plugin(name.strip(), module.strip(), dist, version, requires, location) for name, _, module in pairs]


def _text(file: Path) -> str:
    try:
        if not file.is_file():
            return ""
        with file.open("rb") as stream:
            return stream.read(2**20).decode(errors="replace")
    except OSError:  # nobody can import what it describes either
        return ""
