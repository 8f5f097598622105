"""Running a study: its cells in worker processes, each cell in a folder of its own.

A cell resumes where it was stopped, and is never run again once it is done.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from tqdm import tqdm

from benchmark import config, registry
from benchmark.errors import BenchmarkError
from benchmark.files import write_text
from benchmark.study import devices
from benchmark.study.recipe import Cell, Study, candidates, cells, finished, run_config

if TYPE_CHECKING:
    from benchmark.engine.prepare import Preparer

log = logging.getLogger("wavbench")


def run_cell(
    study: Study, cell: Cell, output: Path, data_root: str | None, preparer: Preparer | None = None
) -> dict[str, Any]:
    """Train every candidate of a cell, choose on dev, score test once; returns what ``cell.json`` keeps.

    Raises:
        BenchmarkError: whatever a run raises.
        Interrupted: the run was asked to stop and has saved its state.
    """
    from benchmark.engine.prepare import Preparer  # imports torch
    from benchmark.engine.run import run

    preparer = preparer or Preparer()
    tried = []
    for one in _runs(study, cell, output, data_root):
        best = run(one.settings, one.folder, mode="fit", resume=True, preparer=preparer, group=one.group).best
        tried.append(_tried(one, best))
    chosen = _chosen(tried)
    one = _runs(study, cell, output, data_root)[chosen]
    run(one.settings, one.folder, mode="evaluate", preparer=preparer, group=one.group)
    return _conclude(study, cell, output / cell.folder, tried, one.settings.trainer.keep)


def run_cells(
    study: Study,
    together: Sequence[Cell],
    output: Path,
    data_root: str | None,
    preparer: Preparer | None = None,
    done: Callable[[Cell], object] = lambda cell: None,
) -> dict[Cell, str]:
    """What :func:`run_cell` does, for cells of one upstream and task whose probes train together.

    Args:
        study: the recipe.
        together: the cells.
        output: the study's folder.
        data_root: holds the corpora; ``None``: as the recipe says.
        preparer: what it has found for earlier runs is not looked up again.
        done: called with each cell that is done.

    Returns:
        the cells that have to be run one by one, and why: their heads cannot be stacked, or something is wrong.

    Raises:
        Interrupted: asked to stop; cells that are done are kept.
    """
    from benchmark.engine.prepare import Preparer  # imports torch
    from benchmark.engine.probes import CannotStack, Probe
    from benchmark.engine.stacked import Probes
    from benchmark.engine.trainer import Interrupted, StopRequest

    probes = Probes(preparer or Preparer())
    alike: dict[Any, config.RunConfig] = {}
    runs: dict[Cell, list[_Run]] = {}
    added: dict[Cell, list[Probe]] = {}
    left: dict[Cell, str] = {}
    with StopRequest() as stop:
        for cell in together:
            try:
                runs[cell] = _runs(study, cell, output, data_root, alike)
                added[cell] = [probes.add(one.settings, one.folder, one.group) for one in runs[cell]]
            except (CannotStack, BenchmarkError) as error:
                left[cell] = str(error)
        for cell, reason in probes.train(added, stop):
            if reason is None:
                tried = [_tried(one, probe.best or {}) for one, probe in zip(runs[cell], added[cell], strict=True)]
                chosen = _chosen(tried)
                for i in sorted(range(len(tried)), key=lambda i: i != chosen):  # the chosen one first
                    added[cell][i].finish(stop, chosen=i == chosen)
                _conclude(study, cell, output / cell.folder, tried, runs[cell][chosen].settings.trainer.keep)
                done(cell)
            else:
                left[cell] = reason
            added[cell] = []
            if stop.requested:
                raise Interrupted("stopped; the cells that are done are kept")
    return left


@dataclass(frozen=True)
class _Run:
    """One candidate of a cell."""

    name: str
    candidate: dict[str, Any]
    settings: config.RunConfig
    folder: Path
    group: str


def _runs(
    study: Study, cell: Cell, output: Path, data_root: str | None, alike: dict[Any, config.RunConfig] | None = None
) -> list[_Run]:
    """The runs of a cell, in the order of its candidates.

    Args:
        study: the recipe.
        cell: the cell.
        output: the study's folder.
        data_root: as :func:`run_study`.
        alike: configurations of other cells, from which those that differ in layer and seed alone are made: composing
            one takes as long as hundreds of updates of a stack.
    """
    found = []
    for candidate in candidates(study.regimes[cell.regime]):
        name = "-".join(f"{key.rpartition('.')[2]}={value}" for key, value in candidate.items()) or "run"
        key = (cell.upstream, cell.task, cell.regime, cell.budget, name)
        if alike is None or key not in alike or {"seed", "featurizer.layer"} & candidate.keys():
            settings = run_config(study, cell, candidate, data_root)
        else:
            settings = copy.deepcopy(alike[key])
            settings.seed, settings.featurizer.layer = cell.seed, cell.layer
        if alike is not None:
            alike[key] = settings
        group = f"{study.name}/{cell.folder.as_posix()}"
        found.append(_Run(name, candidate, settings, output / cell.folder / name, group))
    return found


def _tried(one: _Run, best: Mapping[str, Any]) -> dict[str, Any]:
    """What ``cell.json`` keeps of a candidate."""
    found = {"dev": best["value"], "rank": best["rank"], "step": best["step"], "metric": best["metric"]}
    return {"name": one.name, "candidate": one.candidate, **found}


def _chosen(tried: Sequence[Mapping[str, Any]]) -> int:
    return min(range(len(tried)), key=lambda i: tried[i]["rank"])


def _conclude(study: Study, cell: Cell, folder: Path, tried: list[dict[str, Any]], keep: str) -> dict[str, Any]:
    """Write ``cell.json``, remove what is not kept."""
    from benchmark.engine.checkpoint import prune  # imports torch

    chosen = tried[_chosen(tried)]
    outcome = {
        "study": study.name,
        "regime": cell.regime,
        "chosen": chosen["name"],
        "metric": chosen["metric"],
        "tried": [{key: value for key, value in one.items() if key != "metric"} for one in tried],
    }
    write_text(folder / "cell.json", json.dumps(outcome, indent=2) + "\n")
    for name in ("error.txt", "traceback.txt"):
        (folder / name).unlink(missing_ok=True)
    for one in tried:
        prune(folder / one["name"], keep, chosen=one is chosen)
    return outcome


# --- Worker processes -------------------------------------------------------------------------------------------------


def _work(
    pipe: Connection, study: Study, output: Path, data_root: str | None, threads: int, device: str | None
) -> None:
    """Run the units that come through ``pipe``; send back each cell that is done, with the reason if it failed, and at
    the end of a unit why the others of it have to be run one by one."""
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # read when CUDA is first used
    multiprocessing.set_start_method(None, force=True)  # for readers of audio the system's own, not "spawn"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells its workers to stop by SIGTERM
    threading.Thread(target=_die_with_parent, args=(os.getppid(),), daemon=True).start()
    import torch

    from benchmark.engine.prepare import Preparer
    from benchmark.engine.trainer import Interrupted

    registry.load_plugin(*study.plugins)
    torch.set_num_threads(threads)
    logging.getLogger("wavbench").setLevel(logging.INFO)
    sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  the log of a cell is in its folder
    preparer = Preparer()
    while True:
        try:
            unit: _Unit = pipe.recv()
        except EOFError:
            return
        left: dict[Cell, str] = {}
        try:
            if unit.together:
                left = run_cells(study, unit.cells, output, data_root, preparer, lambda cell: pipe.send((cell, None)))
            else:
                (cell,) = unit.cells
                pipe.send((cell, _reason(study, cell, output, data_root, preparer)))
        except Interrupted:
            return
        except Exception as error:  # the cells say by themselves what is wrong with them
            left = dict.fromkeys(unit.cells, f"{type(error).__name__}: {error}")
        pipe.send(left)


def _reason(study: Study, cell: Cell, output: Path, data_root: str | None, preparer: Preparer) -> str | None:
    """Run a cell; returns why it failed, also in files in its folder: one broken cell must not take others down."""
    from benchmark.engine.trainer import Interrupted

    try:
        run_cell(study, cell, output, data_root, preparer)
    except Interrupted:
        raise
    except Exception as error:
        expected = isinstance(error, BenchmarkError)
        reason = str(error) if expected else f"{type(error).__name__}: {error}"
        with contextlib.suppress(BenchmarkError, OSError):
            write_text(output / cell.folder / "error.txt", reason + "\n")
            if not expected:
                write_text(output / cell.folder / "traceback.txt", traceback.format_exc())
        return reason
    return None


def _die_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


@dataclass
class _Unit:
    """What a worker is given at a time."""

    cells: list[Cell]
    """Those that are not done."""
    together: bool = False
    """Whether their probes train together; else there is one cell."""


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    device: str | None
    unit: _Unit | None = None


MOST_TOGETHER = 60
"""Cells of a unit: what a killed study may have to do again."""


def run_study(
    study: Study,
    output: Path,
    *,
    data_root: str | None = None,
    jobs: int | None = None,
    per_gpu: int = 1,
    one_by_one: bool = False,
) -> dict[Cell, str]:
    """Run the cells of a study that are not done yet, and write ``study.yaml``.

    Args:
        study: the recipe.
        output: the study's folder.
        data_root: holds the corpora; ``None``: as the recipe says.
        jobs: cells at a time; ``None``: ``per_gpu`` on each GPU, without GPUs as cores and memory allow.
        per_gpu: cells at a time on a GPU.
        one_by_one: also of cells whose probes could train together.

    Returns:
        the cells that failed, and why.

    Raises:
        BenchmarkError: a cell that is done was run with other values than the recipe has now; another process runs in
            the folder.
        KeyboardInterrupt: Ctrl-C or SIGTERM; running cells have saved their state, but for those whose probes train
            together, which start again.
    """
    from benchmark.engine.folder import exclusive  # not before --help is answered

    with exclusive(output):
        cpu = isinstance(study.config, dict) and study.config.get("device") == "cpu"
        slots = devices.slots(jobs, per_gpu, cpu=cpu)
        every = cells(study)
        todo = []
        for cell in every:
            done = finished(output / cell.folder)
            if done is None:
                todo.append(cell)
            else:
                _check_unchanged(study, cell, done, output, data_root)
        groups = {} if one_by_one else _groups(study, todo, output, data_root)
        return _run(study, len(every), _units(todo, groups, len(slots)), output, data_root, slots)


def _groups(study: Study, todo: Sequence[Cell], output: Path, data_root: str | None) -> dict[Any, list[Cell]]:
    """The cells whose probes may train together, by upstream and task; those that have begun by themselves go on so."""
    from benchmark.engine.probes import CannotStack, check  # imports torch

    fits: dict[Any, bool] = {}
    groups: dict[Any, list[Cell]] = {}
    for cell in todo:
        kind = (cell.upstream, cell.task, cell.regime)
        if kind not in fits:
            try:
                for one in _runs(study, cell, output, data_root):
                    check(one.settings)
                fits[kind] = True
            except (CannotStack, BenchmarkError):  # what is wrong the cell says by itself
                fits[kind] = False
        if fits[kind] and not any((output / cell.folder).glob("*/config.yaml")):
            groups.setdefault((cell.upstream, cell.task), []).append(cell)
    return groups


def _units(todo: Sequence[Cell], groups: Mapping[Any, list[Cell]], slots: int) -> list[_Unit]:
    """What to give to workers: first the cells that train together, in about equal parts, then the others."""
    together = {cell for group in groups.values() for cell in group}
    most = min(MOST_TOGETHER, -(-len(together) // slots)) if together else 0
    units = []
    for group in groups.values():
        parts = -(-len(group) // most)
        size = -(-len(group) // parts)
        units += [_Unit(group[first : first + size], together=True) for first in range(0, len(group), size)]
    return units + [_Unit([cell]) for cell in todo if cell not in together]


def _run(
    study: Study, total: int, waiting: list[_Unit], output: Path, data_root: str | None, slots: Sequence[str | None]
) -> dict[Cell, str]:
    """Run the cells of units, one unit at a time in each slot."""
    write_text(output / "study.yaml", OmegaConf.to_yaml(OmegaConf.structured(study)))
    failed: dict[Cell, str] = {}
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // len(slots))
    todo = sum(len(unit.cells) for unit in waiting)
    progress = tqdm(total=total, initial=total - todo, unit="cell", dynamic_ncols=True)
    if together := sum(len(unit.cells) for unit in waiting if unit.together):
        progress.write(f"the probes of {together} cells train together (--one-by-one: each by itself)")
    workers: list[_Worker] = []

    def start() -> _Worker:
        mine, theirs = context.Pipe()
        used = Counter(worker.device for worker in workers)
        device = next(slot for slot in slots if used[slot] < slots.count(slot))
        process = context.Process(target=_work, args=(theirs, study, output, data_root, threads, device))
        process.start()
        theirs.close()
        return _Worker(process, mine, device)

    with _stopped_by_sigterm(), progress:
        try:
            while waiting or any(worker.unit is not None for worker in workers):
                while len(workers) < min(len(slots), len(waiting)):
                    workers.append(start())
                for worker in workers:
                    if worker.unit is None and waiting:
                        worker.unit = waiting.pop(0)
                        worker.pipe.send(worker.unit)
                running = [worker for worker in workers if worker.unit is not None]
                gpus = len({worker.device for worker in running} - {None})
                progress.set_postfix(running=len(running), **({"gpus": gpus} if gpus else {}), failed=len(failed))
                for pipe in wait([worker.pipe for worker in running], timeout=5.0):
                    worker = next(worker for worker in running if worker.pipe is pipe)
                    assert worker.unit is not None
                    unit = worker.unit
                    try:
                        report = worker.pipe.recv()
                    except (EOFError, ConnectionError):
                        worker.process.join()
                        reason = f"its process died (exit code {worker.process.exitcode}); was there enough memory?"
                        workers.remove(worker)
                        report = dict.fromkeys(unit.cells, reason) if unit.together else (unit.cells[0], reason)
                    if isinstance(report, tuple):
                        cell, reason = report
                        unit.cells.remove(cell)
                        progress.update()
                        if reason is not None:
                            failed[cell] = reason
                            progress.write(f"failed: {cell.folder}: {reason}")
                    if isinstance(report, dict) or worker not in workers:
                        worker.unit = None
                        waiting += [_Unit([cell]) for cell in unit.cells]
                        reasons = Counter(report[cell] for cell in unit.cells) if isinstance(report, dict) else {}
                        for reason, number in reasons.items():
                            progress.write(f"{number} cells are run one by one: {reason}")
        finally:
            for worker in workers:
                if worker.unit is not None:
                    worker.process.terminate()
                worker.pipe.close()
            for worker in workers:
                worker.process.join()
    return failed


def _check_unchanged(study: Study, cell: Cell, done: Mapping[str, Any], output: Path, data_root: str | None) -> None:
    tried = [run["candidate"] for run in done["tried"]]
    wanted = candidates(study.regimes[cell.regime])
    changed = [] if tried == wanted else [f"candidates: {tried} -> {wanted}"]
    if not changed:
        saved = config.read_yaml(output / cell.folder / done["chosen"] / "config.yaml")
        candidate = next(run["candidate"] for run in done["tried"] if run["name"] == done["chosen"])
        changed = config.differences(saved, run_config(study, cell, candidate, data_root))
    if changed:
        shown = "\n  ".join(changed)
        raise BenchmarkError(
            f"{output / cell.folder} was run with other values (then -> now):\n  {shown}\nChoose another output "
            "folder, or delete that one to run the cell again"
        )


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # where Python delivers no signals
        yield
        return
    former = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
