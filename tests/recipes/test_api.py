"""``import wavbench``: what a researcher types in a notebook."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from matplotlib.figure import Figure
from support import REPOSITORY, Cli, shared_folder

import wavbench
from benchmark import config
from benchmark.errors import BenchmarkError
from downstream.sv.task import SVConfig

SMALL: dict[str, Any] = {
    "task": {"head": {"size": 16, "pooled": 32}, "dev_speakers": 2},
    "crop_seconds": 1.0,
    "min_seconds": 0.5,
    "batch_size": 4,
    "accumulate": 1,
    "max_steps": 4,
    "eval_every": 2,
}
MEASURED = ("wall_seconds", "peak_memory_bytes")


@pytest.fixture(scope="session")
def sv_folder(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    def make(folder: Path) -> None:
        wavbench.run("wav2vec2_tiny", "voxceleb1_sv", folder=folder / "run", data_root=data_root, lr=1e-3, **SMALL)

    return shared_folder(tmp_path_factory, "api", make) / "run"


def comparable(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what depends on the process."""
    cost = {key: value for key, value in result["cost"].items() if key not in MEASURED}
    return {**result, "cost": cost, "provenance": None}


def test_the_command_and_python_give_the_same_result(sv_folder: Path, data_root: Path, cli: Cli) -> None:
    options = [
        "task.head.size=16", "task.head.pooled=32", "task.dev_speakers=2", "data.crop_seconds=1.0", "optim.lr=1e-3",
        "data.min_seconds=0.5", "trainer.batch_size=4", "trainer.accumulate=1", "trainer.eval_every=2",
    ]  # fmt: skip
    arguments = ("-u", "wav2vec2_tiny", "-d", "voxceleb1_sv", "--data-root", data_root, "--max-steps", 4, "-p", "run")
    assert cli(*arguments, "-o", *options).returncode == 0
    mine, theirs = (json.loads((folder / "result.json").read_text()) for folder in (sv_folder, Path("run")))
    assert comparable(mine) == comparable(theirs)
    for name in ("config.yaml", "scores.txt", "evaluation.json"):
        assert (sv_folder / name).read_text() == Path("run", name).read_text(), name


def test_a_complete_run_is_returned_as_it_is(sv_folder: Path, data_root: Path) -> None:
    before = (sv_folder / "log.txt").read_text()
    again = wavbench.run("wav2vec2_tiny", "voxceleb1_sv", folder=sv_folder, data_root=data_root, lr=1e-3, **SMALL)
    assert (sv_folder / "log.txt").read_text() == before
    assert again == json.loads((sv_folder / "result.json").read_text())
    assert again.folder == sv_folder
    assert "eer" in str(again)
    with pytest.raises(BenchmarkError, match="another configuration"):
        wavbench.run("wav2vec2_tiny", "voxceleb1_sv", folder=sv_folder, data_root=data_root, lr=1e-2, **SMALL)


def test_runs_of_other_precision_in_a_thread(tmp_path: Path, data_root: Path) -> None:
    results = {}

    def train(precision: str) -> None:
        results[precision] = wavbench.run(
            "wav2vec2_tiny", "voxceleb1_sv", folder=tmp_path / precision, data_root=data_root, layer=0, seed=1,
            precision=precision, **SMALL,
        )  # fmt: skip

    for precision in ("bf16", "no"):
        thread = threading.Thread(target=train, args=(precision,))
        thread.start()
        thread.join()
    assert results["bf16"]["regime"] == results["no"]["regime"] == "single_layer"
    assert "precision: bf16" in (tmp_path / "bf16" / "config.yaml").read_text()
    assert (results["no"]["state"], results["no"]["seed"]) == (0, 1)


def test_a_list_of_waveforms_goes_through_an_upstream() -> None:
    upstream = wavbench.load_upstream("wav2vec2_tiny")
    first, second = torch.randn(8000), np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    with torch.inference_mode():
        both, alone = upstream([first, second]), upstream([second])
    assert len(both.states) == upstream.num_states
    frames = int(alone.lengths[0])
    assert both.lengths.tolist() == [24, frames]
    torch.testing.assert_close(both.states[-1][1, :frames], alone.states[-1][0], rtol=1e-4, atol=1e-5)


def test_names_by_pattern() -> None:
    assert wavbench.list_upstreams("xls_r*") == ["xls_r_1b", "xls_r_2b", "xls_r_300m"]
    assert "voxceleb1_sv" in wavbench.list_downstreams("*_sv")


