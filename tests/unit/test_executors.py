"""Who runs which cell, and how far a study is: claims, shards, commands that join, status."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import test_stacked
import tiny_studies
import torch
from support import Cli

from benchmark import registry, results
from benchmark.engine import checkpoint
from benchmark.engine.prepare import Preparer
from benchmark.engine.run import run
from benchmark.errors import BenchmarkError
from benchmark.study import claims, devices, recipe, runner, status
from benchmark.study.board import Board
from benchmark.study.claims import Claims
from benchmark.study.executors import run_study, stopped_by_signals
from benchmark.study.executors.slurm import restarts
from benchmark.study.recipe import Study
from benchmark.study.runner import Report, Unit, Work


class Here:
    """Runs units in this process."""

    def __init__(self, *, shared: bool = False, parts: int = 1, stop_after: int | None = None) -> None:
        self.shared, self.parts, self.stop_after = shared, parts, stop_after
        self.ran: list[Report] = []

    def slots(self, study: Study) -> int:
        return self.parts

    def run(self, board: Board) -> None:
        preparer, held = Preparer(), Claims(board.work.session)
        while board.look(0):
            if not board.waiting:
                time.sleep(0.05)
                continue
            unit = board.waiting.popleft()
            with contextlib.closing(runner.run_unit(board.work, unit, preparer, held)) as reports:
                for report in reports:
                    board.report(unit, report)
                    self.ran.append(report)
                    if len(self.ran) == self.stop_after:
                        raise KeyboardInterrupt


class Nowhere(Here):
    """Runs nothing."""

    def run(self, board: Board) -> None:
        pass


def gone(session: str = "before") -> claims.Owner:
    """A process of this machine that has ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    machine = claims.this_process("")
    return claims.Owner(machine.host, machine.machine, done.pid, "1", session)


def forge(folder: Path, owner: claims.Owner, number: int = 1, state: str = "running") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(1, number + 1):
        path = folder / f".claim.{i}"
        path.touch()
    claims._write(claims.Claim(path, number, 0, state, owner))
    return path


ELSEWHERE = claims.Owner("node7", "another boot", 1, "1", "other")


# --- Claims -----------------------------------------------------------------------------------------------------------


def test_a_cell_is_claimed_by_one(tmp_path: Path) -> None:
    mine, others = Claims("a"), Claims("a")
    assert mine.take(tmp_path / "cell") is None
    held = others.take(tmp_path / "cell")
    assert held is not None
    assert (held.state, held.owner) == ("running", mine.owner)
    mine.give_up(tmp_path / "cell")
    assert others.take(tmp_path / "cell") is None
    assert mine.take(tmp_path / "cell") is not None
    others.done(tmp_path / "cell")
    assert list((tmp_path / "cell").iterdir()) == []


