"""Classification by any label, and what holds of every task of speakers, languages and labels."""

from __future__ import annotations

import copy
import csv
import json
import logging
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score
from tasks import make_task, options

from benchmark import config, evaluation, metrics
from benchmark.errors import BenchmarkError
from benchmark.evaluation import Classes
from benchmark.interfaces import Corpus, Target, Task, Trial, Utterance
from benchmark.registry import downstreams, tasks
from downstream.classification import ClassificationConfig, ClassificationTask
from downstream.classifier import Classifier
from downstream.classify.task import ClassifyConfig, LabelClassification
from downstream.embedders import EmbedderConfig
from downstream.lid.task import LanguageIdentification, LIDConfig
from downstream.sid.task import SpeakerIdentification
from downstream.sv.task import SpeakerVerification, SVConfig

EMOTIONS = ("anger", "joy", "neutral")
EMOTION = ClassifyConfig(label="emotion")


def speech(split: str, each: int = 8, emotions: tuple[str, ...] = EMOTIONS, voice: str = "") -> list[Utterance]:
    """``each`` utterances of each emotion, two of each speaker in turn; neutral ones twice as many."""
    return [
        Utterance(f"{split}/{emotion}/{k:02}", f"/{split}/{emotion}/{k}.wav", speaker=voice or f"{split}{k // 2}",
                  session=f"{split}{k // 2}", labels={"emotion": emotion, "intensity": str(k % 2)})
        for emotion in emotions
        for k in range(each * (2 if emotion == "neutral" else 1))
    ]  # fmt: skip


def make_corpus(**splits: list[Utterance]) -> Corpus:
    made = {"train": speech("train"), "dev": speech("dev", 3), "test": speech("test", 5)} | splits
    return Corpus("manifests", {name: utterances[::-1] for name, utterances in made.items() if utterances})


def posteriors(task: ClassificationTask, split: str, strength: float = 1.0) -> dict[str, Any]:
    """Log-posteriors that favour the right class."""
    generator = torch.Generator().manual_seed(0)
    logits = {u.id: torch.randn(len(task.classes), generator=generator) for u in task.splits[split]}
    for utterance in task.splits[split]:
        logits[utterance.id][task.classes[str(utterance.label(task.label(task.config)))]] += strength
    return {name: row.log_softmax(0) for name, row in logits.items()}


# --- Any label --------------------------------------------------------------------------------------------------------


def test_the_label_is_an_option() -> None:
    task = make_task(LabelClassification, EMOTION, make_corpus())
    assert LabelClassification.requires(EMOTION) == ("emotion",)
    assert LabelClassification.strata(EMOTION) == ("emotion", "speaker")
    assert task.vocabulary() == {"classes": list(EMOTIONS)}
    assert [u.id for u in task.splits.train] == sorted(u.id for u in speech("train"))
    assert task.targets(task.splits.train[7:9]).tolist() == [0, 1]
    head = task.make_head(EMOTION, task.vocabulary(), 12)
    assert isinstance(head, Classifier)
    assert task.selection == "accuracy"
    intensity = ClassifyConfig(label="intensity")
    assert make_task(LabelClassification, intensity, make_corpus()).vocabulary() == {"classes": ["0", "1"]}
    who = ClassifyConfig(label="speaker", shared_speakers=True)
    assert LabelClassification.strata(who) == ("speaker",)
    known = make_corpus(dev=speech("train")[:9], test=speech("train")[9:])
    assert len(make_task(LabelClassification, who, known).classes) == 8
    for ask in (LabelClassification.requires, LabelClassification.strata):
        with pytest.raises(BenchmarkError, match=r"task.label is not set: .* --label emotion"):
            ask(ClassifyConfig())


def test_metrics_are_scikit_learns_and_the_files_hold_them(tmp_path: Path) -> None:
    task = make_task(LabelClassification, EMOTION, make_corpus())
    result = task.evaluate("test", posteriors(task, "test"))
    assert list(result.metrics) == ["test"]
    assert set(result.files) == {"predictions.jsonl", "confusion.csv", "confusion.png"}
    rows = [json.loads(line) for line in str(result.files["predictions.jsonl"]).splitlines()]
    assert [row["id"] for row in rows] == [u.id for u in task.splits.test]
    assert rows[0]["speaker"] == "test0"
    reference, prediction = [row["reference"] for row in rows], [row["prediction"] for row in rows]
    assert result.metrics["test"] == {
        "accuracy": pytest.approx(100 * accuracy_score(reference, prediction)),
        "macro_accuracy": pytest.approx(100 * balanced_accuracy_score(reference, prediction)),  # average recall
        "macro_f1": pytest.approx(100 * f1_score(reference, prediction, average="macro")),
    }
    assert 40 < result.metrics["test"]["accuracy"] < 95
    header, *table = csv.reader(str(result.files["confusion.csv"]).splitlines())
    assert (header, [row[0] for row in table]) == (["reference", *EMOTIONS], list(EMOTIONS))
    counts = [[int(cell) for cell in row[1:]] for row in table]
    np.testing.assert_array_equal(counts, confusion_matrix(reference, prediction, labels=EMOTIONS))
    assert result.files["confusion.png"]().startswith(b"\x89PNG")  # type: ignore[operator]

    items = result.items
    assert isinstance(items, Classes)
    (tmp_path / "predictions.jsonl").write_text(str(result.files["predictions.jsonl"]))
    (tmp_path / evaluation.FILE).write_text(evaluation.describe(items, list(result.metrics["test"])))
    about = evaluation.read_about(tmp_path)
    assert about is not None
    assert (about.kind, about.cluster, list(about.metrics)) == ("classes", "speaker", list(result.metrics["test"]))
    assert metrics.score(evaluation.read_items(tmp_path, about)) == result.metrics["test"]

    dev = task.evaluate("dev", posteriors(task, "dev", strength=50.0))
    assert dev.metrics["dev"] == {"accuracy": 100.0, "macro_accuracy": 100.0, "macro_f1": 100.0}
    assert not dev.files


