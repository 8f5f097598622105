"""What theory says of the study that `make demo` runs, on a part of it: two tasks, the small budgets, one seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import REPOSITORY

from benchmark import results
from benchmark.engine.prepare import Preparer
from benchmark.study import recipe, runner
from downstream.corpora.synthetic import synthesise

pytestmark = pytest.mark.slow  # trains for minutes

TASKS = ("voxceleb1_sv", "librispeech_asr")
METRIC = {"voxceleb1_sv": "eer", "librispeech_asr": "cer"}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[recipe.Cell, tuple[dict[str, Any], Path]]:
    """Cell -> its result and folder."""
    folder = tmp_path_factory.mktemp("demo")
    synthesise(folder / "data", ["VoxCeleb1", "LibriSpeech"], size="study", workers=1)
    read = recipe.read(REPOSITORY / "recipes" / "studies" / "demo" / "demo.yaml")
    read.seeds = [0]
    read.tasks = {name: read.tasks[name] for name in TASKS}
    del read.regimes["layers"]
    for task in read.tasks.values():
        task.budgets = ["3min", "9min"]
    read.regimes["finetuned"].budgets = ["3min"]
    read.upstreams["random_weights"].regimes = ["frozen", "finetuned"]  # the demo itself has it frozen, once
    read.upstreams["random_weights"].budgets = ["3min", "9min"]
    found = {}
    preparer = Preparer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCHMARK_CACHE", str(folder / "cache"))
        for cell in recipe.cells(read):
            chosen = runner.run_cell(read, cell, folder / "out", str(folder / "data"), preparer)["chosen"]
            path = folder / "out" / cell.folder / chosen
            found[cell] = (results.read(path / "result.json"), path)
    return found


def errors(
    outcome: dict[recipe.Cell, tuple[dict[str, Any], Path]], task: str, regime: str, budget: str
) -> tuple[float, float]:
    """Test error from pre-trained and from random weights, in percent."""
    pretrained, drawn = (
        outcome[recipe.Cell(upstream, task, regime, None, budget, 0)][0]["metrics"]["test"][METRIC[task]]
        for upstream in ("wav2vec2_tiny", "random_weights")
    )
    return pretrained, drawn


@pytest.mark.parametrize("budget", ["3min", "9min"])
@pytest.mark.parametrize("task", TASKS)
def test_frozen_random_weights_are_worse(outcome: Any, task: str, budget: str) -> None:
    pretrained, drawn = errors(outcome, task, "frozen", budget)
    assert pretrained + 2 < drawn


@pytest.mark.parametrize("task", TASKS)
def test_fine_tuning_from_random_weights_is_worse_with_few_labels(outcome: Any, task: str) -> None:
    pretrained, drawn = errors(outcome, task, "finetuned", "3min")
    assert pretrained + 2 < drawn


def test_more_labels_help_a_frozen_upstream(outcome: Any) -> None:
    more, fewer = (errors(outcome, "voxceleb1_sv", "frozen", budget)[0] for budget in ("9min", "3min"))
    assert more < fewer


def test_budgets_are_nested_and_the_same_for_all(outcome: Any) -> None:
    ids: dict[tuple[str, str], set[str]] = {}
    for cell, (result, path) in outcome.items():
        chosen = set((path / "budget.txt").read_text().split("\n")) - {""}
        assert len(chosen) == result["data"]["train"]["utterances"]
        assert ids.setdefault((cell.task, cell.budget), chosen) == chosen
    for task in TASKS:
        assert ids[task, "3min"] < ids[task, "9min"]


def test_results_tell_the_upstreams_apart(outcome: Any) -> None:
    for cell, (result, _) in outcome.items():
        assert result["upstream"]["random_weights"] == (cell.upstream == "random_weights")
        assert (result["upstream"]["sha256"] is None) == (cell.upstream == "random_weights")
