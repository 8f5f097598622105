"""Processes that make a corpus's files."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

from benchmark import cores


@contextmanager
def processes(workers: int | None) -> Iterator[Executor | None]:
    """``workers`` processes, by default one a core, started when they are first used; ``None``: this process
    suffices."""
    count = workers or cores.available()
    if count == 1:
        yield None
        return
    pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
