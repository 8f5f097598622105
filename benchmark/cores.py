"""The cores of a processor."""

from __future__ import annotations

import os


def available() -> int:
    """How many this process may use, by its affinity (``taskset``, cgroups of cores) where the system has one."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
