"""Trackers: what they are given, that a resumed run continues theirs, and that none of them stops or changes a run."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from toys import ToyUpstream, toy_corpus

from benchmark import config, registry, results
from benchmark.config import RunConfig
from benchmark.engine import prepare, trackers
from benchmark.engine.run import Outcome
from benchmark.engine.run import run as run_settings
from benchmark.engine.trackers import FILE, Tracker
from benchmark.engine.trainer import Trainer
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Corpus
from benchmark.study.recipe import cells, parse
from benchmark.study.runner import run_cell

CORPUS: dict[str, Corpus] = {}
CARD = {"name": "toy", "task": "toys:ToyTask", "corpus": "test_trackers:corpus", "config": {}}


def corpus(_: Path) -> Corpus:
    return CORPUS["toy"]


@pytest.fixture(autouse=True)
def _registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CORPUS["toy"] = toy_corpus(tmp_path)
    for of, name, target in ((registry.upstreams, "toy", ToyUpstream), (registry.downstreams, "toy", lambda: CARD)):
        monkeypatch.setattr(of, "_entries", dict(of._load()))
        of.register(name, target)
    monkeypatch.chdir(tmp_path)
    for name in (
        "WANDB_MODE",
        "WANDB_API_KEY",
        "MLFLOW_TRACKING_URI",
        "MLFLOW_EXPERIMENT_NAME",
        "MLFLOW_EXPERIMENT_ID",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # nobody has logged in
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()  # it keeps the environment of its first run


def configure(*names: str, **values: Any) -> RunConfig:
    options = {"max_steps": 4, "eval_every": 2, "save_every": 1, "log_every": 1} | values
    overrides = [f"trainer.{name}={value}" for name, value in options.items()]
    listed = ",".join(names)
    return prepare.configure("toy", [], [*overrides, "device=cpu", "upstream.name=toy", f"trainer.trackers=[{listed}]"])


def train(settings: RunConfig, folder: Path, **arguments: Any) -> Outcome:
    return run_settings(settings, folder, resume=True, **arguments)


class Killed(BaseException):
    pass


def killed_at(update: int, settings: RunConfig, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Train until a process dies in an update."""
    original = Trainer._update

    def dying(self: Trainer, batches: Any) -> Any:
        if self.step + 1 == update:
            raise Killed
        return original(self, batches)

    with patch.context() as here:
        here.setattr(Trainer, "_update", dying)
        with pytest.raises(Killed):
            train(settings, folder)


# -- the interface -----------------------------------------------------------------------------------------------------


class Notes(Tracker):
    """Notes what it is told."""

    told: list[tuple[Any, ...]]
    fails_at = ""

    def __init__(self, run: RunConfig, folder: Path, group: str | None, step: int, saved: dict[str, Any]) -> None:
        super().__init__(run, folder, group, step, saved or {"id": "n1"})
        self._note("start", step, dict(saved), group)

    def _note(self, *what: Any) -> None:
        self.told.append(what)
        if what[0] == self.fails_at:
            raise OSError("no network")

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._note("log", step, sorted(values))

    def attach(self, result: Mapping[str, Any]) -> None:
        self._note("attach", dict(result))

    def close(self, state: str) -> None:
        self._note("close", state)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    monkeypatch.setattr(Notes, "told", [], raising=False)
    monkeypatch.setitem(trackers.TRACKERS, "wandb", Notes)
    return Notes.told


