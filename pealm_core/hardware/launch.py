"""This process's place among the processes of a run, and its CPUs. Without torch until threads are limited."""

import math
import os
from contextlib import suppress
from pathlib import Path

from pealm_core.contract.errors import UserError

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def launched() -> tuple[int, int, int]:
    """Return (rank, number of processes, rank on this machine); (0, 1, 0) without a launcher. Raises UserError."""
    values = [os.environ.get(name, "") for name in NAMES]
    if not os.environ.get("WORLD_SIZE"):
        return 0, 1, 0
    try:
        rank, size, local_rank, local_size, port = (int(value or 0) for value in values[:4] + values[5:])
        found = size == 1 or (values[0] and values[4] and 0 < port < 2**16)  # the others can be
        if found and 0 <= rank < size and local_rank >= 0 and local_size >= 0:
            return rank, size, local_rank
    except ValueError:  # not a number
        pass
    shown = " ".join(f"{name}={value}" for name, value in zip(NAMES, values, strict=True))
    raise UserError(f"{shown}: no valid place among the processes; start them by torchrun")


def limit_threads() -> None:
    """Lower torch's threads to this process's part of the available CPUs, unless OMP_NUM_THREADS is set."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:  # torchrun sets it for several processes on one machine
        processes = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
        torch.set_num_threads(min(torch.get_num_threads(), max(1, available_cpus() // processes)))


def available_cpus(root: str = "/") -> int:
    """Return the number of CPUs in this process's affinity, or fewer by the quota of a Linux control group."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError):
        own = Path(root, "proc/self/cgroup").read_text().rpartition("0::/")[2].strip()
        group = Path(root, "sys/fs/cgroup", own)
        for outer in (group, *group.parents):
            with suppress(OSError, ValueError, ZeroDivisionError):  # no such file, or no limit: "max"
                quota, period = map(int, (outer / "cpu.max").read_text().split())
                cpus = min(cpus, math.ceil(quota / period))
    return max(1, cpus)
