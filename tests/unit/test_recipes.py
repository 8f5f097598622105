"""Every recipe that is shipped says something that can be run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import REPOSITORY

from benchmark import registry
from benchmark.errors import BenchmarkError
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


def search(path: Path, **search: object) -> study.Study:
    regime = {"regime": "frozen", "search": search}
    values = {"name": "s", "upstreams": {"fbank": {"name": "fbank"}}, "tasks": {"sid": {}}, "regimes": {"a": regime}}
    path.write_text(json.dumps(values))
    return study.read(path)


def test_candidates_have_folders_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    read = search(path, **{"optim.clip": [None, 0.1], "upstream.checkpoint": ["/a/b.pt"]})
    (cell,) = study.cells(read)
    candidates = study.candidates(read.regimes["a"])
    assert [study.candidate_name(one) for one in candidates] == [
        "clip=null-checkpoint=_a_b.pt", "clip=0.1-checkpoint=_a_b.pt",
    ]  # fmt: skip
    assert [study.run_config(read, cell, one, None).optim.clip for one in candidates] == [None, 0.1]
    with pytest.raises(BenchmarkError, match=r"the search of regime 'a' tries lr=0\.01 more than once"):
        search(path, **{"optim.lr": [0.01, 1e-2, 0.1]})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"regime": {}}, "unknown key 'regime'. Did you mean 'regimes'?"),
        ({"tasks": {"sid": {"budget": ["all"]}}}, "unknown key 'tasks.sid.budget'. Did you mean 'budgets'?"),
    ],
)
def test_an_unknown_key_is_answered_with_a_close_one(tmp_path: Path, wrong: dict[str, object], message: str) -> None:
    with pytest.raises(BenchmarkError, match=re.escape(f"recipe s.yaml: {message}")):
        study.parse({"name": "s", **wrong}, Path("s.yaml"))


def test_layers_of_a_recipe_are_counted_from_0() -> None:
    """Negative ones would be the same layers twice, under other numbers."""
    values = {
        "name": "s", "upstreams": {"a": {"name": "fbank"}}, "tasks": {"sid": {}},
        "regimes": {"one": {"regime": "single_layer", "layers": [0, -1]}},
    }  # fmt: skip
    with pytest.raises(BenchmarkError, match="layers of a recipe are counted from 0, found -1"):
        study.cells(study.parse(values, Path("s.yaml")))
