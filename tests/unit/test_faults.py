"""Faults injected on purpose: nothing is lost, nothing is run twice, and one message says what is wrong.

Others are injected where what they hit is tested: a kill at any moment of a run (tests/recipes/test_run.py) and of a
study (test_study.py), a full disk in single writes (test_files_and_results.py, test_download.py), claims of processes
that are gone or stand still and clocks that jump (test_executors.py), a node, a worker and the head of a Ray cluster
(test_executors_ray.py), jobs that are preempted or out of time (test_executors_slurm.py).
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_studies
from support import REPOSITORY

from benchmark import files, memory
from benchmark.engine import feature_shards
from benchmark.engine.prepare import Preparer
from benchmark.errors import BenchmarkError
from benchmark.study import claims, recipe, runner, status
from benchmark.study.claims import Claims
from benchmark.study.executors import run_study
from benchmark.study.executors.local import Local
from benchmark.study.recipe import Cell, Study
from benchmark.study.runner import Report, Unit, Work

KINDS = ("config.yaml", "last.pt", "best.pt", "evaluation.json", "scores", "result.json", "cell.json", ".safetensors")
"""What a cell writes; by the end or the beginning of names."""


@pytest.fixture
def study(tmp_path: Path, registries: None, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path / "cache"))
    found = tiny_studies.read(tiny_studies.write(tmp_path, seeds=1))
    found.config["trainer"] |= {"max_steps": 6, "eval_every": 3, "save_every": 2}
    for task in found.tasks.values():
        task.budgets = ["all"]
    return found


def run(study: Study, output: Path, *cells: Cell, together: bool = False) -> list[Report]:
    unit = Unit(list(cells), together)
    return list(runner.run_unit(Work(study, output, None, "a"), unit, Preparer(), Claims(os.urandom(4).hex())))


def cell_of(study: Study, regime: str) -> Cell:
    return tiny_studies.find(study, regime)[0]


def fail(monkeypatch: pytest.MonkeyPatch, kind: str, number: int = errno.ENOSPC) -> Callable[[], int]:
    """Let writes of a kind of file fail in their middle; returns how often that happened."""
    write, times = files.write_atomically, [0]

    def broken(path: Path, fill: Callable[[Any], Any]) -> None:
        def half(file: Any) -> None:
            fill(file)
            file.flush()
            os.truncate(file.name, os.path.getsize(file.name) // 2)
            times[0] += 1
            raise OSError(number, os.strerror(number))

        hit = path.name.endswith(kind) or path.name.startswith(kind)
        write(path, half if hit else fill)

    for module in _users_of(write):
        monkeypatch.setattr(module, "write_atomically", broken)
    return lambda: times[0]


def _users_of(write: Any) -> list[Any]:
    modules = [module for name, module in sys.modules.items() if name.startswith(("benchmark", "downstream"))]
    return [module for module in modules if getattr(module, "write_atomically", None) is write]


@pytest.mark.medium
def test_a_disk_that_is_full_at_any_kind_of_write(study: Study, tmp_path: Path) -> None:
    cells = [cell_of(study, "tuned"), cell_of(study, "sum")]
    assert {report.outcome for report in run(study, tmp_path / "here", *cells[:1])} == {"done"}
    assert {report.outcome for report in run(study, tmp_path / "here", *cells[1:])} == {"done"}
    hit = set()
    for kind in KINDS:
        output = tmp_path / kind.strip(".")
        cell = cells[kind == ".safetensors"]
        if kind == ".safetensors":
            shutil.rmtree(tmp_path / "cache" / "features")
        with pytest.MonkeyPatch.context() as patch:
            times = fail(patch, kind)
            (report,) = run(study, output, cell)
            if not times():
                continue
        hit.add(kind)
        assert report.outcome == "failed", kind
        assert "cannot write" in report.reason, kind
        assert os.strerror(errno.ENOSPC) in report.reason, kind
        assert (output / cell.folder / "error.txt").read_text().strip() == report.reason
        assert not (output / cell.folder / "cell.json").exists()
        assert not list(output.rglob("*.part"))
        (again,) = run(study, output, cell)
        assert again == Report(cell, "done"), kind
        assert not list(output.rglob("error.txt"))
    assert hit == {*KINDS} - {"scores"}
    alone = tiny_studies.outcomes(tmp_path / "here")
    for kind in hit:
        for name, outcome in tiny_studies.outcomes(tmp_path / kind.strip(".")).items():
            tiny_studies.assert_equal({name: outcome}, {name: alone[name]})


def test_a_disk_that_is_full_before_a_cell_begins(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(claim: claims.Claim) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cell = cell_of(study, "sum")
    with monkeypatch.context() as patch:
        patch.setattr(claims, "_write", full)
        (report,) = run(study, tmp_path / "out", cell)
    assert report.outcome == "failed"
    assert "No space left on device. Free some space or choose another folder with -o" in report.reason
    assert list((tmp_path / "out" / cell.folder).iterdir()) == []


def test_a_flipped_bit_in_a_shard_of_the_feature_store(
    study: Study, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = cell_of(study, "sum")
    monkeypatch.setattr(memory, "_SETTLED", 0.0)
    assert run(study, tmp_path / "first", cell) == [Report(cell, "done")]
    shard = max((tmp_path / "cache").rglob("*.safetensors"))
    assert run(study, tmp_path / "second", cell) == [Report(cell, "done")]
    assert "damaged" not in caplog.text
    content = bytearray(shard.read_bytes())
    content[-100] ^= 1
    shard.write_bytes(content)
    assert run(study, tmp_path / "third", cell) == [Report(cell, "done")]
    assert caplog.text.count(f"{shard} are damaged; it is removed, and its utterances are computed again") == 1
    assert not shard.exists()
    for path in (tmp_path / "cache").rglob("*.safetensors"):
        feature_shards.Shard(path).check()
    first, _, third = (tiny_studies.outcomes(tmp_path / name) for name in ("first", "second", "third"))
    assert first == third


@pytest.mark.parametrize("together", [False, True], ids=["alone", "together"])
def test_a_feature_store_that_vanishes(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    """Between the pass of the upstream and the first batch. A cell that trains with others then runs by itself."""
    from benchmark.engine.feature_store import FeatureStore

    fill, cell = FeatureStore.fill, cell_of(study, "sum")

    def vanishing(self: FeatureStore, *arguments: Any, **options: Any) -> float:
        used = fill(self, *arguments, **options)
        shutil.rmtree(self.root)
        self._shards, self._places = {}, {}
        return used

    with monkeypatch.context() as patch:
        patch.setattr(FeatureStore, "fill", vanishing)
        (report,) = run(study, tmp_path / "out", cell, together=together)
    assert report.outcome == ("alone" if together else "failed")
    assert "run again" in report.reason
    assert run(study, tmp_path / "out", cell) == [Report(cell, "done")]


def test_a_file_system_without_locks(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """NFS or Lustre that are mounted without: runs say so, and claims keep cells from being run twice."""
    import fcntl

    def none(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    cell = cell_of(study, "tuned")
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", none)
        other = Claims("other")
        assert other.take(tmp_path / "out" / cell.folder) is None
        (report,) = run(study, tmp_path / "out", cell)
        assert report.outcome == "taken"
        other.give_up(tmp_path / "out" / cell.folder)
        assert run(study, tmp_path / "out", cell) == [Report(cell, "done")]
    assert "cannot be locked" in caplog.text


def test_a_cache_that_is_read_only(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without kept states a cell needs no cache; with them, it says which folder cannot be written."""
    cache = tmp_path / "cache"
    mkdir = Path.mkdir

    def refused(self: Path, *arguments: Any, **options: Any) -> None:
        if self.is_relative_to(cache):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        mkdir(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refused)
        tuned, kept = cell_of(study, "tuned"), cell_of(study, "sum")
        assert run(study, tmp_path / "out", tuned) == [Report(tuned, "done")]
        (report,) = run(study, tmp_path / "out", kept)
        assert report.outcome == "failed"
        assert "Read-only file system" in report.reason
        assert str(cache) in report.reason
    assert run(study, tmp_path / "out", kept) == [Report(kept, "done")]


