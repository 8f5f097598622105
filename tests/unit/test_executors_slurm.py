"""A study on a real Slurm of this machine: jobs are preempted, requeued and out of time."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny_studies
from support import REPOSITORY

from benchmark.study import status

START = REPOSITORY / "tests" / "slurm" / "start.sh"
MISSING = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING), reason=f"Slurm is not installed ({', '.join(MISSING)}): apt-get install slurmctld slurmd munge"
    ),
]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Slurm, in the environment."""
    started = subprocess.Popen(
        [START, tmp_path / "slurm", "3"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        assert started.stdout is not None
        line = started.stdout.readline().strip()
        if not line:
            _, errors = started.communicate(timeout=60)
            if started.returncode == 3:
                pytest.skip(errors.strip())
            pytest.fail(errors)
        monkeypatch.setenv(*line.split("=", 1))
        yield
    finally:
        subprocess.run(["scancel", "--user=root"], capture_output=True)
        assert started.stdin is not None
        started.stdin.close()
        started.wait(timeout=60)


def until(reached: Callable[[], object], what: str, seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.2)


def ask(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


@pytest.mark.usefixtures("slurm", "registries")
def test_jobs_that_are_preempted_requeued_and_out_of_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    recipe = tiny_studies.write(tmp_path, seeds=2, tuned={"max_steps": 200, "eval_every": 100, "save_every": 50})
    study = tiny_studies.read(recipe)
    output = tmp_path / "slurm-study"
    monkeypatch.setenv("TONES_SLEEP", "0.1")  # for the jobs; the recipe has been read here
    submitted = ask(
        sys.executable, "-m", "benchmark", "recipe", str(recipe), "-o", str(output), "--executor", "slurm",
        "--jobs", "3", "--time", "20", "--partition", "all", "--grace", "90", "--sbatch", "comment=tones",
    )  # fmt: skip
    job = re.findall(r"^job (\d+): 3 tasks", submitted)[0]

    def log(number: int) -> str:
        path = output / "slurm" / f"{job}_{number}.txt"
        return path.read_text() if path.exists() else ""

    until(lambda: all("cell/s" in log(number) for number in (1, 2, 3)), "the three tasks")
    ask("scontrol", "update", f"JobId={job}_3", "TimeLimit=2")  # Slurm looks at limits twice a minute
    until(lambda: list(output.rglob("cell.json")), "the first cells")
    kept = tiny_studies.marks(output)
    ask("scancel", "--batch", "--signal=USR1", f"{job}_1")
    ask("scontrol", "requeue", f"{job}_2")
    until(lambda: f"requeue job {job}_3" in log(3), "the end of the third task's time")
    ask("scontrol", "update", f"JobId={job}_3", "TimeLimit=20")
    until(lambda: not ask("squeue", "--noheader", f"--job={job}"), "the end of the array")
    logs = {number: log(number) for number in (1, 2, 3)}
    for number in (1, 2, 3):
        assert re.search(r"Restarts=[1-9]", ask("scontrol", "show", "job", f"{job}_{number}")), logs
    assert f"stopped and saved; asking Slurm to requeue job {job}_1" in logs[1]
    assert "16 done" in status.describe(output)
    tiny_studies.assert_kept(kept, output)
    tiny_studies.assert_equal(tiny_studies.outcomes(output), tiny_studies.run_here(study, tmp_path / "here"))
    assert not list(output.rglob("error.txt"))
