"""machine.json in a run's folder: on which machine it was trained, from which git commit of the working folder."""

import json
import os
import platform
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

FILE = "machine.json"
LARGEST = 2**16  # bytes of it


def write(folder: Path) -> None:
    """Write the file, at once or not at all. Raises OSError."""
    facts = {"git": commit(Path.cwd()), "cpu": cpu(), "cpus": os.cpu_count(), "memory": memory()}
    aside = folder / f".{FILE}.{os.urandom(6).hex()}.tmp"
    try:
        aside.write_text(json.dumps(facts | {"system": platform.platform()}, indent=1) + "\n", encoding="utf-8")
        aside.replace(folder / FILE)
    finally:
        aside.unlink(missing_ok=True)


def read(folder: Path) -> dict[str, Any]:
    """Return what the file says; {} if there is none, or it can't be read."""
    path = folder / FILE
    with suppress(OSError, ValueError, RecursionError):
        if path.is_file() and path.stat().st_size < LARGEST:
            facts = json.loads(path.read_text(encoding="utf-8"))
            return facts if isinstance(facts, dict) else {}
    return {}


def commit(folder: Path) -> str | None:
    """Return the commit of a git checkout, with `-dirty` if files of it have changed; None: it is not one."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL)
        return done.stdout.strip() or None
    return None


def cpu() -> str:
    """Return the processor's name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def memory() -> int | None:
    """Return the machine's memory in bytes; None: not known."""
    with suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def described(facts: dict[str, Any]) -> str:
    """Return a machine in one line.

    >>> described({"cpu": "AMD EPYC", "cpus": 2, "memory": 8 * 2**30, "system": "Linux"})
    'AMD EPYC, 2 CPUs, 8 GiB, Linux'
    """
    cpus, memory = facts.get("cpus"), facts.get("memory")
    parts = [facts.get("cpu"), f"{cpus} CPUs" if isinstance(cpus, int) else None]
    parts += [
        f"{memory / 2**30:.0f} GiB" if isinstance(memory, int) and memory < 2**60 else None,
        facts.get("system"),
    ]
    return ", ".join(str(part) for part in parts if part) or "–"
