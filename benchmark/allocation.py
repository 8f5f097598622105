"""How the C library gives memory back to the system."""

from __future__ import annotations

import ctypes
import os
import sys

KEPT = 2**30
"""Bytes of freed memory at the end of the heap that stay with the process."""
_MAPPED = (64 * 2**20, 32 * 2**20)
"""Bytes from which on an allocation is a mapping of its own; older versions of glibc take the second only."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed() -> bool:
    """Let freed tensors be the memory of the next ones, up to 1 GiB; returns whether the C library does.

    glibc gives each back to the system, and the next one's pages are cleared and mapped again: the passes and updates
    of wav2vec2_tiny take 9 % longer so, of Whisper-base 2 %. Nothing is changed where the environment says how memory
    is kept (``MALLOC_TRIM_THRESHOLD_``, ``GLIBC_TUNABLES`` …), nor by other C libraries.
    """
    if sys.platform != "linux" or any(name == "GLIBC_TUNABLES" or name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None or not any(mallopt(_MMAP_THRESHOLD, size) == 1 for size in _MAPPED):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, KEPT) == 1)