@pytest.mark.medium
def test_the_process_of_a_cell_is_killed(study: Study, tmp_path: Path) -> None:
    """By the kernel, for memory, say. The cell has failed, others go on; the next time it goes on where it was."""
    study.regimes = {"tuned": study.regimes["tuned"]}
    study.regimes["tuned"].config["trainer"] = {"max_steps": 90, "eval_every": 30, "save_every": 30}
    study.seeds = [0, 1]
    output = tmp_path / "out"
    first, second = recipe.cells(study)
    killed = threading.Event()

    def kill() -> None:
        while not killed.is_set():
            claim = claims.read(output / first.folder)
            saved = list((output / first.folder).rglob("last.pt"))
            if claim is not None and claim.owner is not None and saved:
                os.kill(claim.owner.pid, signal.SIGKILL)
                killed.set()
            time.sleep(0.01)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    failed = run_study(study, output, executor=Local(1))
    assert killed.is_set()
    assert failed == {first: "its process died (exit code -9); was there enough memory?"}
    told = {state.folder: state.what for state in status.states(output)}
    assert told == {first.folder.as_posix(): "failed", second.folder.as_posix(): "done"}
    kept = tiny_studies.marks(output)
    (again,) = run(study, output, first)
    assert again == Report(first, "done")
    tiny_studies.assert_kept(kept, output)
    assert "resuming at update" in next((output / first.folder).rglob("log.txt")).read_text()