def test_a_trained_run_predicts(sv_folder: Path, tmp_path: Path, data_root: Path) -> None:
    wavs = [str(path) for path in sorted(data_root.rglob("*.wav"))[:2]]
    trained = wavbench.load_run(sv_folder)
    predictions = trained.predict(wavs)
    assert [prediction["id"] for prediction in predictions] == wavs
    assert len(predictions[0]["embedding"]) == 16
    assert trained.result["metrics"]["test"].keys() >= {"eer"}
    assert trained.config.optim.lr == 1e-3
    with pytest.raises(BenchmarkError, match="holds no run"):
        wavbench.load_run(tmp_path)


def test_results_are_flat_rows(sv_folder: Path) -> None:
    (row,) = wavbench.load_results(sv_folder)
    assert (row["upstream"], row["downstream"], row["regime"]) == ("wav2vec2_tiny", "voxceleb1_sv", "frozen")
    assert row["test/eer"] == json.loads((sv_folder / "result.json").read_text())["metrics"]["test"]["eer"]
    assert all(value is None or isinstance(value, str | int | float) for value in row.values())


def test_figures_are_returned(sv_folder: Path) -> None:
    result = json.loads((sv_folder / "result.json").read_text())
    for figure in (wavbench.plot_layer_weights(result), wavbench.plot_det(sv_folder)):
        assert isinstance(figure, Figure)
    with pytest.raises(BenchmarkError, match="no confusion matrix"):
        wavbench.plot_confusion(sv_folder)
    with pytest.raises(BenchmarkError, match="layer"):
        wavbench.plot_layer_weights({**result, "layer_weights": None})


def test_a_study_and_its_report(tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = {
        "name": "small",
        "upstreams": {"tiny": {"name": "wav2vec2_tiny"}},
        "tasks": {"voxceleb1_sid": {}},
        "regimes": {"frozen": {}},
        "config": {"trainer": {"max_steps": 2, "batch_size": 2, "accumulate": 1}},
    }
    Path("recipe.yaml").write_text(json.dumps(recipe))
    rows = wavbench.study("recipe.yaml", data_root=data_root, jobs=1)
    assert [row["downstream"] for row in rows] == ["voxceleb1_sid"]
    page = wavbench.report("results/small", output=tmp_path / "page.html")
    assert "voxceleb1_sid" in page.read_text()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"lr": 0.5}, {"optim": {"lr": 0.5}}),
        ({"optim__lr": 0.5}, {"optim": {"lr": 0.5}}),
        ({"optim": {"lr": 0.5}}, {"optim": {"lr": 0.5}}),
        ({"seed": 3}, {"seed": 3}),
        ({"trials": "a.txt"}, None),
        ({"data__trials": "a.txt"}, {"data": {"trials": "a.txt"}}),
        ({"task__trials": "x"}, {"task": {"trials": "x"}}),
        ({"upstream": {"options": {"random_weights": True}}}, {"upstream": {"options": {"random_weights": True}}}),
    ],
)
def test_values_by_keyword(values: dict[str, Any], expected: dict[str, Any] | None) -> None:
    if expected is None:
        with pytest.raises(BenchmarkError, match=r"'trials' names several options: .*write task__trials="):
            config.expand(values, SVConfig)
    else:
        assert [nested for _, nested in config.expand(values, SVConfig)] == [expected]


def test_an_unknown_keyword_is_named() -> None:
    with pytest.raises(BenchmarkError, match=r"unknown option 'learning_rate'\."):
        wavbench.run("wav2vec2_tiny", "voxceleb1_sv", learning_rate=1)
    with pytest.raises(BenchmarkError, match="Did you mean 'max_steps'"):
        wavbench.run("wav2vec2_tiny", "voxceleb1_sv", max_step=1)


@pytest.mark.parametrize("name", ["benchmark", "upstream", "downstream"])
def test_a_package_of_the_same_name_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    path = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    done = subprocess.run(
        [sys.executable, "-c", "import wavbench"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"ImportError: wavbench needs its own package '{name}', but Python finds another one first" in done.stderr


def test_audio_that_is_not_there_is_named(tmp_path: Path, sv_folder: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(16000, dtype=np.float32), 16000)
    with pytest.raises(BenchmarkError, match=r"b\.wav"):
        wavbench.load_run(sv_folder).predict([tmp_path / "a.wav", tmp_path / "b.wav"])
