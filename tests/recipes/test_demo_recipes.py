"""Every regime of every study in recipes/studies/demo runs, for two updates on the smallest trees."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import REPOSITORY

from benchmark import results
from benchmark.study import runner as study
from benchmark.config import RunConfig
from downstream.corpora.synthetic import synthesise

RECIPES = sorted((REPOSITORY / "recipes" / "studies" / "demo").glob("*.yaml"))


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trees")
    synthesise(root, ["VoxCeleb1", "VoxLingua107", "LibriSpeech"], size="test", workers=1)
    return root


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_regime_runs(path: Path, trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHMARK_CACHE", str(trees / "cache"))
    compose = study.run_config

    def small(*arguments: object) -> RunConfig:
        run = compose(*arguments)  # type: ignore[arg-type]
        run.trainer.max_steps, run.trainer.eval_every, run.trainer.batch_size = 2, 2, 4
        if run.downstream == "voxceleb1_sv":
            run.task.dev_speakers = 2
        return run

    monkeypatch.setattr(study, "run_config", small)
    read = study.read(path)
    for task in read.tasks.values():
        task.budgets = ["all"]
    for part in (*read.upstreams.values(), *read.regimes.values()):
        part.budgets = None
    ran = set()
    for cell in study.cells(read):
        key = (cell.upstream, cell.task, cell.regime)
        if key in ran:
            continue
        ran.add(key)
        outcome = study.run_cell(read, cell, tmp_path, str(trees))
        assert len(outcome["tried"]) == len(study.candidates(read.regimes[cell.regime]))
        result = results.read(tmp_path / cell.folder / outcome["chosen"] / "result.json")
        assert result["regime"] == read.regimes[cell.regime].regime
        assert result["cost"]["updates"] == 2
        assert outcome["metric"] in result["metrics"]["test"]
    assert {key[1:] for key in ran} == {(task, regime) for task in read.tasks for regime in read.regimes}
