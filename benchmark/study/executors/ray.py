"""Ray: a unit of cells is a task with its cores and GPUs, on whichever node has them.

Nothing counts nodes: all units are submitted, or as many as ``jobs`` says, and a cluster that grows takes more of them.
A node that dies has its cells started again elsewhere, from their checkpoints where the study's folder is on storage
that all nodes see. Else (``send_back``) a cell is run in a folder of its node, and its files are sent here when it is
done. Tasks are never retried by Ray itself: what has to be run again is decided here, from the folder.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import socket
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmark import registry
from benchmark.allocation import keep_freed
from benchmark.errors import BenchmarkError
from benchmark.files import write_bytes
from benchmark.study.board import Board
from benchmark.study.claims import Claims
from benchmark.study.recipe import Cell, Study
from benchmark.study.runner import Report, Unit, Work, run_unit

MARKER = ".shared"
"""In the study's folder, with the session in it: a node that reads it there sees the same folder."""
CRASHES = 3
"""Of the worker of one cell, after which the cell has failed. Nodes may die as often as they like."""
HEAD = 20.0
"""Seconds for which the head may not answer."""
GRACE = 30.0
"""Seconds that tasks have to save when the study is stopped."""


class Ray:
    """Runs units as tasks of a Ray cluster.

    Args:
        address: of the cluster; ``None``: this machine by itself, or ``$RAY_ADDRESS``.
        jobs: units at a time; ``None``: as the cluster has room.
        cpus: cores of a unit.
        gpus: GPUs of a unit; may be a fraction.
        send_back: nodes do not see the study's folder.
    """

    shared = False

    def __init__(
        self, address: str | None, jobs: int | None = None, cpus: int = 1, gpus: float = 0.0, *, send_back: bool = False
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise BenchmarkError("--executor ray needs Ray: pip install 'wavbench[ray]'") from error
        self._ray, self.address, self.jobs = ray, address, jobs
        self.resources = {"num_cpus": cpus, "num_gpus": gpus}
        self.send_back = send_back
        self._silent: float | None = None
        """Since when the head has not answered."""

    def slots(self, study: Study) -> int:
        """Units that the cluster has room for at the moment: parts of what trains together, no more."""
        self._connect()
        if self.jobs is not None:
            return self.jobs
        there = self._ray.cluster_resources()
        cpus, gpus = self.resources["num_cpus"], self.resources["num_gpus"]
        rooms = [there.get("CPU", 0.0) / cpus, *([there.get("GPU", 0.0) / gpus] if gpus else [])]
        return max(1, int(min(rooms)))

    def _connect(self) -> None:
        try:
            self._ray.init(
                address=self.address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise BenchmarkError(
                f"no Ray cluster answers at {self.address or 'this machine'}: {error}. Start one with ray start --head"
            ) from error

    def run(self, board: Board) -> None:
        """Submit what waits, hear of what has become of it, and submit again what dead nodes had."""
        work = replace(board.work, output=board.work.output.resolve())
        write_bytes(work.output / MARKER, work.session.encode())
        task = self._ray.remote(max_retries=0, **self.resources)(_run)
        running: dict[Any, Unit] = {}
        crashes: dict[Cell, int] = {}
        try:
            while board.look(len(running)):
                while board.waiting and len(running) < (self.jobs or 10**9):
                    unit = board.waiting.popleft()
                    running[task.remote(work, unit, self.send_back)] = unit
                self._check_head()
                board.progress.set_postfix(given=len(running), failed=len(board.failed))
                if not running:
                    time.sleep(0.5)
                    continue
                ready, _ = self._ray.wait(list(running), timeout=2.0, fetch_local=False)
                for stream in ready:
                    self._hear(board, stream, running, crashes)
        finally:
            if self._silent is None:
                self._cancel(list(running))
            with contextlib.suppress(OSError):
                (work.output / MARKER).unlink()
            self._ray.shutdown()

    def _check_head(self) -> None:
        """Ray would wait for a head that is gone for a minute, and then end this process without a word of ours."""
        host, _, port = self._ray.get_runtime_context().gcs_address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=5.0).close()
            self._silent = None
        except OSError as error:
            self._silent = self._silent or time.monotonic()
            if time.monotonic() - self._silent > HEAD:
                raise BenchmarkError(
                    f"the head of the Ray cluster, {host}:{port}, is gone ({error}). What is done is kept: run the "
                    "study again to go on"
                ) from error

    def _hear(self, board: Board, stream: Any, running: dict[Any, Unit], crashes: dict[Cell, int]) -> None:
        """Take the next that a task says, or note its end."""
        unit, errors = running[stream], self._ray.exceptions
        try:
            report, content = self._ray.get(next(stream))
        except StopIteration:
            del running[stream]
            return
        except (errors.NodeDiedError, errors.ObjectLostError) as error:
            board.progress.write(f"a node is gone; {len(unit.cells)} cells of it are given out again ({_first(error)})")
            del running[stream]
            board.again(unit)
            return
        except errors.RayTaskError as error:
            del running[stream]
            if isinstance(error.cause, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            board.died(unit, _first(error.cause))
            return
        except errors.RayError as error:  # its process has crashed, or was killed for memory
            del running[stream]
            self._crashed(board, unit, crashes, _first(error))
            return
        if content is not None:
            _unpack(content, board.work.output / report.cell.folder)
        board.report(unit, report)
        if report.outcome == "alone":
            board.say_alone([report.reason])

    def _crashed(self, board: Board, unit: Unit, crashes: dict[Cell, int], reason: str) -> None:
        """A worker died: of its cell, or of something else on its node, such as a process that took all memory."""
        for cell in unit.cells:
            crashes[cell] = crashes.get(cell, 0) + 1
        if unit.together or any(crashes[cell] >= CRASHES for cell in unit.cells):
            board.died(unit, f"its process died {crashes[unit.cells[0]]} times ({reason}); was there enough memory?")
        else:
            board.again(unit)

    def _cancel(self, streams: list[Any]) -> None:
        """Tell tasks to save and stop, wait for them, and end those that do not."""
        for force in (False, True):
            for stream in streams:
                with contextlib.suppress(Exception):  # it may be done, or the cluster gone
                    self._ray.cancel(stream, force=force)
            deadline = time.monotonic() + GRACE
            while streams and time.monotonic() < deadline:
                streams = [stream for stream in streams if not self._ended(stream)]

    def _ended(self, stream: Any) -> bool:
        try:
            ready, _ = self._ray.wait([stream], timeout=0.5, fetch_local=False)
            if ready:
                self._ray.get(next(stream))
        except BaseException:
            return True
        return False


def _first(error: BaseException | None) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


_PREPARERS: dict[str, Any] = {}
"""Session -> the one that this worker has: it keeps corpora and upstreams from one task to the next."""


def _run(work: Work, unit: Unit, send_back: bool) -> Iterator[tuple[Report, bytes | None]]:
    """On a node: run a unit; yields what becomes of each cell, with its files where they are to be sent."""
    import torch

    from benchmark.engine.prepare import Preparer

    registry.load_plugin(*work.study.plugins)
    keep_freed()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 1))
    logging.getLogger("wavbench").setLevel(logging.INFO)
    if work.session not in _PREPARERS:
        _PREPARERS.clear()
        _PREPARERS[work.session] = Preparer(), Claims(work.session)
    preparer, claims = _PREPARERS[work.session]
    if send_back:
        with tempfile.TemporaryDirectory(prefix="wavbench-") as folder:
            for report in run_unit(replace(work, output=Path(folder)), unit, preparer, claims):
                place = Path(folder) / report.cell.folder
                yield report, _pack(place) if place.exists() else None
                shutil.rmtree(place, ignore_errors=True)
        return
    try:
        seen = (work.output / MARKER).read_text(encoding="utf-8") == work.session
    except OSError:
        seen = False
    if not seen:
        raise BenchmarkError(
            f"node {os.uname().nodename} does not see {work.output}: put the study's folder on storage that all nodes "
            "share, or add --send-back"
        )
    for report in run_unit(work, unit, preparer, claims):
        yield report, None


def _pack(folder: Path) -> bytes:
    """The files of a cell as a tar."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                tar.add(path, str(path.relative_to(folder)))
    return content.getvalue()


def _unpack(content: bytes, folder: Path) -> None:
    """Write the files of a cell, ``cell.json``, which says that it is done, after all others."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = sorted((member for member in tar if member.isfile()), key=lambda member: member.name == "cell.json")
        for member in members:
            file = tar.extractfile(member)
            assert file is not None
            path = Path(os.path.normpath(folder / member.name))
            if not path.is_relative_to(folder):
                raise BenchmarkError(f"a node sent {member.name}, which is not of its cell")
            write_bytes(path, file.read())
