"""Every regime of every study in recipes/studies/demo runs, for two updates on the smallest trees."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import REPOSITORY

from benchmark import results
from benchmark.config import RunConfig
from benchmark.engine.prepare import Preparer
from benchmark.study import recipe, runner

RECIPES = sorted((REPOSITORY / "recipes" / "studies" / "demo").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_regime_runs(path: Path, corpora_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path / "cache"))
    compose = runner.run_config

    def small(*arguments: object) -> RunConfig:
        run = compose(*arguments)  # type: ignore[arg-type]
        run.trainer.max_steps, run.trainer.eval_every, run.trainer.batch_size = 2, 2, 4
        if run.downstream == "voxceleb1_sv":
            run.task.dev_speakers = 2
        return run

    monkeypatch.setattr(runner, "run_config", small)
    read = recipe.read(path)
    preparer = Preparer()
    for task in read.tasks.values():
        task.budgets = ["all"]
    for part in (*read.upstreams.values(), *read.regimes.values()):
        part.budgets = None
    ran = set()
    for cell in recipe.cells(read):
        key = (cell.upstream, cell.task, cell.regime)
        if key in ran:
            continue
        ran.add(key)
        outcome = runner.run_cell(read, cell, tmp_path, str(corpora_root), preparer)
        assert len(outcome["tried"]) == len(recipe.candidates(read.regimes[cell.regime]))
        result = results.read(tmp_path / cell.folder / outcome["chosen"] / "result.json")
        assert result["regime"] == read.regimes[cell.regime].regime
        assert result["cost"]["updates"] == 2
        assert outcome["metric"] in result["metrics"]["test"]
    assert {key[1:] for key in ran} == {(task, regime) for task in read.tasks for regime in read.regimes}
