"""Count the CPUs that this process may use, and set torch's threads by that."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch


def limit_threads() -> None:
    """Lower torch's threads to this process's part of the available CPUs, unless OMP_NUM_THREADS is set."""
    if "OMP_NUM_THREADS" not in os.environ:  # torchrun sets it for several processes on one machine
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        threads = max(1, available_cpus() // processes)
        if threads < torch.get_num_threads():
            torch.set_num_threads(threads)


def available_cpus(root: Path = Path("/")) -> int:
    """Return the number of CPUs in this process's affinity, or fewer by the quota of a Linux control group."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *map(math.ceil, _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the CPUs that this process's control groups, of version 1 or 2, and the groups around them allow."""
    groups = root / "sys" / "fs" / "cgroup"
    for line in _read(root / "proc" / "self" / "cgroup").splitlines():
        controllers, path = line.split(":", 2)[1:]  # version 2 has no controllers here
        if controllers and "cpu" not in controllers.split(","):
            continue
        names = path.strip("/").split("/")
        for depth in range(len(names) + 1):
            group = (groups / "cpu" if controllers else groups).joinpath(*names[:depth])
            if controllers:
                quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
            else:
                quota, _, period = _read(group / "cpu.max").partition(" ")
            with suppress(ValueError, ZeroDivisionError):  # no such file, or no limit: "max"
                if int(quota) > 0:  # -1: no limit
                    yield int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