def test_any_metric_of_classes_selects() -> None:
    for name in ("macro_accuracy", "macro_f1", "top5_accuracy", "cavg"):
        task = make_task(LabelClassification, replace(EMOTION, selection=name), make_corpus())
        assert task.selection == name
        assert name in task.evaluate("dev", posteriors(task, "dev")).metrics["dev"]
    for name, message in [
        ("macro_acuracy", "Did you mean 'macro_accuracy'"),
        ("wer", "expected a metric of classes: .*macro_f1"),
    ]:
        with pytest.raises(BenchmarkError, match=rf"task.selection is '{name}'.*{message}"):
            LabelClassification.split(replace(EMOTION, selection=name), make_corpus())
    alone = make_corpus(dev=speech("dev", 3, ("joy",)))
    task = make_task(LabelClassification, replace(EMOTION, selection="cavg"), alone)
    with pytest.raises(BenchmarkError, match="cavg, which chooses the checkpoint, is not defined on dev"):
        task.evaluate("dev", posteriors(task, "dev"))


def test_dev_is_held_out_where_there_is_none(caplog: pytest.LogCaptureFixture) -> None:
    task = make_task(LabelClassification, replace(EMOTION, dev_share=0.3), make_corpus(dev=[]))
    train, dev = ({u.speaker for u in task.splits[name]} for name in ("train", "dev"))
    assert dev
    assert not train & dev
    assert {u.label("emotion") for u in task.splits.dev} == set(EMOTIONS)
    # what is recognised is not held out as a whole; sessions that end up on both sides are counted
    pool = [replace(u, session=None) for u in speech("train", 8)]
    who = make_task(LabelClassification, ClassifyConfig(label="speaker"), Corpus("manifests", {
        "train": pool, "test": pool[:4]}))  # fmt: skip
    assert {u.speaker for u in who.splits.dev} <= who.classes.keys()
    crossed = [replace(u, session=u.id[-1]) for u in speech("train", 8)]
    with caplog.at_level(logging.WARNING):
        LabelClassification.split(EMOTION, make_corpus(train=crossed, dev=[]))
    assert "dev shares" in caplog.text


def test_unusable_data_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    def refused(message: str, corpus: Corpus, options: ClassifyConfig = EMOTION) -> None:
        with pytest.raises(BenchmarkError, match=message):
            make_task(LabelClassification, options, corpus)

    nameless = [replace(u, labels={}) for u in speech("test")]
    refused(
        "split 'test' of 'manifests' has 32 utterances without the label 'emotion': .*in manifests as the field 'emo",
        make_corpus(test=nameless),
    )
    refused(
        "test has 1 classes that training does not have: fear .8 utterances: test/fear/00.*task.classes",
        make_corpus(test=speech("test", 8, (*EMOTIONS, "fear"))),
    )
    refused("'manifests' has no split 'test' .* give it as --test FILE", make_corpus(test=[]))
    known = make_corpus(test=speech("test", voice="train0"))
    refused("test shares 1 speakers with training: train0 .32 utterances.*a voice.* rather than the emotion", known)
    with caplog.at_level(logging.WARNING):
        make_task(LabelClassification, replace(EMOTION, shared_speakers=True), known)
    assert "test shares 1 speakers with training: train0 (32 utterances)" in caplog.text
    refused("task.classes names fear, of which 'train'", make_corpus(), replace(EMOTION, classes=["joy", "fear"]))
    two = make_task(LabelClassification, replace(EMOTION, classes=["joy", "anger"]), make_corpus())
    assert two.vocabulary() == {"classes": ["anger", "joy"]}
    left = [u for u in speech("train") if u.label("emotion") != "neutral"]
    with pytest.raises(BenchmarkError, match=r"no training utterance of 1 classes of dev is left: neutral.*--budget"):
        make_task(LabelClassification, EMOTION, make_corpus(), train=left)


def test_predictions_are_presented_under_the_labels_name() -> None:
    shown = LabelClassification.present(EMOTION, {"classes": ["anger", "joy"]}, torch.tensor([0.25, 0.75]).log())
    assert shown == {"emotion": "joy", "posteriors": {"joy": 0.75, "anger": 0.25}}


