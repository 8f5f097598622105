"""Running a study: its cells in worker processes, each cell in a folder of its own.

A cell resumes where it was stopped, and is never run again once it is done.
"""

from __future__ import annotations

import contextlib
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
from collections.abc import Iterator, Mapping, Sequence
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
    from benchmark.engine.checkpoint import prune  # imports torch
    from benchmark.engine.prepare import Preparer
    from benchmark.engine.run import run

    folder, preparer = output / cell.folder, preparer or Preparer()
    group = f"{study.name}/{cell.folder.as_posix()}"
    tried = []
    for candidate in candidates(study.regimes[cell.regime]):
        name = "-".join(f"{key.rpartition('.')[2]}={value}" for key, value in candidate.items()) or "run"
        settings = run_config(study, cell, candidate, data_root)
        best = run(settings, folder / name, mode="fit", resume=True, preparer=preparer, group=group).best
        tried.append(
            {"name": name, "candidate": candidate, "dev": best["value"], "rank": best["rank"], "step": best["step"]}
        )
    chosen = min(tried, key=lambda run: run["rank"])
    settings = run_config(study, cell, chosen["candidate"], data_root)
    run(settings, folder / chosen["name"], mode="evaluate", preparer=preparer, group=group)
    outcome = {
        "study": study.name,
        "regime": cell.regime,
        "chosen": chosen["name"],
        "metric": best["metric"],
        "tried": tried,
    }
    write_text(folder / "cell.json", json.dumps(outcome, indent=2) + "\n")
    for name in ("error.txt", "traceback.txt"):
        (folder / name).unlink(missing_ok=True)
    for candidate in tried:
        prune(folder / candidate["name"], settings.trainer.keep, chosen=candidate is chosen)
    return outcome


# --- Worker processes -------------------------------------------------------------------------------------------------


def _work(
    pipe: Connection, study: Study, output: Path, data_root: str | None, threads: int, device: str | None
) -> None:
    """Run the cells that come through ``pipe``; send back ``None``, or why a cell failed."""
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
            cell = pipe.recv()
        except EOFError:
            return
        try:
            run_cell(study, cell, output, data_root, preparer)
            pipe.send(None)
        except Interrupted:
            return
        except Exception as error:  # one broken cell must not take the others down
            expected = isinstance(error, BenchmarkError)
            reason = str(error) if expected else f"{type(error).__name__}: {error}"
            with contextlib.suppress(BenchmarkError, OSError):
                write_text(output / cell.folder / "error.txt", reason + "\n")
                if not expected:
                    write_text(output / cell.folder / "traceback.txt", traceback.format_exc())
            pipe.send(reason)


def _die_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    device: str | None
    cell: Cell | None = None


def run_study(
    study: Study, output: Path, *, data_root: str | None = None, jobs: int | None = None, per_gpu: int = 1
) -> dict[Cell, str]:
    """Run the cells of a study that are not done yet, and write ``study.yaml``.

    Args:
        study: the recipe.
        output: the study's folder.
        data_root: holds the corpora; ``None``: as the recipe says.
        jobs: cells at a time; ``None``: ``per_gpu`` on each GPU, without GPUs as cores and memory allow.
        per_gpu: cells at a time on a GPU.

    Returns:
        the cells that failed, and why.

    Raises:
        BenchmarkError: a cell that is done was run with other values than the recipe has now; another process runs in
            the folder.
        KeyboardInterrupt: Ctrl-C or SIGTERM; running cells have saved their state.
    """
    from benchmark.engine.folder import exclusive  # not before --help is answered

    with exclusive(output):
        cpu = isinstance(study.config, dict) and study.config.get("device") == "cpu"
        return _run(study, cells(study), output, data_root, devices.slots(jobs, per_gpu, cpu=cpu))


def _run(
    study: Study, every: Sequence[Cell], output: Path, data_root: str | None, slots: Sequence[str | None]
) -> dict[Cell, str]:
    """Run the cells that are not done yet, one at a time in each slot."""
    waiting = []
    for cell in every:
        done = finished(output / cell.folder)
        if done is None:
            waiting.append(cell)
        else:
            _check_unchanged(study, cell, done, output, data_root)
    write_text(output / "study.yaml", OmegaConf.to_yaml(OmegaConf.structured(study)))
    failed: dict[Cell, str] = {}
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // len(slots))
    progress = tqdm(total=len(every), initial=len(every) - len(waiting), unit="cell", dynamic_ncols=True)
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
            while waiting or any(worker.cell is not None for worker in workers):
                while len(workers) < min(len(slots), len(waiting)):
                    workers.append(start())
                for worker in workers:
                    if worker.cell is None and waiting:
                        worker.cell = waiting.pop(0)
                        worker.pipe.send(worker.cell)
                running = [worker for worker in workers if worker.cell is not None]
                gpus = len({worker.device for worker in running} - {None})
                progress.set_postfix(running=len(running), **({"gpus": gpus} if gpus else {}), failed=len(failed))
                for pipe in wait([worker.pipe for worker in running], timeout=5.0):
                    worker = next(worker for worker in running if worker.pipe is pipe)
                    assert worker.cell is not None
                    try:
                        reason = worker.pipe.recv()
                    except (EOFError, ConnectionError):
                        worker.process.join()
                        reason = f"its process died (exit code {worker.process.exitcode}); was there enough memory?"
                        workers.remove(worker)
                    if reason is not None:
                        failed[worker.cell] = reason
                        progress.write(f"failed: {worker.cell.folder}: {reason}")
                    worker.cell = None
                    progress.update()
        finally:
            for worker in workers:
                if worker.cell is not None:
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