def test_a_tracker_gets_curves_result_and_state(told: list[Any], tmp_path: Path) -> None:
    outcome = train(configure("wandb"), tmp_path / "run")
    assert [what[0] for what in told] == ["start", *["log"] * 6, "attach", "close"]
    curve = ["lr/head", "lr/weights", "train/gradient_norm", "train/loss"]
    assert [what[1:] for what in told[1:7]] == [
        (1, curve), (2, curve), (2, ["dev/toy_error"]), (3, curve), (4, curve), (4, ["dev/toy_error"]),
    ]  # fmt: skip
    assert told[7][1] == outcome.result
    assert told[8] == ("close", "finished")
    assert json.loads((tmp_path / "run" / FILE).read_text()) == {"wandb": {"id": "n1"}}
    train(configure("wandb"), tmp_path / "run", mode="evaluate")  # a second process attaches to the same
    assert [what[0] for what in told[9:]] == ["start", "attach", "close"]
    assert told[9] == ("start", 4, {"id": "n1"}, None)
    run_settings(configure("wandb"), tmp_path / "run", overwrite=True)
    assert told[12] == ("start", 0, {}, None)


def test_a_resumed_run_continues_its_tracker_run(
    told: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_at(3, configure("wandb"), tmp_path / "run", monkeypatch)
    assert told[-1] == ("close", "failed")
    train(configure("wandb"), tmp_path / "run")
    assert [what for what in told if what[0] == "start"] == [("start", 0, {}, None), ("start", 2, {"id": "n1"}, None)]


@pytest.mark.parametrize("when", ["start", "log", "attach", "close"])
def test_a_tracker_that_fails_is_a_warning(
    told: list[Any], when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = train(configure(), tmp_path / "without").result
    monkeypatch.setattr(Notes, "fails_at", when)
    with caplog.at_level(logging.WARNING, "wavbench"):
        result = train(configure("wandb"), tmp_path / "run").result
    assert result is not None
    assert expected is not None
    assert result["metrics"] == expected["metrics"]
    warnings = [record.getMessage() for record in caplog.records if "wandb" in record.getMessage()]
    assert set(warnings) == {"wandb: no network. The run continues without this tracker"}
    assert result["warnings"] == (warnings[:1] if when in ("start", "log") else [])
    if when in ("log", "attach"):  # what has failed before the end is tried once more with the result
        assert [what[0] for what in told].count("attach") == 1


def test_trackers_are_checked_and_change_nothing_that_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BenchmarkError, match=r"trainer\.trackers is 'wandbb'\. Did you mean 'wandb'"):
        configure("tensorboard", "wandbb")
    assert config.digest(configure()) == config.digest(configure("tensorboard", "mlflow"))
    train(configure(max_steps=2), tmp_path / "run")
    assert not (tmp_path / "run" / "tensorboard").exists()
    train(configure("tensorboard"), tmp_path / "tensorboard")
    assert len(list((tmp_path / "tensorboard" / "tensorboard").iterdir())) == 1
    assert not (tmp_path / "tensorboard" / FILE).exists()
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BenchmarkError, match=r"names wandb, which is not installed: pip install -e '\.\[wandb\]'"):
        train(configure("wandb"), tmp_path / "absent")


def test_a_study_groups_the_runs_of_a_cell(told: list[Any], tmp_path: Path) -> None:
    values = {
        "name": "question",
        "upstreams": {"up": {"name": "toy"}},
        "tasks": {
            "toy": {"config": {"device": "cpu", "trainer": {"max_steps": 2, "eval_every": 2, "trackers": ["wandb"]}}}
        },
        "regimes": {"frozen": {"regime": "frozen", "search": {"optim.lr": [0.001, 0.1]}}},
    }
    study = parse(values, tmp_path / "recipe.yaml")
    (cell,) = cells(study)
    run_cell(study, cell, tmp_path / "out", None)
    starts = [what for what in told if what[0] == "start"]
    group = "question/up/toy/frozen/all/seed0"
    assert [what[1:] for what in starts] == [(0, {}, group), (0, {}, group), (2, {"id": "n1"}, group)]
    assert [what[0] for what in told].count("attach") == 1


# -- the real ones -----------------------------------------------------------------------------------------------------


