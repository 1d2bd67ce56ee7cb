"""Memory that is free goes back to the system (glibc): the caches of texts have ever other sizes, and leave holes."""

import ctypes
import sys

M_MMAP_THRESHOLD, LARGE = -3, 2**20  # from glibc's malloc.h; bytes


def return_large_blocks() -> None:
    """From now on, return a large block when it is freed; by default glibc keeps those that come after the first."""
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "mallopt", lambda name, value: None)(M_MMAP_THRESHOLD, LARGE)


def return_free() -> None:
    """Return what is free now, which takes some milliseconds."""
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", lambda keep: None)(0)
