"""Where the cells of a study run: an executor gives units of cells to processes, here or on other machines.

All executors share what a unit is (:mod:`benchmark.study.runner`), how a process claims its cells
(:mod:`benchmark.study.claims`), and the board that keeps account (:mod:`benchmark.study.board`).
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from benchmark import config
from benchmark.errors import BenchmarkError, shorten
from benchmark.files import write_text
from benchmark.study import runner, status
from benchmark.study.board import Board, Executor
from benchmark.study.claims import Claims
from benchmark.study.recipe import Cell, Study, cells, finished
from benchmark.study.runner import Work
from benchmark.tables import plural

log = logging.getLogger("wavbench")


def run_study(
    study: Study,
    output: Path,
    *,
    data_root: str | None = None,
    jobs: int | None = None,
    per_gpu: int = 1,
    one_by_one: bool = False,
    executor: Executor | None = None,
    shard: tuple[int, int] = (1, 1),
    most: int = runner.MOST_TOGETHER,
    session: str | None = None,
) -> dict[Cell, str]:
    """Run the cells of a study that are not done yet, and write ``study.yaml``.

    Args:
        study: the recipe.
        output: the study's folder.
        data_root: holds the corpora; ``None``: as the recipe says.
        jobs: cells at a time; ``None``: ``per_gpu`` on each GPU, without GPUs as cores and memory allow.
        per_gpu: cells at a time on a GPU.
        one_by_one: also of cells whose probes could train together.
        executor: ``None``: processes of this machine, by ``jobs`` and ``per_gpu``.
        shard: (i, n): only the i-th of n parts of the cells, counted from 1.
        most: cells that are given out together.
        session: cells that failed in it are not tried again; ``None``: a new one.

    Returns:
        the cells that failed, and why.

    Raises:
        BenchmarkError: a cell that is done was run with other values than the recipe has now; another process runs in
            the folder.
        KeyboardInterrupt: Ctrl-C or SIGTERM; running cells have saved their state, but for those whose probes train
            together, which start again.
    """
    from benchmark.study.executors.local import Local

    executor = executor or Local(jobs, per_gpu, shared=shard != (1, 1))
    work = Work(study, output, data_root, session or uuid.uuid4().hex[:12])
    with _folder(output, shared=executor.shared):
        every = cells(study)
        check_former(study, output, every)
        mine = every[shard[0] - 1 :: shard[1]]
        todo = []
        digests: dict[str, str | None] = {}
        claims = Claims(work.session)
        for cell in mine:
            done = finished(output / cell.folder)
            if done is None:
                todo.append(cell)
            else:
                runner.check_unchanged(work, cell, done, digests)
                runner.tidy(work, cell, done, claims)
        grouped = {} if one_by_one or most <= 1 else runner.groups(work, todo)
        units = runner.units(todo, grouped, executor.slots(study), most)
        _write_plan(work, every)
        board = Board(work, mine, units, join=executor.shared and shard == (1, 1))
        with stopped_by_signals(), board.progress:
            executor.run(board)
        return board.failed


@contextlib.contextmanager
def _folder(output: Path, *, shared: bool) -> Iterator[None]:
    """Lock a study's folder, unless others may run in it."""
    from benchmark.engine.folder import exclusive  # not before --help is answered

    if shared:
        yield
    else:
        with exclusive(output, clean=False):
            yield


def check_former(study: Study, output: Path, every: Sequence[Cell] = ()) -> None:
    """Look at what the folder of a study holds already.

    Raises:
        BenchmarkError: it is another study.
    """
    former = None
    with contextlib.suppress(BenchmarkError):  # there is none, or it is broken
        former = config.read_yaml(output / "study.yaml").get("name")
    if former not in (None, study.name):
        raise BenchmarkError(f"{output} holds the study '{former}', not '{study.name}'; choose another folder with -o")
    with contextlib.suppress(OSError):
        before = (output / status.PLAN).read_text(encoding="utf-8").split("\n")[:-1]
        now = {cell.folder.as_posix() for cell in every}
        left_out = [name for name in before if name not in now and (output / name / "cell.json").exists()]
        if left_out:
            log.warning(
                "no more in the recipe, and not in its report, though done: %s: %s",
                plural(len(left_out), "cell"), shorten(left_out),
            )  # fmt: skip


def _write_plan(work: Work, every: Sequence[Cell]) -> None:
    """Write the recipe and the list of cells, where they are not there."""
    text = OmegaConf.to_yaml(OmegaConf.structured(work.study))
    plan = "".join(f"{cell.folder.as_posix()}\n" for cell in every)
    for path, content in ((work.output / "study.yaml", text), (work.output / status.PLAN, plan)):
        with contextlib.suppress(OSError):
            if path.read_text(encoding="utf-8") == content:
                continue
        write_text(path, content)


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """SIGTERM is Ctrl-C, which a command hears that was started in the background of a script, too: the system makes it
    ignore Ctrl-C, but not the cells that run within."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # where Python delivers no signals
        yield
        return
    former = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
