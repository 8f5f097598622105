"""``recipes/benchmarks/cost.py`` in its small form, and what it writes."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from support import REPOSITORY


@pytest.mark.slow
def test_the_small_form_measures_everything(tmp_path: Path) -> None:
    script = str(REPOSITORY / "recipes/benchmarks/cost.py")
    command = [sys.executable, script, "--small", "--steps", "8", "--hours", "0.03", "-o", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr[-3000:]
    with (tmp_path / "cost.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert int(row["cells"]) == 2 * 5 * 3 * (1 + 4)  # tasks, budgets, seeds; the sum and four layers
    assert int(row["study_ran"]) == int(row["exact_ran"]) == 2 * 2 * (1 + 4)
    seconds = {name: float(row[name]) for name in ("start", "study", "exact", "one_by_one", "commands")}
    assert min(seconds.values()) > 0
    assert seconds["one_by_one"] < seconds["commands"]
    assert float(row["fewer_than_commands"]) == pytest.approx(seconds["commands"] / seconds["study"], rel=1e-3)
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")
