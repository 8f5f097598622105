"""Processes of this machine: one for each slot, with the device of the slot."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from benchmark import registry
from benchmark.allocation import keep_freed
from benchmark.study import devices
from benchmark.study.board import Board
from benchmark.study.claims import LOST, Claims
from benchmark.study.recipe import Study
from benchmark.study.runner import Report, Unit, Work, run_unit


class Local:
    """The default executor.

    Args:
        jobs: cells at a time; ``None``: ``per_gpu`` on each GPU, without GPUs as cores and memory allow.
        per_gpu: cells at a time on a GPU.
        shared: other commands may run cells of the same folder at the same time.
        parts: commands that do, each with as many slots.
    """

    def __init__(self, jobs: int | None = None, per_gpu: int = 1, *, shared: bool = False, parts: int = 1) -> None:
        self.jobs, self.per_gpu, self.shared, self.parts = jobs, per_gpu, shared, parts
        self._slots: list[str | None] = []

    def slots(self, study: Study) -> int:
        """Processes, of all commands that share the folder."""
        cpu = isinstance(study.config, dict) and study.config.get("device") == "cpu"
        self._slots = devices.slots(self.jobs, self.per_gpu, cpu=cpu)
        return len(self._slots) * self.parts

    def run(self, board: Board) -> None:
        """One unit at a time in each slot."""
        pool = _Pool(board.work, self._slots)
        try:
            while board.look(len(pool.running)):
                pool.fill(board)
                gpus = len({worker.device for worker in pool.running} - {None})
                shown = {"running": len(pool.running), **({"gpus": gpus} if gpus else {}), "failed": len(board.failed)}
                board.progress.set_postfix(**shown)
                pool.hear(board)
        finally:
            pool.end()


@dataclass(eq=False)
class _Worker:
    process: Any
    pipe: Connection
    device: str | None
    unit: Unit | None = None
    alone: list[str] = field(default_factory=list)
    """Why cells of the unit are run one by one."""


class _Pool:
    """Worker processes, started as they are needed."""

    def __init__(self, work: Work, slots: list[str | None]) -> None:
        self.work, self.slots = work, slots
        self.workers: list[_Worker] = []
        self._context = multiprocessing.get_context("spawn")

    @property
    def running(self) -> list[_Worker]:
        return [worker for worker in self.workers if worker.unit is not None]

    def _start(self) -> _Worker:
        mine, theirs = self._context.Pipe()
        used = Counter(worker.device for worker in self.workers)
        device = next(slot for slot in self.slots if used[slot] < self.slots.count(slot))
        threads = max(1, devices.cores() // len(self.slots))
        process = self._context.Process(target=_main, args=(theirs, self.work, threads, device))
        with _blocked():
            process.start()
        theirs.close()
        return _Worker(process, mine, device)

    def fill(self, board: Board) -> None:
        """Give a unit to each worker that has none."""
        free = len(self.workers) - len(self.running)
        while len(self.workers) < len(self.slots) and free < len(board.waiting):
            self.workers.append(self._start())
            free += 1
        for worker in self.workers:
            if worker.unit is None and board.waiting:
                worker.unit = board.waiting.popleft()
                worker.pipe.send(worker.unit)

    def hear(self, board: Board) -> None:
        """Wait for what workers say, for some seconds at most."""
        running = self.running
        if not running:
            time.sleep(0.5)
        for pipe in wait([worker.pipe for worker in running], timeout=2.0):
            worker = next(worker for worker in running if worker.pipe is pipe)
            assert worker.unit is not None
            try:
                report = worker.pipe.recv()
            except (EOFError, ConnectionError):
                worker.process.join()
                self.workers.remove(worker)
                code = worker.process.exitcode
                if code in (0, -signal.SIGTERM):  # it was told to stop, as this process is about to be
                    time.sleep(2.0)
                if code == LOST:
                    board.again(worker.unit)
                else:
                    board.died(worker.unit, f"its process died (exit code {code}); was there enough memory?")
                continue
            if report is None:
                board.say_alone(worker.alone)
                worker.unit, worker.alone = None, []
            else:
                board.report(worker.unit, report)
                if report.outcome == "alone":
                    worker.alone.append(report.reason)

    def end(self) -> None:
        """Tell workers that are at work to save and stop, and wait for all."""
        for worker in self.workers:
            if worker.unit is not None:
                worker.process.terminate()
            worker.pipe.close()
        for worker in self.workers:
            worker.process.join()


def _main(pipe: Connection, work: Work, threads: int, device: str | None) -> None:
    """Run the units that come through ``pipe``; send back what becomes of each cell, and ``None`` after each unit."""
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # read when CUDA is first used
    multiprocessing.set_start_method(None, force=True)  # for readers of audio the system's own, not "spawn"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells its workers to stop by SIGTERM
    threading.Thread(target=_die_with_parent, daemon=True).start()
    import torch

    from benchmark.engine.prepare import Preparer
    from benchmark.engine.stopping import Interrupted

    registry.load_plugin(*work.study.plugins)
    keep_freed()
    torch.set_num_threads(threads)
    logging.getLogger("wavbench").setLevel(logging.INFO)
    sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  the log of a cell is in its folder
    preparer, claims = Preparer(), Claims(work.session)
    while True:
        try:
            unit: Unit = pipe.recv()
        except EOFError:
            return
        try:
            for report in run_unit(work, unit, preparer, claims):
                _send(pipe, report)
        except Interrupted:
            return
        _send(pipe, None)


def _send(pipe: Connection, report: Report | None) -> None:
    with contextlib.suppress(BrokenPipeError):  # the parent is ending, and has told this process to
        pipe.send(report)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()  # os.getppid() is another one if that died while this process started
    while parent is not None and os.getppid() == parent.pid:
        time.sleep(1.0)
    os._exit(1)


@contextlib.contextmanager
def _blocked() -> Iterator[None]:
    """Processes started meanwhile hear no SIGUSR1, which Slurm sends to a whole job: only this one answers it."""
    number = getattr(signal, "SIGUSR1", None)
    if number is None:
        yield
        return
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
