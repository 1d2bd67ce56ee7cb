"""Count the CPUs that this process may use, and set torch's threads by that."""

import math
import os
from contextlib import suppress
from pathlib import Path

import torch


def limit_threads() -> None:
    """Lower torch's threads to this process's part of the available CPUs, unless OMP_NUM_THREADS is set."""
    if "OMP_NUM_THREADS" not in os.environ:  # torchrun sets it for several processes on one machine
        processes = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
        torch.set_num_threads(min(torch.get_num_threads(), max(1, available_cpus() // processes)))


def available_cpus(root: Path = Path("/")) -> int:
    """Return the number of CPUs in this process's affinity, or fewer by the quota of a Linux control group."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError):
        own = (root / "proc/self/cgroup").read_text().rpartition("0::/")[2].strip()
        group = root / "sys/fs/cgroup" / own
        for outer in (group, *group.parents):
            with suppress(OSError, ValueError, ZeroDivisionError):  # no such file, or no limit: "max"
                quota, period = map(int, (outer / "cpu.max").read_text().split())
                cpus = min(cpus, math.ceil(quota / period))
    return max(1, cpus)
