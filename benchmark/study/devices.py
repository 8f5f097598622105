"""Where the cells of a study run: on GPUs, a few at a time on each, or on the cores of the CPU."""

from __future__ import annotations

import logging
import os
import subprocess
from typing import NamedTuple

from benchmark.cores import available

log = logging.getLogger("wavbench")

_NEEDED = 3e9
"""Bytes of main memory that a process on the CPU is taken to need."""
_LEAST = 2000
"""MiB of free memory below which a GPU is taken to be in use by others."""
_QUERY = ["nvidia-smi", "--query-gpu=index,uuid,name,memory.free", "--format=csv,noheader,nounits"]


class Gpu(NamedTuple):
    """A GPU as ``nvidia-smi`` lists it."""

    number: str
    uuid: str
    name: str
    free: int
    """MiB."""


def visible_gpus() -> list[Gpu]:
    """The GPUs that this process may use (``CUDA_VISIBLE_DEVICES``). Asks the driver; torch is not initialised, since
    that would take memory on each of them."""
    try:
        done = subprocess.run(_QUERY, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    gpus = []
    for line in done.stdout.splitlines():
        number, uuid, name, free = (field.strip() for field in line.split(",", 3))
        gpus.append(Gpu(number, uuid, name, int(free) if free.isdigit() else _LEAST))
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return gpus
    names = [name.strip() for name in chosen.split(",")]
    found = [next((gpu for gpu in gpus if name in (gpu.number, gpu.uuid)), None) for name in names]
    return [gpu for gpu in found if gpu is not None]


def slots(jobs: int | None, per_gpu: int, *, cpu: bool = False) -> list[str | None]:
    """Where each of the processes of a study runs.

    Args:
        jobs: processes; ``None``: ``per_gpu`` on each free GPU, without GPUs as cores and memory allow.
        per_gpu: at most so many processes on a GPU at a time.
        cpu: leave GPUs alone.

    Returns:
        for each process the value of ``CUDA_VISIBLE_DEVICES``; ``None``: as it is.
    """
    gpus = [] if cpu else visible_gpus()
    free = [gpu for gpu in gpus if gpu.free >= _LEAST]
    for gpu in gpus:
        if gpu not in free:
            log.warning("GPU %s (%s) has %d MiB free and is left to others", gpu.number, gpu.name, gpu.free)
    if not free:
        return [None] * (jobs or _cpu_jobs())
    places: list[str | None] = [gpu.uuid for _ in range(per_gpu) for gpu in free]  # one on each, then a second one
    return places if jobs is None else places[:jobs]


def _cpu_jobs() -> int:
    """Processes for which there are cores and memory."""
    try:
        available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows, and systems that do not tell
        available = 0
    return max(1, min(cores(), int(available / _NEEDED)))


def cores() -> int:
    """Cores that this process may use: of a Slurm job, or by ``taskset``, those that it was given."""
    given = os.environ.get("SLURM_CPUS_ON_NODE", "")
    return int(given) if given.isdigit() and int(given) else available()
