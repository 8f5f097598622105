"""A study on a real Ray cluster of three nodes of this machine; nodes, workers and the head are killed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_studies
from support import REPOSITORY
from test_executors import Here

from benchmark.study import status
from benchmark.study.executors import run_study
from benchmark.study.recipe import Study

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'wavbench[ray]'")
cluster_utils = pytest.importorskip("ray.cluster_utils")

pytestmark = pytest.mark.slow

QUICK = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
    "enable_metrics_collection": False,
}
"""A cluster that notices soon that a node is gone."""


def children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid:
                found.append(int(entry.name))
    return found


def kill_node(node: Any) -> None:
    """As if its plug had been pulled: all processes at once."""
    (raylet,) = node.all_processes["raylet"]
    pids = [raylet.process.pid, *children(raylet.process.pid)]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def study(tmp_path: Path, registries: None, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path / "cache"))
    return tiny_studies.read(tiny_studies.write(tmp_path, seeds=5))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A head and two nodes; of which each test leaves less, in the order of the tests."""
    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 * 2**20, "_system_config": QUICK}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCHMARK_CACHE", str(tmp_path_factory.mktemp("cache")))  # of the nodes
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        found = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(2):
                found.add_node(num_cpus=1, object_store_memory=80 * 2**20)
            yield found
        finally:
            ray.shutdown()
            found.shutdown()


def when(reached: Callable[[], bool], act: Callable[[], None], seen: list[Any]) -> threading.Thread:
    """Watch, in a thread, and act once."""

    def watch() -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and not seen:
            if reached():
                act()
                seen.append(time.monotonic())
                return
            time.sleep(0.05)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_results_are_sent_back_and_a_worker_is_killed(study: Study, cluster: Any, tmp_path: Path) -> None:
    """The nodes have no folder in common with this process; one process of theirs is killed, as for its memory."""
    from benchmark.study.executors.ray import Ray

    study.seeds = [0, 1]
    output = tmp_path / "sent"
    killed: list[Any] = []

    def kill() -> None:
        node = next(iter(cluster.worker_nodes))
        for pid in children(node.all_processes["raylet"][0].process.pid):
            if b"ray::" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)

    thread = when(lambda: len(list(output.rglob("cell.json"))) >= 3, kill, killed)
    assert run_study(study, output, executor=Ray(cluster.address, send_back=True)) == {}
    thread.join()
    assert killed
    tiny_studies.assert_equal(tiny_studies.outcomes(output), tiny_studies.run_here(study, tmp_path / "here"))


def test_a_study_is_stopped_and_its_cells_have_saved(cluster: Any, tmp_path: Path, registries: None) -> None:
    """SIGTERM to the command cancels the tasks, which save, though nothing was to be saved for long."""
    recipe = tiny_studies.write(tmp_path, seeds=1)
    values = json.loads(recipe.read_text())
    values["regimes"] = {"tuned": values["regimes"]["tuned"]}
    values["config"]["trainer"] |= {"max_steps": 60, "eval_every": 20, "save_every": 10_000}
    recipe.write_text(json.dumps(values))
    study = tiny_studies.read(recipe)
    plugin = tmp_path / "plugin.py"  # from here on that of the nodes, which take their time
    plugin.write_text('import os\nos.environ["TONES_SLEEP"] = "0.1"\n' + plugin.read_text())
    output = tmp_path / "stopped"
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmark", "recipe", str(recipe), "-o", str(output), "--executor", "ray",
         "--address", cluster.address],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip

    def said(what: str) -> list[str]:
        return [found for path in output.rglob("log.txt") for found in re.findall(what, path.read_text())]

    deadline = time.monotonic() + 300
    while not said("update 20: dev") and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert not list(output.rglob("cell.json"))
    assert {state.what for state in status.states(output)} <= {"begun", "waiting"}
    assert run_study(study, output, executor=Here()) == {}
    assert any(20 <= int(number) < 60 for number in said(r"resuming at update (\d+)"))
    tiny_studies.assert_equal(tiny_studies.outcomes(output), tiny_studies.run_here(study, tmp_path / "here"))


def test_a_node_is_killed_in_the_middle(study: Study, cluster: Any, tmp_path: Path) -> None:
    from benchmark.study.executors.ray import Ray

    output = tmp_path / "ray"
    kept: dict[Path, tuple[int, int]] = {}
    killed: list[Any] = []

    def kill() -> None:
        kill_node(next(iter(cluster.worker_nodes)))
        kept.update(tiny_studies.marks(output))

    thread = when(lambda: len(list(output.rglob("cell.json"))) >= 8, kill, killed)
    assert run_study(study, output, executor=Ray(cluster.address)) == {}
    thread.join()
    assert killed
    assert len(kept) >= 16
    tiny_studies.assert_kept(kept, output)
    tiny_studies.assert_equal(tiny_studies.outcomes(output), tiny_studies.run_here(study, tmp_path / "here"))
    assert not list(output.rglob(".claim.*"))


def test_the_head_is_killed(study: Study, cluster: Any, tmp_path: Path) -> None:
    """The command ends, with one message; what was done is kept, and the study goes on, here without Ray."""
    output = tmp_path / "headless"
    command = [sys.executable, "-m", "benchmark", "recipe", str(tmp_path / "recipe.yaml"), "-o", str(output)]
    process = subprocess.Popen(
        [*command, "--executor", "ray", "--address", cluster.address],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not list(output.rglob("cell.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    for processes in cluster.head_node.all_processes.values():
        for each in processes:
            each.process.kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    assert "What is done is kept: run the study again to go on" in errors
    assert "Traceback" not in errors
    kept = tiny_studies.marks(output)
    assert kept
    until = time.monotonic() + 60
    while time.monotonic() < until and any(state.what == "running" for state in status.states(output)):
        time.sleep(0.5)  # workers end with their node
    study.seeds = [0]
    assert run_study(study, output, executor=Here()) == {}
    tiny_studies.assert_kept(kept, output)
