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


def test_a_checkpoint_may_be_relative_to_its_recipe(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").touch()
    upstreams = "".join(f"  {key}: {{name: wav2vec2_local, checkpoint: {key}.pt}}\n" for key in ("weights", "others"))
    path = tmp_path / "study.yaml"
    path.write_text(f"name: s\nupstreams:\n{upstreams}tasks: {{voxceleb1_sid: {{}}}}\nregimes: {{frozen: {{}}}}\n")
    read = study.read(path).upstreams
    assert read["weights"].checkpoint == str(tmp_path / "weights.pt")
    assert read["others"].checkpoint == "others.pt"


def test_all_layers_load_an_upstream_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    def load(name: str, **options: object) -> SimpleNamespace:
        loaded.append(name)
        return SimpleNamespace(num_states={"fbank": 1, "wav2vec2_tiny": 4}[name])

    monkeypatch.setattr(registry, "load_upstream", load)
    layers = {"regime": "single_layer", "layers": "all"}
    values = {
        "name": "layers",
        "seeds": [0],
        "upstreams": {"a": {"name": "fbank"}, "b": {"name": "wav2vec2_tiny"}},
        "tasks": {"lid": {"budgets": ["all"]}, "sid": {"budgets": ["all"]}},
        "regimes": {"layers": layers, "again": layers},
    }
    cells = study.cells(study.parse(values, Path("layers.yaml")))
    assert loaded == ["fbank", "wav2vec2_tiny"]
    assert len(cells) == 4 * (1 + 4)
