"""Preparing, predicting and evaluating elsewhere, with the smallest task that the engine accepts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import ToyTask, ToyUpstream, toy_corpus

from benchmark import config, registry
from benchmark.data import manifest
from benchmark.engine import predict, run as experiment
from benchmark.config import RunConfig
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Corpus, Utterance

CORPUS: dict[str, Corpus] = {}


class LabelledToyTask(ToyTask):
    """Needs 8 frames; can be evaluated on other splits."""

    def frames_needed(self, utterance: Utterance) -> int:
        return 8

    def retarget(self, name: str, corpus: Corpus) -> None:
        if name not in corpus.splits:
            raise BenchmarkError(f"no split '{name}'")
        self.splits["test"] = corpus.splits[name]


class WholeToyTask(ToyTask):
    croppable = False


def corpus(_: Path) -> Corpus:
    return CORPUS["toy"]


CARD = {"name": "toy", "task": "test_experiment:LabelledToyTask", "corpus": "test_experiment:corpus", "config": {}}


@pytest.fixture(autouse=True)
def _registered(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    CORPUS["toy"] = toy_corpus(tmp_path_factory.mktemp("toy"))
    for of, name, target in (
        (registry.upstreams, "toy", ToyUpstream),
        (registry.downstreams, "toy", lambda: CARD),
    ):
        monkeypatch.setattr(of, "_entries", dict(of._load()))
        of.register(name, target)


def configure(*overrides: str, card: dict[str, Any] = CARD) -> RunConfig:
    small = ["trainer.max_steps=4", "trainer.eval_every=2", "device=cpu", "upstream.name=toy"]
    return config.compose(card, experiment.task_class(card).Config, [], [*small, *overrides])


def test_what_cannot_be_trained_on_is_left_out_and_counted() -> None:
    seconds = [0.1, 0.15, 0.3, 0.4]  # at 320 samples a frame: 4, 6, 13, 18 frames
    train = CORPUS["toy"].splits["train"]
    CORPUS["toy"].splits["train"] = [Utterance(f"t{s}", train[0].path, duration=s) for s in seconds if s <= 0.1] + train
    prepared = experiment.prepare(configure("data.min_seconds=0.11"), CARD)
    frames = ToyUpstream().output_lengths(torch.tensor((prepared.seconds("train") * 16000).astype(np.int64)))
    assert int(frames.min()) >= 8
    assert prepared.dropped["too short"] >= 1
    assert sum(prepared.dropped.values()) + len(prepared.task.splits["train"]) == 11
    assert "left out" in "\n".join(experiment.describe(prepared))
    with pytest.raises(BenchmarkError, match=r"no training utterance is left: 11 are not longer than .*9"):
        experiment.prepare(configure("data.min_seconds=9"), CARD)


def test_crops_are_refused_where_labels_belong_to_the_whole() -> None:
    card = CARD | {"task": "test_experiment:WholeToyTask"}
    with pytest.raises(BenchmarkError, match=r"data\.crop_seconds=0\.2: .* set it to null"):
        experiment.prepare(configure("data.crop_seconds=0.2", card=card), card)


def test_an_utterance_in_two_splits_is_found() -> None:
    CORPUS["toy"].splits["test"] = [*CORPUS["toy"].splits["test"], CORPUS["toy"].splits["train"][3]]
    with pytest.raises(BenchmarkError, match=r"train3.*|.*train.*test"):
        experiment.prepare(configure(), CARD)


def test_own_data_belongs_to_its_own_downstreams() -> None:
    with pytest.raises(BenchmarkError, match=r"--train, --trials: 'toy' is a protocol"):
        experiment.prepare(configure("data.train=a.jsonl", "data.trials=b.txt"), CARD)
    card = CARD | {"corpus": manifest.OWN_DATA}
    with pytest.raises(BenchmarkError, match=r"--test missing\. Give manifests"):
        experiment.prepare(configure("data.train=a.jsonl", card=card), card)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    run = configure()
    experiment.train(experiment.prepare(run, CARD), tmp_path / "run", resume=False)
    return tmp_path / "run"


def test_evaluating_on_another_split(trained: Path) -> None:
    run = configure()
    result = experiment.evaluate(
        experiment.prepare(run, CARD, experiment.Target("dev")), trained, trained / "evaluations" / "dev"
    )
    assert result["downstream"]["evaluated"] == "dev"
    assert result["metrics"]["test"] == result["metrics"]["dev"]  # the same utterances
    assert result["data"]["test"]["digest"] == result["data"]["dev"]["digest"]
    assert (trained / "evaluations" / "dev" / "result.json").exists()
    own = json.loads((trained / "result.json").read_text())
    assert own["downstream"]["evaluated"] == "test"
    assert own["metrics"]["test"] != own["metrics"]["dev"]
    with pytest.raises(BenchmarkError, match="no split 'devv'"):
        experiment.prepare(run, CARD, experiment.Target("devv"))


def test_predictions_need_no_corpus(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored = dict(line.split() for line in (trained / "scores_test.txt").read_text().splitlines())
    utterances = CORPUS["toy"].splits["test"]
    monkeypatch.setattr("test_experiment.corpus", None)
    predictor = predict.Predictor(trained)
    for batch_size in (1, 3):
        found = dict(predictor(utterances, batch_size=batch_size))
        assert found.keys() == scored.keys()
        for name, value in found.items():
            assert float(value) == pytest.approx(float(scored[name]), abs=1e-6)
    assert predictor.present(0.75) == {"class": "high", "probability": 0.75}


def test_the_predict_command(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [utterance.path for utterance in CORPUS["toy"].splits["test"][:3]]
    assert predict.main([str(trained), *files]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["id"] for line in lines] == files
    assert {line["class"] for line in lines} <= {"low", "high"}
    assert predict.main([str(trained), *files, "-o", str(tmp_path / "out.jsonl"), "--batch-size", "2"]) == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3
    for arguments, message in (
        ([str(tmp_path), *files], "holds no run"),
        ([str(trained), files[0], files[0]], "occurs twice"),
        ([str(trained), str(tmp_path / "absent.wav")], r"absent\.wav"),
        ([str(trained), *files, "-o", "x.npz"], r"\.npz is for embeddings"),
        ([str(trained), *files, "-o", "x.txt"], r"ends in \.jsonl or \.npz"),
    ):
        with pytest.raises(BenchmarkError, match=message):
            predict.main(arguments)


def test_an_npz_may_hold_any_id(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {"embedding": [1.0, 2.0]}
    monkeypatch.setattr(predict.Predictor, "present", lambda self, prediction: shown)
    audio_file = CORPUS["toy"].splits["test"][0].path
    (tmp_path / "one.jsonl").write_text(json.dumps({"id": "file", "path": audio_file}) + "\n")
    assert predict.main([str(trained), str(tmp_path / "one.jsonl"), "-o", str(tmp_path / "e.npz")]) == 0
    assert np.load(tmp_path / "e.npz")["file"].tolist() == [1.0, 2.0]


def test_predictions_by_other_weights_are_refused(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(ToyUpstream):
        def __init__(self) -> None:
            super().__init__()
            self.layers[0].weight.data.mul_(2)

    monkeypatch.setitem(registry.upstreams._load(), "toy", registry.Entry("toy", Other))
    with pytest.raises(BenchmarkError, match="was trained on other weights of 'toy'"):
        predict.Predictor(trained)


def test_a_run_without_a_checkpoint_cannot_predict(trained: Path) -> None:
    (trained / "checkpoints" / "best.pt").unlink()
    with pytest.raises(BenchmarkError, match=r"no checkpoints/best\.pt"):
        predict.Predictor(trained)


def test_a_label_budget_cuts_the_training_split_only(tmp_path: Path) -> None:
    whole = experiment.prepare(configure(), CARD)
    cut = experiment.prepare(configure("budget=5utt", "seed=1"), CARD)
    assert len(cut.task.splits["train"]) == 5
    for name in ("dev", "test"):
        assert cut.task.splits[name] == whole.task.splits[name]
    result = experiment.train(cut, tmp_path / "run", resume=False)
    assert result["budget"] == {"name": "5utt", "seed": 1}
    assert result["data"]["train"]["utterances"] == 5
    assert (tmp_path / "run" / "budget.txt").read_text().split() == [u.id for u in cut.task.splits["train"]]
    with pytest.raises(BenchmarkError, match="'five' is no budget"):
        configure("budget=five")


def test_options_for_training_go_to_upstreams_that_have_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Tunable(ToyUpstream):
        def __init__(self, dropout: float = 0.0) -> None:
            super().__init__()
            self.dropout.p = dropout

    monkeypatch.setitem(registry.upstreams._load(), "toy", registry.Entry("toy", Tunable))
    card = CARD | {"finetune": {"tune": {"options": {"dropout": 0.25, "layerdrop": 0.1}}}}
    assert experiment.prepare(configure(card=card), card).upstream.dropout.p == 0.0
    assert "layerdrop" not in caplog.text
    tuned = experiment.prepare(configure("regime=finetune", card=card), card)
    assert tuned.upstream.dropout.p == 0.25
    assert "has no option layerdrop (tune.options)" in caplog.text
    said = experiment.prepare(configure("regime=finetune", "upstream.options.dropout=0.5", card=card), card)
    assert said.upstream.dropout.p == 0.5