@pytest.mark.parametrize("state", ["nothing", "free", "gone"])
def test_of_many_at_once_one_wins(tmp_path: Path, state: str) -> None:
    if state != "nothing":
        forge(tmp_path, gone(), state="free" if state == "free" else "running")
    barrier, won = threading.Barrier(12), []

    def take() -> None:
        own = Claims("a")
        barrier.wait()
        if own.take(tmp_path) is None:
            won.append(own)

    threads = [threading.Thread(target=take) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


def test_a_cell_that_failed_is_left_to_later_sessions(tmp_path: Path) -> None:
    first = Claims("a")
    assert first.take(tmp_path) is None
    first.give_up(tmp_path, failed=True)
    same = Claims("a").take(tmp_path)
    assert same is not None
    assert same.state == "failed"
    assert Claims("b").take(tmp_path) is None


def test_a_claim_of_another_machine_is_watched_by_our_stopwatch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clocks that jump, or differ, say nothing; only that the time of modification changes does."""
    path = forge(tmp_path, ELSEWHERE)
    now = [100.0]
    monkeypatch.setattr(claims.time, "monotonic", lambda: now[0])
    own = Claims("a")
    for stamp in (0.0, 4e9, 10.0, 3e9):  # 1970, 2096
        os.utime(path, (stamp, stamp))
        assert own.take(tmp_path) is not None
        now[0] += claims.SILENCE - 1
        assert own.take(tmp_path) is not None
    now[0] += 2
    assert own.take(tmp_path) is None
    assert sorted(found.name for found in tmp_path.iterdir()) == [".claim.1", ".claim.2"]


def test_a_claim_that_nobody_finished_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".claim.1").touch()
    own = Claims("a")
    held = own.take(tmp_path)
    assert held is not None
    assert held.owner is None
    monkeypatch.setattr(claims, "SILENCE", -1.0)
    assert own.take(tmp_path) is None


def test_a_process_that_slept_ends_when_its_cell_is_anothers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        own.give_up(tmp_path / "lost")
        ended.set()

    monkeypatch.setattr(claims, "BEAT", 0.01)
    monkeypatch.setattr(claims.os, "_exit", leave)
    own = Claims("a")
    assert own.take(tmp_path / "kept") is None
    assert own.take(tmp_path / "lost") is None
    first = claims.read(tmp_path / "kept")
    assert first is not None
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and claims.read(tmp_path / "kept") == first:
        time.sleep(0.01)  # until it is touched
    assert claims.read(tmp_path / "kept") != first
    forge(tmp_path / "lost", ELSEWHERE, 2)
    assert ended.wait(30)
    assert codes == [claims.LOST]


# --- Studies ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path: Path, registries: None, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path / "cache"))
    return tiny_studies.read(tiny_studies.write(tmp_path, seeds=1))


@pytest.mark.medium
def test_commands_that_join_leave_each_other_their_cells(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run_study(study, output, executor=Here(shared=True, parts=2, stop_after=4))
    first, second, third, *_ = sorted(tiny_studies.folders(study) - set(tiny_studies.outcomes(output)))
    forge(output / first, ELSEWHERE, 3)  # begun here, gone on with there
    forge(output / second, gone())
    forge(output / third, claims.Owner("node7", "another boot", 2, "1", "now"), state="failed")
    (output / third / "error.txt").write_text("no good\n")
    before = tiny_studies.marks(output)
    assert len(before) == 8
    told = {state.folder: state for state in status.states(output)}
    assert (told[first].what, told[second].what, told[third].what) == ("running", "silent", "failed")
    assert told[third].about == "no good"
    assert "8 cells: 4 done, 1 running, 1 silent, 1 failed, 1 " in status.describe(output)

    monkeypatch.setattr(claims, "SILENCE", 1.0)
    touching = threading.Event()

    def touch() -> None:
        while not touching.wait(0.05):
            os.utime(output / first / ".claim.3")

    thread = threading.Thread(target=touch)
    monkeypatch.setattr("benchmark.study.board.POLL", 0.05)
    monkeypatch.setattr(claims, "BEAT", 0.1)
    thread.start()
    try:
        failed = run_study(study, output, executor=Here(shared=True), session="now")
    finally:
        touching.set()
        thread.join()
    assert {cell.folder.as_posix(): reason for cell, reason in failed.items()} == {third: "no good"}
    assert set(tiny_studies.outcomes(output)) == tiny_studies.folders(study) - {first, third}
    tiny_studies.assert_kept(before, output)

    assert run_study(study, output, executor=Here()) == {}  # nobody touches the first one any more
    tiny_studies.assert_kept(before, output)
    tiny_studies.assert_equal(tiny_studies.outcomes(output), tiny_studies.run_here(study, tmp_path / "here"))
    assert not list(output.rglob(".claim*"))
    assert "8 done" in status.describe(output)


@pytest.mark.medium
def test_shards_are_all_cells_and_none_twice(study: Study, tmp_path: Path) -> None:
    ran = []
    for i in (1, 2, 3):
        here = Here(shared=True)
        assert run_study(study, tmp_path / "out", executor=here, shard=(i, 3), one_by_one=True) == {}
        ran += [report.cell for report in here.ran]
    assert sorted(map(str, ran)) == sorted(map(str, recipe.cells(study)))


def test_a_second_study_in_the_folder_is_refused(study: Study, tmp_path: Path) -> None:
    class Second(Here):
        def run(self, board: Board) -> None:
            run_study(study, tmp_path / "out", executor=Here())

    with pytest.raises(BenchmarkError, match=r"another process is running in .*out"):
        run_study(study, tmp_path / "out", executor=Second())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_study_in_the_background_hears_ctrl_c_as_its_cells_do(number: int) -> None:
    """A shell lets what it starts in the background ignore Ctrl-C. Cells heard it nevertheless, and their study, which
    did not, said that they had died."""
    former = signal.signal(number, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt), stopped_by_signals():
            signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, former)


def board(study: Study, output: Path, units: Sequence[Unit]) -> Board:
    return Board(Work(study, output, None, "a"), recipe.cells(study), units)


def test_what_a_dead_process_had_is_done_again_or_has_failed(study: Study, tmp_path: Path) -> None:
    cells = recipe.cells(study)
    few = cells[:3]
    ours = board(study, tmp_path, [])
    done = tmp_path / few[0].folder
    (done / "run").mkdir(parents=True)
    (done / "cell.json").write_text(json.dumps({"chosen": "run"}))
    (done / "run" / "result.json").write_text("{}")

    ours.again(Unit(list(few), together=True))
    assert ours.waiting.popleft() == Unit(few[1:], together=True)
    ours.died(Unit(list(few), together=True), "killed")
    assert [unit.cells for unit in ours.waiting] == [[few[1]], [few[2]]]
    assert ours.failed == {}
    ours.died(ours.waiting.popleft(), "killed")
    assert ours.failed == {few[1]: "killed"}


def test_cells_that_do_not_train_together_come_in_the_order_of_the_recipe(study: Study, tmp_path: Path) -> None:
    """They came last: after the fine-tuned cells, which start from their heads and take longer."""
    first, second, third, *more, last = recipe.cells(study)
    given, later = Unit([first, third], together=True), Unit(list(more), together=True)
    ours = board(study, tmp_path, [later, Unit([second]), Unit([last])])
    for cell in (third, first):
        ours.report(given, Report(cell, "alone", "its head needs all frames"))
    assert list(ours.waiting) == [later, *(Unit([cell]) for cell in (first, second, third, last))]


def test_a_group_that_is_restarted_is_cut_smaller(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one that is longer than a job's time limit would never end."""
    cells = recipe.cells(study)
    group = {"all": cells}
    assert [len(unit.cells) for unit in runner.units(cells, group, 1)] == [8]
    assert [len(unit.cells) for unit in runner.units(cells, group, 1, most=3)] == [3, 3, 2]
    monkeypatch.setenv("SLURM_RESTART_COUNT", "6")
    assert runner.MOST_TOGETHER >> restarts() == 0
    assert runner.units(cells, {}, 1, most=0) == [Unit([cell]) for cell in cells]


# --- The command ------------------------------------------------------------------------------------------------------


def test_status_of_a_folder(cli: Cli, tmp_path: Path) -> None:
    output = tmp_path / "results" / "tones"
    output.mkdir(parents=True)
    path = tiny_studies.write(tmp_path, seeds=1)
    said = cli("recipe", path, "--status")
    assert said.returncode == 1
    assert "holds no study that was begun" in said.stderr
    names = [f"up/tone_sid/sum/all/seed{i}" for i in range(5)]
    (output / status.PLAN).write_text("".join(f"{name}\n" for name in names))
    (output / names[0]).mkdir(parents=True)
    (output / names[0] / "cell.json").write_text("{}")
    forge(output / names[1], claims.this_process("a"))
    (output / names[1] / "lr=1").mkdir()
    (output / names[1] / "lr=1" / "log.txt").write_text("a\nupdate 10: dev 3\n")
    (output / names[2]).mkdir()
    (output / names[2] / "error.txt").write_text("broken\n")
    (output / names[3] / "run").mkdir(parents=True)
    for arguments in ([path], [output], [path, "-o", output]):
        said = cli("recipe", *arguments, "--status")
        assert said.returncode == 0, said.stderr
        counts, running, failed = said.stdout.splitlines()
        assert counts.endswith("5 cells: 1 done, 1 running, 1 failed, 1 begun, 1 waiting")
        assert f"process {os.getpid()}: lr=1: update 10: dev 3" in running
        assert failed == f"  failed: {names[2]}: broken"


@pytest.mark.parametrize("text", ["0/4", "5/4", "4", "a/b", "1/0"])
def test_shards_that_make_no_sense(cli: Cli, tmp_path: Path, text: str) -> None:
    said = cli("recipe", tiny_studies.write(tmp_path, seeds=1), "--shard", text)
    assert said.returncode == 2
    assert "expected I/N, such as 1/4" in said.stderr


def test_what_sbatch_is_given(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_studies.write(tmp_path, seeds=1)
    slurm: tuple[Any, ...] = ("recipe", path, "--executor", "slurm", "--data-root", tmp_path, "--jobs", 3)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    said = cli(*slurm)
    assert said.returncode == 1
    assert "sbatch is not found" in said.stderr
    assert "--shard" in said.stderr

    (tmp_path / "bin").mkdir()
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text('#!/bin/sh\nfor word; do echo "$word"; done > words\n/bin/cat > script\necho "17;cluster"\n')
    sbatch.chmod(0o755)
    said = cli(*slurm, "--time", "1:00:00", "--partition", "gpu", "--gres", "gpu:2", "--sbatch", "account=me")
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("job 17: 3 tasks")
    words = Path("words").read_text().splitlines()
    logs = Path("results/tones/slurm").resolve()
    expected = [
        "--parsable", "--job-name=tones", "--array=1-3", f"--output={logs}/%A_%a.txt", "--open-mode=append",
        "--requeue", "--signal=B:USR1@60", "--cpus-per-task=1", "--time=1:00:00", "--partition=gpu", "--gres=gpu:2",
        "--account=me",
    ]  # fmt: skip
    assert words == expected
    script = Path("script").read_text()
    assert script.startswith("#!/bin/sh\ntrap '' USR1\nexec ")
    assert f"recipe {path} --join -o {logs.parent} --per-gpu 1 --data-root {tmp_path}" in script

    sbatch.write_text("#!/bin/sh\necho 'invalid partition' >&2\nexit 1\n")
    said = cli(*slurm)
    assert said.returncode == 1
    assert "sbatch refuses: invalid partition" in said.stderr


def test_ray_that_is_not_installed(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    said = cli("recipe", tiny_studies.write(tmp_path, seeds=1), "--executor", "ray")
    assert said.returncode == 1
    assert "pip install 'wavbench[ray]'" in said.stderr


def test_a_job_has_the_cores_that_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_CPUS_ON_NODE", raising=False)
    assert 1 <= devices.cores() <= (os.cpu_count() or 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5}, raising=False)  # taskset, containers
    assert devices.cores() == 2
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "3")
    assert devices.cores() == 3


# --- What cells take from each other ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.03, 0.01])
def test_a_head_that_a_frozen_cell_has_trained_is_not_trained_again(
    registries: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float
) -> None:
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path / "cache"))
    path = tiny_studies.write(tmp_path, seeds=1)
    values = json.loads(path.read_text())
    probe = {"optim": {"lr": rate}, "features": {"keep": True}, "trainer": {"max_steps": 20}}
    values["regimes"]["tuned"]["config"] = {
        "tune": {"probe": probe},
        "optim": {"lr": 0.003, "upstream_lr": 0.001},
        "trainer": {"max_steps": 4},
    }
    path.write_text(json.dumps(values))
    study = tiny_studies.read(path)
    cell, other = (tiny_studies.find(study, regime)[0] for regime in ("tuned", "sum"))
    for output, cells in ((tmp_path / "alone", [cell]), (tmp_path / "after", [other, cell])):
        for one in cells:
            runner.run_cell(study, one, output, None)
    alone, after = (tiny_studies.outcomes(tmp_path / name) for name in ("alone", "after"))
    assert not test_stacked.differences(after[cell.folder.as_posix()], alone[cell.folder.as_posix()])
    costs = [results.read(tmp_path / name / cell.folder / "run" / "result.json")["cost"] for name in ("alone", "after")]
    assert costs[0]["probe_updates"] == costs[1]["probe_updates"] == 20
    assert costs[0]["audio_seconds_seen"] == costs[1]["audio_seconds_seen"]
    log = (tmp_path / "after" / cell.folder / "run" / "log.txt").read_text(encoding="utf-8")
    taken = f"before fine-tuning, as {tmp_path / 'after' / other.folder / 'run'} was trained"
    assert (taken in log) == (rate == 0.03)