def wandb_records(folder: Path) -> bytes:
    sys.modules["wandb"].teardown()  # as at the end of a process: everything is written
    return b"".join(path.read_bytes() for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")))


@pytest.mark.medium  # starts W&B's service
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="pip install -e '.[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "a rün"
    killed_at(3, configure("wandb"), folder, monkeypatch)
    identity = json.loads((folder / FILE).read_text())["wandb"]["id"]
    result = train(configure("wandb"), folder, group="study/cell").result
    assert result is not None
    assert result["warnings"] == []
    parts = sorted(folder.glob("wandb/offline-run-*"))
    assert [part.name.rpartition("-")[2] for part in parts] == [identity] * 2
    records = wandb_records(folder)
    for word in ("train/loss", "dev/toy_error", "lr/head", "test/toy_error", "study/cell", "wavbench", "max_steps"):
        assert word.encode() in records, word
    attached = parts[1] / "files" / "wavbench_result.json"
    assert json.loads(attached.read_text()) == result
    assert (parts[1] / "files" / "wavbench_config.yaml").read_text() == (folder / "config.yaml").read_text()
    assert len(results.collect([tmp_path])) == 1  # what is attached is no second result


@pytest.mark.medium
@pytest.mark.parametrize(
    ("why", "says"), [("no login", "api key"), ("no network", "http://127.0.0.1:9 cannot be reached")]
)
def test_wandb_goes_offline(why: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="pip install -e '.[wandb]'")
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:  # answers 501 to everything
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        if why == "no network":
            monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
            monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        result = train(configure("wandb"), tmp_path / "run").result
        server.shutdown()
    assert result is not None
    (warning,) = result["warnings"]
    assert says in warning.lower().replace("_", " ")
    assert "recorded offline; upload it with wandb sync" in warning
    assert b"test/toy_error" in wandb_records(tmp_path / "run")


@pytest.mark.medium
def test_mlflow_in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="pip install -e '.[mlflow]'")
    uri = (tmp_path / "a störe").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    folder = tmp_path / "run"
    killed_at(4, configure("mlflow", save_every=2), folder, monkeypatch)  # saved at 2, logged up to 3
    client = mlflow.MlflowClient(tracking_uri=uri)
    (identity,) = (json.loads((folder / FILE).read_text())["mlflow"]["id"],)
    assert client.get_run(identity).info.status == "FAILED"
    result = train(configure("mlflow"), folder, group="study/cell").result
    assert result is not None
    assert result["warnings"] == []
    experiment = client.get_experiment_by_name("wavbench")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_id == identity
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "run"
    assert found.data.params["trainer.max_steps"] == "4"
    assert found.data.metrics["test/toy_error"] == result["metrics"]["test"]["toy_error"]
    assert found.data.metrics["cost/updates"] == 4
    assert [point.step for point in client.get_metric_history(identity, "train/loss")] == [1, 2, 3, 4]  # each once
    assert [point.step for point in client.get_metric_history(identity, "dev/toy_error")] == [2, 4]
    read = mlflow.artifacts.load_text(f"{found.info.artifact_uri}/wavbench_result.json")
    assert json.loads(read) == result
    assert len(results.collect([tmp_path])) == 1


@pytest.mark.medium
def test_mlflow_without_its_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="pip install -e '.[mlflow]'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    result = train(configure("mlflow", "tensorboard"), tmp_path / "run").result
    assert result is not None
    (warning,) = result["warnings"]
    assert warning.startswith("mlflow: ")
    assert warning.endswith("The run continues without this tracker")
    assert (tmp_path / "run" / "tensorboard").exists()


@pytest.mark.medium
def test_mlflow_by_default_writes_to_the_current_folder(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="pip install -e '.[mlflow]'")
    if trackers.importlib.util.find_spec("sqlalchemy"):
        pytest.skip("the whole of MLflow is installed, whose default is a database")
    result = train(configure("mlflow"), tmp_path / "run").result
    assert result is not None
    assert result["warnings"] == []
    assert list((tmp_path / "mlruns").rglob("wavbench_result.json"))