def test_the_card() -> None:
    card: Any = downstreams.get("classify").load()()
    assert tasks.get(card["task"]).load() is LabelClassification
    made = options(ClassifyConfig, **card["config"]["task"])
    assert made == ClassifyConfig(head=EmbedderConfig("mean", 256))
    for regime, optimizer in (("frozen", "adam"), ("finetune", "adamw")):
        overrides = ["upstream.name=fbank", f"regime={regime}", "task.label=emotion"]
        run = config.compose(card, ClassifyConfig, [], overrides)
        assert (run.task, run.optim.name) == (replace(made, label="emotion"), optimizer)


# --- Every task of classes and trials ---------------------------------------------------------------------------------


def everything() -> Corpus:
    """A corpus that each of the tasks can use."""
    train = [
        Utterance(f"train/{s}/{v}/{k}", "", speaker=f"s{s}", session=f"{s} {v}", language=["de", "en", "fi"][s % 3],
                  labels={"emotion": EMOTIONS[s % 3]})
        for s in range(9) for v in range(2) for k in range(2)
    ]  # fmt: skip
    dev, test = ([replace(u, id=u.id.replace("train", name)) for u in train] for name in ("dev", "test"))
    unknown = [replace(u, id=u.id.replace("train", "new"), speaker=f"new {u.speaker}") for u in train]
    trials = [Trial(int(k % 2 == 0), unknown[0].id, unknown[1 if k % 2 == 0 else 9].id) for k in range(4)]
    splits = {"train": train, "dev": dev, "test": test, "new": unknown}
    return Corpus("manifests", {name: those[::-1] for name, those in splits.items()}, {"trials": trials})


KINDS: list[tuple[type[Task], Any]] = [
    (SpeakerVerification, SVConfig("train", None, "new", "trials", [])),
    (SpeakerIdentification, ClassificationConfig()),
    (LanguageIdentification, LIDConfig(shared_speakers=True)),
    (LabelClassification, replace(EMOTION, shared_speakers=True)),
    (LabelClassification, replace(EMOTION, dev_split=None, shared_speakers=True)),
]
each = pytest.mark.parametrize(("kind", "values"), KINDS)


@each
def test_split_is_pure(kind: type[Task], values: Any) -> None:
    corpus = everything()
    before, given = copy.deepcopy(corpus), copy.deepcopy(values)
    for target in (None, Target("new" if kind is SpeakerVerification else "dev", corpus)):
        once, again = kind.split(values, corpus, target), kind.split(values, corpus, target)
        for name in ("train", "dev", "test"):
            assert once[name] == again[name]
            assert once[name]
        assert {name: list(trials) for name, trials in once.sets.items()} == {
            name: list(trials) for name, trials in again.sets.items()
        }
    assert (corpus, values) == (before, given)
    assert kind.split(values, corpus, target).train == kind.split(values, corpus).train


@each
def test_a_task_does_not_change(kind: type[Task], values: Any) -> None:
    task = make_task(kind, values, everything())
    state = copy.deepcopy(vars(task))
    state["splits"] = replace(task.splits)
    size = 6 if kind is SpeakerVerification else len(next(iter(task.vocabulary().values())))
    for split in ("dev", "test"):
        generator = torch.Generator().manual_seed(0)
        names = [u.id for u in (*task.splits[split], *task.support(split))]
        task.evaluate(split, {name: torch.randn(size, generator=generator).log_softmax(0) for name in names})
        task.targets(task.splits.train[:2])
        task.vocabulary()
    assert vars(task) == state
    with pytest.raises(FrozenInstanceError):
        task.splits.train = []  # type: ignore[misc]


@pytest.fixture
def declared() -> Iterator[None]:
    """Metrics that a plug-in declares, forgotten afterwards."""
    with mock.patch.dict(metrics.METRICS):
        _declare()
        yield


def _declare() -> None:
    @metrics.metric("error_rate", kind="classes", label="error", unit="%", ceiling=100.0)
    def error_rate(items: Any) -> float:
        return 100 * float((items.references != items.predictions).mean())

    @metrics.metric("target_share", kind="trials", label="targets", unit="%")
    def target_share(items: Any) -> float:
        return 100 * float(items.labels.mean())


@pytest.mark.usefixtures("declared")
@each
def test_a_declared_metric_is_reported(kind: type[Task], values: Any) -> None:
    task = make_task(kind, values, everything())
    size = 6 if kind is SpeakerVerification else len(next(iter(task.vocabulary().values())))
    generator = torch.Generator().manual_seed(0)
    for split in ("dev", "test"):
        names = [u.id for u in task.splits[split]]
        result = task.evaluate(split, {name: torch.randn(size, generator=generator).log_softmax(0) for name in names})
        for values_of in result.metrics.values():
            if kind is SpeakerVerification:
                assert values_of["target_share"] == 50.0
            else:
                assert values_of["error_rate"] == pytest.approx(100 - values_of["accuracy"])
    if kind is LabelClassification:
        made = make_task(kind, replace(values, selection="error_rate"), everything())
        assert made.selection == "error_rate"