def test_a_head_of_other_audio_is_trained_again(registries: None, tmp_path: Path) -> None:
    """Ids and labels are the same, and so is the digest of the data."""
    path = tiny_studies.write(tmp_path, seeds=1)
    values = json.loads(path.read_text())
    values["regimes"]["sum"]["config"]["data"] = {"root": str(tmp_path / "elsewhere")}
    probe = {"optim": {"lr": 0.03}, "features": {"keep": True}, "trainer": {"max_steps": 20}}
    values["regimes"]["tuned"]["config"] = {"tune": {"probe": probe}, "trainer": {"max_steps": 2}}
    path.write_text(json.dumps(values))
    study = tiny_studies.read(path)
    for regime in ("sum", "tuned"):
        cell = tiny_studies.find(study, regime)[0]
        runner.run_cell(study, cell, tmp_path / "out", None)
    log = (tmp_path / "out" / cell.folder / "run" / "log.txt").read_text(encoding="utf-8")
    assert "updates on the frozen upstream before fine-tuning" in log
    assert "was trained" not in log


# --- A study that is started again ------------------------------------------------------------------------------------


def test_a_checkpoint_may_move_but_not_change(
    registries: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path / "cache"))
    registry.upstreams.register("scaled", ScaledUpstream)
    path, study = tiny_studies.write(tmp_path, seeds=2), []
    for name, scale in (("a", "1.0"), ("moved", "1.0"), ("other", "3.0")):
        (tmp_path / name).write_text(scale)
        values = json.loads(path.read_text())
        values["upstreams"]["up"] = {"name": "scaled", "checkpoint": str(tmp_path / name)}
        values["regimes"] = {"sum": values["regimes"]["sum"]}
        path.write_text(json.dumps(values))
        study.append(tiny_studies.read(path))
    first, *_ = recipe.cells(study[0])
    runner.run_cell(study[0], first, tmp_path / "out", None)
    run_study(study[1], tmp_path / "out", executor=Here())
    assert len(tiny_studies.outcomes(tmp_path / "out")) == 4
    with pytest.raises(BenchmarkError, match=r"upstream\.checkpoint, whose weights are others: .*a -> .*other"):
        run_study(study[2], tmp_path / "out", executor=Here())
    (tmp_path / "moved").unlink()  # what is done needs it no more
    run_study(study[1], tmp_path / "out", executor=Nowhere())
    (settings,) = (one.settings for one in runner._runs(study[2], first, tmp_path / "out", None))
    with pytest.raises(BenchmarkError, match="was run with different upstream"):
        run(settings, tmp_path / "out" / first.folder / "run", resume=True)


