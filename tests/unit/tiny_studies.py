"""A study of tiny cells, most of which train together, for executors: as files, for other processes to read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import test_stacked
from support import REPOSITORY

from benchmark import results
from benchmark.engine.prepare import Preparer
from benchmark.study import recipe, runner
from benchmark.study.claims import Claims
from benchmark.study.recipe import Cell, Study

PLUGIN = """
import os
import sys
import time
from pathlib import Path
sys.path[:0] = {paths!r}
import test_stacked
from benchmark import registry
from benchmark.engine.trainer import Trainer
if not test_stacked.CORPUS:
    test_stacked.CORPUS["tones"] = test_stacked.tones(Path({data!r}))
if "tone_upstream" not in registry.upstreams:
    test_stacked.register()
if "TONES_SLEEP" in os.environ and not hasattr(Trainer, "quick_update"):
    def update(self, batches):
        time.sleep(float(os.environ["TONES_SLEEP"]))
        return self.quick_update(batches)
    Trainer.quick_update, Trainer._update = Trainer._update, update
"""
"""``$TONES_SLEEP``: seconds before each update of a cell that is run by itself, so that something can happen to it."""


def write(folder: Path, *, seeds: int, tuned: Mapping[str, Any] | None = None) -> Path:
    """The recipe: of each seed, eight cells, of which two do not train with others.

    Args:
        folder: where to; exists.
        seeds: how many.
        tuned: values over the trainer's, of the cells that are run one by one.
    """
    (folder / "data").mkdir(exist_ok=True)
    paths = [str(REPOSITORY / "tests"), str(REPOSITORY / "tests" / "unit"), str(REPOSITORY)]
    (folder / "plugin.py").write_text(PLUGIN.format(paths=paths, data=str(folder / "data")))
    study = {
        "name": "tones",
        "plugins": ["plugin.py"],
        "seeds": list(range(seeds)),
        "upstreams": {"up": {"name": "tone_upstream"}},
        "tasks": {"tone_sid": {"budgets": ["30utt", "all"]}},
        "config": {
            "device": "cpu",
            "optim": {"lr": 0.03},
            "trainer": {"max_steps": 20, "eval_every": 10, "batch_size": 8, "trackers": [], "save_every": 5},
        },
        "regimes": {
            "sum": {"regime": "frozen", "config": {"features": {"keep": True}}},
            "layers": {"regime": "single_layer", "layers": [1, 2], "config": {"features": {"keep": True}}},
            "tuned": {"regime": "finetune", "config": {"trainer": dict(tuned or {})}},
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(study))
    return path


def read(path: Path) -> Study:
    """The recipe, its plug-in loaded."""
    return recipe.read(path)


def run_here(study: Study, output: Path) -> dict[str, Any]:
    """Run all cells in this process, those that can together; returns :func:`outcomes`."""
    work = runner.Work(study, output, None, "alone")
    cells = recipe.cells(study)
    preparer, claims = Preparer(), Claims("alone")
    for unit in runner.units(cells, runner.groups(work, cells), 1):
        for report in runner.run_unit(work, unit, preparer, claims):
            assert report.outcome == "done", report
    return outcomes(output)


def outcomes(output: Path) -> dict[str, Any]:
    """What the cells found."""
    found = {}
    for path in sorted(output.rglob("cell.json")):
        cell = json.loads(path.read_text())
        result = results.read(path.parent / cell["chosen"] / "result.json")
        found[str(path.parent.relative_to(output))] = {"cell": cell, "metrics": result["metrics"]}
    return found


def assert_equal(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Outcomes are the same; sums in stacks of other cells are rounded otherwise."""
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert not test_stacked.differences(ours[name], theirs[name]), name


def marks(output: Path) -> dict[Path, tuple[int, int]]:
    """What changes of a cell that is done when it is written again."""
    found = {}
    for path in output.rglob("cell.json"):
        for file in (path, *path.parent.rglob("result.json")):
            status = file.stat()
            found[file] = status.st_mtime_ns, status.st_ino
    return found


def assert_kept(before: Mapping[Path, tuple[int, int]], output: Path) -> None:
    """None of the cells that were done was run again."""
    now = marks(output)
    assert {path: now[path] for path in before} == before


def folders(study: Study) -> set[str]:
    """Of all cells."""
    return {cell.folder.as_posix() for cell in recipe.cells(study)}


def find(study: Study, regime: str) -> list[Cell]:
    """The cells of a regime."""
    return [cell for cell in recipe.cells(study) if cell.regime == regime]
