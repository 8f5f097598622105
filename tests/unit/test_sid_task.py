"""Speaker identification on a corpus made of names only."""

from __future__ import annotations

import json
import logging
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, top_k_accuracy_score
from tasks import make_task, options

from benchmark.errors import BenchmarkError
from benchmark.evaluation import Classes
from benchmark.interfaces import Corpus, Target, Utterance
from benchmark.registry import downstreams
from downstream.classification import ClassificationConfig
from downstream.classifier import Classifier
from downstream.corpora.voxceleb1 import prepare_identification
from downstream.embedders import EmbedderConfig
from downstream.sid.task import SpeakerIdentification


def speech(split: str, speakers: int = 8, each: int = 4) -> list[Utterance]:
    return [
        Utterance(f"s{s:02}/{split}/{u}.wav", f"/{split}/{s}/{u}.wav", speaker=f"s{s:02}", split=split)
        for s in range(speakers)
        for u in range(each - s % 2)
    ]


def make_corpus(**splits: list[Utterance]) -> Corpus:
    made = {name: speech(name) for name in ("train", "dev", "test")} | splits
    return Corpus("manifests", {name: random.Random(0).sample(those, len(those)) for name, those in made.items()})


@pytest.fixture
def task() -> SpeakerIdentification:
    return make_task(SpeakerIdentification, ClassificationConfig(), make_corpus())


def predict(task: SpeakerIdentification, split: str, noise: float) -> dict[str, Any]:
    rng = np.random.RandomState(0)
    logits = {u.id: np.eye(8)[int(str(u.speaker)[1:])] + noise * rng.randn(8) for u in task.splits[split]}
    return {name: torch.tensor(x, dtype=torch.float32).log_softmax(0) for name, x in logits.items()}


def test_classes_are_the_training_speakers(task: SpeakerIdentification) -> None:
    assert task.splits["train"] == sorted(speech("train"), key=lambda u: u.id)
    assert task.vocabulary() == {"speakers": [f"s{s:02}" for s in range(8)]}
    assert task.targets([speech("train")[0], speech("dev")[-1]]).tolist() == [0, 7]
    head = SpeakerIdentification.make_head(ClassificationConfig(), task.vocabulary(), 12)
    assert isinstance(head, Classifier)
    assert {name: tuple(p.shape) for name, p in head.named_parameters()} == {
        "embedder.connector.weight": (256, 12), "embedder.connector.bias": (256,),
        "objective.fc.weight": (8, 256), "objective.fc.bias": (8,),
    }  # fmt: skip
    task = make_task(SpeakerIdentification, ClassificationConfig(), make_corpus(), train=task.splits["train"][:2])
    with pytest.raises(BenchmarkError, match="at least 2 speakers are needed to train on, training data have s00"):
        task.make_head(ClassificationConfig(), task.vocabulary(), 12)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_metrics_are_scikit_learns(task: SpeakerIdentification, split: str) -> None:
    predictions = predict(task, split, noise=1.0)
    result = task.evaluate(split, predictions)
    references = [task.classes[str(u.speaker)] for u in task.splits[split]]
    scores = np.stack([predictions[u.id].numpy() for u in task.splits[split]])
    assert list(result.metrics) == [split]
    assert result.metrics[split] == {
        "accuracy": pytest.approx(100 * np.mean(scores.argmax(1) == references)),
        "macro_accuracy": pytest.approx(100 * balanced_accuracy_score(references, scores.argmax(1))),
        "macro_f1": pytest.approx(100 * f1_score(references, scores.argmax(1), average="macro")),
        "top5_accuracy": pytest.approx(100 * top_k_accuracy_score(references, scores, k=5, labels=np.arange(8))),
    }
    assert 20 < result.metrics[split]["accuracy"] < result.metrics[split]["top5_accuracy"] < 100
    (name,) = result.files
    assert name == {"dev": "predictions_dev.jsonl", "test": "predictions.jsonl"}[split]
    rows = [json.loads(line) for line in str(result.files[name]).splitlines()]
    assert [(row["id"], row["reference"]) for row in rows] == [(u.id, u.speaker) for u in task.splits[split]]
    correct = [row["prediction"] == row["reference"] for row in rows]
    assert result.metrics[split]["accuracy"] == pytest.approx(100 * np.mean(correct))
    items = result.items
    assert isinstance(items, Classes)
    assert (items.ids, items.log_posteriors) == ([u.id for u in task.splits[split]], None)  # not kept: 1,251 a line
    assert (items.cluster, items.clusters) == ("speaker", [u.speaker for u in task.splits[split]])
    assert [items.names[p] for p in items.predictions] == [row["prediction"] for row in rows]
    for row in rows:
        assert set(row) == {"id", "speaker", "reference", "prediction", "posterior"}
        assert row["posterior"] == pytest.approx(float(predictions[row["id"]].exp().max()), abs=1e-6)


def test_collapsed_posteriors_are_at_chance(task: SpeakerIdentification) -> None:
    flat = {u.id: torch.full((8,), -np.log(8.0)) for u in task.splits["test"]}
    metrics = task.evaluate("test", flat).metrics["test"]
    assert metrics["macro_accuracy"] == pytest.approx(100 / 8)
    assert metrics["top5_accuracy"] == pytest.approx(100 * np.mean([int(str(u.speaker)[1:]) < 5
                                                                    for u in task.splits["test"]]))  # fmt: skip