class ScaledUpstream(test_stacked.ToyUpstream):
    def __init__(self, checkpoint: Any = None) -> None:
        super().__init__()
        if not Path(checkpoint).exists():
            raise BenchmarkError(f"checkpoint {checkpoint} does not exist")
        with torch.no_grad():
            self.layers[0].weight.mul_(float(Path(checkpoint).read_text()))
        self.info = {"sha256": Path(checkpoint).read_text()}


def test_what_a_dead_process_did_not_remove_is_removed(registries: None, study: Study, tmp_path: Path) -> None:
    cell = tiny_studies.find(study, "sum")[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "prune", lambda *_, **__: None)  # it was killed before
        runner.run_cell(study, cell, tmp_path, None)
    last = checkpoint.path(tmp_path / cell.folder / "run", "last")
    assert torch.load(last, weights_only=True)["optimizer"] is not None
    run_study(study, tmp_path, executor=Nowhere())
    assert torch.load(last, weights_only=True)["optimizer"] is not None  # nobody had claimed it
    claim = forge(tmp_path / cell.folder, gone())
    run_study(study, tmp_path, executor=Nowhere())
    assert torch.load(last, weights_only=True)["optimizer"] is None
    assert not claim.exists()


def test_another_study_in_the_folder_is_refused(registries: None, tmp_path: Path) -> None:
    """Its recipe was replaced, and its cells were in no report any more."""
    path = tiny_studies.write(tmp_path, seeds=1)
    run_study(tiny_studies.read(path), tmp_path / "out", executor=Nowhere())
    former = (tmp_path / "out" / "study.yaml").read_bytes()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"name": "another"}))
    with pytest.raises(BenchmarkError, match="holds the study 'tones', not 'another'"):
        run_study(tiny_studies.read(path), tmp_path / "out", executor=Nowhere())
    assert (tmp_path / "out" / "study.yaml").read_bytes() == former


def test_cells_that_the_recipe_has_no_more_are_named(
    registries: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tiny_studies.write(tmp_path, seeds=2)
    study = tiny_studies.read(path)
    done = tiny_studies.find(study, "sum")[0]
    run_study(study, tmp_path / "out", executor=Nowhere())
    runner.run_cell(study, done, tmp_path / "out", None)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seeds": [1]}))
    run_study(tiny_studies.read(path), tmp_path / "out", executor=Nowhere())
    assert f"no more in the recipe, and not in its report, though done: 1 cell: {done.folder}" in caplog.text


def test_damaged_leftovers_stop_nothing_that_is_done(registries: None, study: Study, tmp_path: Path) -> None:
    cell = tiny_studies.find(study, "sum")[0]
    folder = tmp_path / cell.folder / "run"
    runner.run_cell(study, cell, tmp_path, None)
    checkpoint.path(folder, "last").write_bytes(b"broken")
    claim = forge(tmp_path / cell.folder, gone())
    (tmp_path / "study.yaml").write_text("name: [")
    run_study(study, tmp_path, executor=Nowhere())
    assert not claim.exists()
    (settings,) = (one.settings for one in runner._runs(study, cell, tmp_path, None))
    assert run(settings, folder, resume=True).complete