ORPHAN = """
import os, sys
from pathlib import Path
from benchmark.study import recipe
from benchmark.study.executors import local
from benchmark.study.runner import Unit, Work

if __name__ == "__main__":
    study = recipe.read(Path(sys.argv[1]))
    cell = next(cell for cell in recipe.cells(study) if cell.regime == "tuned")
    pool = local._Pool(Work(study, Path(sys.argv[2]), None, "a"), [None])
    worker = pool._start()
    worker.pipe.send(Unit([cell]))
    print(worker.process.pid, flush=True)
    os._exit(0)
"""


@pytest.mark.medium
def test_a_command_is_killed_while_its_worker_starts(study: Study, tmp_path: Path) -> None:
    """The worker has been told what to run, and must not run it for nobody."""
    (tmp_path / "orphan.py").write_text(ORPHAN)
    command = [sys.executable, str(tmp_path / "orphan.py"), str(tmp_path / "recipe.yaml"), str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        worker = Path("/proc") / started.stdout.readline().strip()
    assert worker.name.isdigit()
    deadline = time.monotonic() + 300
    while worker.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not worker.exists()
    assert not list(tmp_path.rglob("cell.json"))


@pytest.mark.medium
def test_sigterm_and_sigkill_thirty_seconds_later(study: Study, tmp_path: Path) -> None:
    """As Kubernetes, systemd and schedulers end what runs: a cell has saved by then, though nothing was to be saved for
    long."""
    recipe_file = tmp_path / "recipe.yaml"
    tuned = {"max_steps": 60, "eval_every": 20, "save_every": 10_000}
    values = json.loads(recipe_file.read_text()) | {"regimes": {"tuned": {"regime": "finetune"}}}
    values["config"]["trainer"] |= tuned
    values["tasks"] = {"tone_sid": {"budgets": ["all"]}}
    recipe_file.write_text(json.dumps(values))
    output = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmark", "recipe", str(recipe_file), "-o", str(output), "--jobs", "1"],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "TONES_SLEEP": "0.1"}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if any("update 20: dev" in path.read_text() for path in output.rglob("log.txt")):
            break
        time.sleep(0.05)
    process.terminate()
    try:
        _, errors = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert "Traceback" not in errors
    study = tiny_studies.read(recipe_file)
    (cell,) = recipe.cells(study)
    assert [state.what for state in status.states(output)] == ["begun"]
    assert run(study, output, cell) == [Report(cell, "done")]
    (resumed,) = re.findall(r"resuming at update (\d+)", next((output / cell.folder).rglob("log.txt")).read_text())
    assert 20 <= int(resumed) < 60
    tiny_studies.assert_equal(tiny_studies.outcomes(output), tiny_studies.run_here(study, tmp_path / "here"))


def test_a_cell_is_not_run_where_its_folder_cannot_be_made(study: Study, tmp_path: Path) -> None:
    cell = cell_of(study, "sum")
    (tmp_path / "up").write_text("in the way")
    (report,) = run(study, tmp_path, cell)
    assert report.outcome == "failed"
    assert f"cannot write into {tmp_path / cell.folder}: Not a directory" in report.reason
    with pytest.raises(BenchmarkError, match="holds no study that was begun"):
        status.states(tmp_path)
