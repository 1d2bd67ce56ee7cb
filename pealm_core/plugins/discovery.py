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

GROUP = "pealm"


@dataclass
class Plugin:
    """An entry point: where it comes from, whether it could be loaded, what it provides.

    status: "ok", "failed", "incompatible" (needs another pealm-core) or "disabled"; `reason` explains the last three.
    """

    name: str  # of the entry point
    module: str
    dist: str
    version: str
    requires: str = ""  # the versions of pealm-core that it works with: ">=0.1,<0.2"
    location: str = ""
    status: str = "ok"
    reason: str = ""
    error: BaseException | None = None
    load_ms: float = 0.0
    records: list[Spec] = field(default_factory=list)

    @property
    def traceback(self) -> str:
        """The traceback of a failed load, else an empty string."""
        import traceback

        return "".join(traceback.format_exception(self.error)) if self.error else ""


def discover() -> list[Plugin]:
    """Return every installed plugin, sorted by distribution, then name. The first on `sys.path` wins.

    A distribution whose files can't be read is one plugin with the status "failed".
    """
    plugins: dict[str, list[Plugin]] = {}
    for folder in sys.path:
        files: list[Path] = []
        with suppress(OSError):  # Python's import ignores a folder that it can't read as well
            files = sorted(Path(folder or ".").glob("*.dist-info/entry_points.txt"))
        for file in files:
            name, _, version = file.parent.stem.rpartition("-")
            dist = re.sub(r"[-_.]+", "-", name).lower()
            if dist not in plugins:
                try:
                    plugins[dist] = list(_read(file, dist, version))
                except (OSError, ValueError) as error:
                    reason = f"{file.parent.name} is broken ({error}); reinstall {dist}"
                    name = dist.removeprefix("pealm-")
                    plugins[dist] = [Plugin(name, "", dist, version, "", folder, "failed", reason, error)]
    return sorted((p for group in plugins.values() for p in group), key=lambda p: (p.dist, p.name))


def _read(file: Path, dist: str, version: str) -> list[Plugin]:
    """Return the plugins of an `entry_points.txt`. Raises OSError or ValueError."""
    raw = file.read_bytes()
    if f"[{GROUP}]".encode() not in raw:
        return []  # not ours to judge, whatever else is in it
    metadata = file.with_name("METADATA").read_text(encoding="utf-8", errors="replace")
    needs = re.search(r"^Requires-Dist: *pealm[-_.]core *\(?([^;()\n]*)\)?$", metadata, re.MULTILINE | re.IGNORECASE)
    plugins = []
    for line in raw.decode().partition(f"[{GROUP}]")[2].partition("\n[")[0].splitlines():
        name, _, module = map(str.strip, line.partition("="))
        if not name or name[0] in "#;":
            continue
        if not module:
            raise ValueError(f"{line.strip()!r} is not NAME = MODULE")
        requires, location = needs[1].strip() if needs else "", str(file.parents[1])
        plugins.append(Plugin(name, module, dist, version, requires, location))
    return plugins