def test_speakers_whom_a_budget_left_out_are_errors(
    task: SpeakerIdentification, caplog: pytest.LogCaptureFixture
) -> None:
    left = [u for u in task.splits["train"] if u.speaker != "s03"]
    with caplog.at_level(logging.WARNING):
        task = make_task(SpeakerIdentification, ClassificationConfig(), make_corpus(), train=left)
    test = task.splits["test"]
    sure = {u.id: torch.tensor(np.eye(7)[task.classes.get(str(u.speaker), 0)]) for u in test}  # he is taken for s00
    metrics = task.evaluate("test", sure).metrics["test"]
    known = 100 * np.mean([u.speaker != "s03" for u in test])
    assert metrics["accuracy"] == metrics["top5_accuracy"] == pytest.approx(known)
    assert "test: 1 speakers have no training utterance: s03" in caplog.text


def test_bad_predictions_are_named(task: SpeakerIdentification) -> None:
    predictions = predict(task, "dev", noise=0.0)
    name = task.splits["dev"][3].id
    for value, message in [(torch.zeros(7), r"must be 8 log-posteriors, got shape \(7,\)"),
                           (torch.full((8,), float("nan")), "is not finite")]:  # fmt: skip
        with pytest.raises(BenchmarkError, match=f"the prediction of utterance {name} .*{message}"):
            task.evaluate("dev", predictions | {name: value})
    del predictions[name]
    with pytest.raises(BenchmarkError, match=f"no prediction of utterance {name}"):
        task.evaluate("dev", predictions)


def test_unusable_data_is_refused() -> None:
    def refused(message: str, corpus: Corpus) -> None:
        with pytest.raises(BenchmarkError, match=message):
            SpeakerIdentification.split(ClassificationConfig(), corpus)

    refused("test has 2 speakers that training does not have: s08, s09", make_corpus(test=speech("test", 10)))
    refused("dev has 1 speakers that training does not have: s08", make_corpus(dev=speech("dev", 9)))
    refused("split 'dev' of 'manifests' is empty", make_corpus(dev=[]))
    nameless = [replace(u, speaker=None) for u in speech("test")]
    refused("split 'test' of 'manifests' has 28 utterances without the label 'speaker': s0", make_corpus(test=nameless))
    corpus = make_corpus()
    del corpus.splits["dev"]
    refused("'manifests' has no split 'dev' .* give it as --dev FILE", corpus)
    with pytest.raises(BenchmarkError, match="unknown loss 'sotfmax'"):
        SpeakerIdentification.split(options(ClassificationConfig, loss={"name": "sotfmax"}), make_corpus())


def test_evaluation_elsewhere(caplog: pytest.LogCaptureFixture) -> None:
    def elsewhere(name: str, speakers: int = 8) -> SpeakerIdentification:
        target = Target(name, Corpus("manifests", {"more": speech("more", speakers)}))
        return make_task(SpeakerIdentification, ClassificationConfig(), make_corpus(), target)

    task = elsewhere("more", 3)
    assert {u.speaker for u in task.splits["test"]} == {"s00", "s01", "s02"}
    assert len(task.classes) == 8
    assert list(task.evaluate("test", predict(task, "test", noise=0.0)).metrics) == ["test"]
    with pytest.raises(BenchmarkError, match="test has 1 speakers that training does not have: s08"):
        elsewhere("more", 9)
    with pytest.raises(BenchmarkError, match=r"no split 'mroe' .*Did you mean 'more'"):
        elsewhere("mroe")
    assert "training has seen" not in caplog.text
    corpus = make_corpus()
    again = SpeakerIdentification.split(ClassificationConfig(), corpus, Target("train", corpus))
    assert list(again.test) == task.splits["train"]
    assert "training has seen 28 of the 28 utterances of train" in caplog.text


def test_predictions_are_presented_as_plain_data() -> None:
    logits = torch.tensor([0.1, 0.05, 0.4, 0.2, 0.15, 0.1]).log()
    shown = SpeakerIdentification.present(ClassificationConfig(), {"speakers": list("abcdef")}, logits)
    assert shown == {"speaker": "c", "posteriors": {"c": 0.4, "d": 0.2, "e": 0.15, "a": 0.1, "f": 0.1}}
    assert json.loads(json.dumps(shown)) == shown
    few = SpeakerIdentification.present(ClassificationConfig(), {"speakers": ["a", "b"]}, logits[:2].log_softmax(0))
    assert list(few["posteriors"]) == ["a", "b"]


def test_the_card_has_superbs_values() -> None:
    """s3prl ec8064b5, downstream/voxceleb1/config.yaml."""
    card: Any = downstreams.get("voxceleb1").load()()  # s3prl's name
    config = card["config"]
    assert options(ClassificationConfig, **config["task"]).head == EmbedderConfig("mean", 256)
    assert config["task"]["loss"] == {"name": "softmax"}
    assert (config["data"]["crop_seconds"], config["optim"]["clip"]) == (128000 / 16000, 1.0)
    assert (config["optim"]["name"], config["optim"]["lr"], config["optim"]["weight_decay"]) == ("adam", 1e-4, 0.0)
    trainer = config["trainer"]
    assert (trainer["max_steps"], trainer["batch_size"], trainer["accumulate"]) == (200000, 8, 4)


def test_reads_the_synthetic_tree(data_root: Path) -> None:
    task = make_task(SpeakerIdentification, ClassificationConfig(), prepare_identification(data_root))
    assert len(task.classes) == 10  # 6 of dev, 4 of test
    sessions = {name: {(u.speaker, u.id) for u in those} for name in ("train", "test") for those in [task.splits[name]]}
    assert not sessions["train"] & sessions["test"]
