"""What the processor is, and the memory that a process keeps."""

import ctypes
import sys
from functools import cache
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h


@cache
def cpuinfo() -> str:
    """Return Linux's description of the CPU; "" on other systems."""
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def keep_memory() -> None:
    """Let glibc keep what this process frees; else each large result gets new pages from the system."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda name, value: None)  # other C libraries lack it
        mallopt(M_TRIM_THRESHOLD, 2**30)
        mallopt(M_MMAP_THRESHOLD, 2**25)  # glibc's maximum; larger blocks are still returned
