"""Processes that run together, as torchrun and ``accelerate launch`` start them: joining them, agreeing, leaving."""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from benchmark.engine.stopping import Interrupted, StopRequest
from benchmark.engine.watch import Watch
from benchmark.errors import BenchmarkError

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""For a collective operation: the first process may score for hours. That a process has ended is noticed otherwise."""
VERDICT = 5.0
"""Seconds in which it turns out that an operation failed because another process has ended."""


class SharedError(BenchmarkError):
    """An error that all processes have raised."""


class NotFinite(SharedError):
    """A loss or a gradient is infinite or NaN."""


class World:
    """The processes of a run, seen from one of them; it may be alone.

    Args:
        rank: of this process, from 0.
        size: how many there are.
        local_rank: among those of this machine.
        watch: notices where one of them ends.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, watch: Watch | None = None) -> None:
        self.rank, self.size, self.local_rank, self.watch = rank, size, local_rank, watch

    @property
    def main(self) -> bool:
        """Whether this process locks, logs and writes."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in all of them. Small ones: they are pickled."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def collect(self, value: T) -> list[T]:
        """The values of all processes, in the first one; nothing in the others."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.main else None
        dist.gather_object(value, values, dst=0)
        return values or []

    def same(self, value: T) -> T:
        """The first process's value."""
        if self.size == 1:
            return value
        values = [value if self.main else None]
        dist.broadcast_object_list(values, src=0)
        return values[0]  # type: ignore[return-value]

    def any(self, flag: bool) -> bool:
        """Whether it is set in any process."""
        return any(self.gather(flag))

    def exchange(self, function: Callable[[], T]) -> list[T]:
        """Call a function; returns the values of all processes. A :class:`BenchmarkError` in one is raised in all."""
        if self.size == 1:
            return [function()]
        value, error = None, None
        try:
            value = function()
        except BenchmarkError as raised:
            error = raised
        answers = self.gather((value, None if error is None else str(error)))
        for _, found in answers:
            if found is not None:
                raise SharedError(found) from error
        return [answer for answer, _ in answers]  # type: ignore[misc]

    def agree(self, function: Callable[[], T]) -> T:
        """:meth:`exchange`, of which each process gets its own value, whatever it is."""
        if self.size == 1:
            return function()
        values: list[T] = []
        self.exchange(lambda: values.append(function()))
        return values[0]

    def shares(self, error: BenchmarkError) -> bool:
        """Whether all processes have raised it."""
        return self.size == 1 or isinstance(error, SharedError)

    def alone(self, function: Callable[[], T]) -> T | None:
        """:meth:`agree`, called in the first process only; ``None`` in the others."""
        return self.agree(lambda: function() if self.main else None)

    def in_turn(self, function: Callable[[], T]) -> T:
        """:meth:`agree`, but first in one process of each machine, so that the others find its downloads and caches."""
        if self.size == 1:
            return function()
        first = self.agree(lambda: function() if self.local_rank == 0 else None)
        value = self.agree(lambda: function() if self.local_rank > 0 else first)
        return value  # type: ignore[return-value]

    @contextlib.contextmanager
    def held(self, context: AbstractContextManager[Any]) -> Iterator[None]:
        """A context that the first process holds."""
        with contextlib.ExitStack() as stack:
            self.alone(lambda: stack.enter_context(context))
            yield

    def advise(self, advice: str, failed: Callable[[BenchmarkError], None]) -> None:
        """What to say where another process ends before its time, and, in the first process, whom to tell."""
        if self.watch is not None:
            self.watch.advice = advice
            self.watch.on_end = lambda text: failed(BenchmarkError(text))

    def stop_together(self, stop: StopRequest) -> None:
        """Let a :class:`StopRequest` of one process be one of all."""
        if self.watch is not None:
            stop.tell, self.watch.on_stop = self.watch.stop, lambda: setattr(stop, "requested", True)


_world = World()


def world() -> World:
    """The processes that this one has joined; by itself by default."""
    return _world


def started_together() -> bool:
    """Whether something has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextlib.contextmanager
def joined() -> Iterator[World]:
    """Join the processes that were started together with this one, if there are any; the others end with it.

    Only the first one prints: an error of another process is printed there.

    Raises:
        BenchmarkError: the environment lacks what torchrun sets.
        SystemExit: in other processes than the first, in place of what was raised.
    """
    global _world
    if not started_together() or _world.size > 1:
        yield _world
        return
    lacking = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if lacking:
        raise BenchmarkError(
            f"$WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {', '.join('$' + name for name in lacking)} is not set; "
            "start the processes with torchrun, or unset it"
        )
    rank, size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)
    watch = Watch(rank, size)
    with contextlib.ExitStack() as stack:
        if rank > 0:
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        _world = World(rank, size, local_rank, watch)
        try:
            yield _world
            _world.gather(None)  # none leaves before the others are done
            watch.leave()
        except BaseException as error:
            if isinstance(error, Interrupted):  # together
                watch.leave()
                raise
            if not isinstance(error, BenchmarkError | KeyboardInterrupt | SystemExit):
                time.sleep(VERDICT)
            elif rank > 0 and not isinstance(error, SharedError):
                time.sleep(VERDICT / 5)  # the first process may say the same
            if isinstance(error, SharedError):
                watch.leave()
            elif isinstance(error, BenchmarkError):
                watch.fail(str(error))
            else:
                watch.fail(traceback.format_exc() if rank > 0 else "error")
            if rank > 0:
                raise SystemExit(1) from error
            raise
        else:
            dist.destroy_process_group()
        finally:
            _world = World()
