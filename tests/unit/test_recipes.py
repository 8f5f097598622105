"""Every recipe that is shipped says something that can be run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from support import REPOSITORY

from benchmark import registry
from benchmark.study import recipe as study

STUDIES = REPOSITORY / "recipes" / "studies"
SMALL = {"real.yaml"}
"""Their corpora are small and fetched by ``make``: they are run as they are."""
RECIPES = sorted([*STUDIES.glob("*.yaml"), *STUDIES.glob("demo/*.yaml")])


@pytest.mark.medium
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(STUDIES)))
def test_a_recipe_makes_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the checkpoints are not here
    monkeypatch.setattr(registry, "load_upstream", lambda *_, **__: SimpleNamespace(num_states=13))
    read = study.read(path)
    cells = study.cells(read)
    assert cells
    assert read.question
    seen = set()
    for cell in cells:
        key = (cell.upstream, cell.task, cell.regime, cell.budget)
        if key in seen:
            continue
        seen.add(key)
        for candidate in study.candidates(read.regimes[cell.regime]):
            run = study.run_config(read, cell, candidate, None)
            assert run.budget == cell.budget
            assert run.regime == read.regimes[cell.regime].regime


def test_each_recipe_has_a_demo_variant() -> None:
    full = {path.name for path in STUDIES.glob("*.yaml")}
    assert len(full) >= 5
    assert full - SMALL <= {path.name for path in STUDIES.glob("demo/*.yaml")}
    for path in STUDIES.glob("demo/*.yaml"):
        assert study.read(path).synthetic
