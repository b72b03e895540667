"""The machine that a process runs on: cores, memory, environment. Imports almost nothing."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def count_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_switched_on(variable: str) -> bool:
    """Whether an environment variable is set to anything but 0."""
    return os.environ.get(variable, "") not in ("", "0")


def keep_freed_memory() -> None:
    """Have this process keep the memory that tensors free for the next ones, instead of returning
    it to the system, which then clears it page by page: a tenth of a PixelCNN's step. For glibc;
    elsewhere nothing changes."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes  # for nothing else

    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, 2**30)
        mallopt(M_MMAP_THRESHOLD, 2**25)  # the most it takes
