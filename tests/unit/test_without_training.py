"""A trained run is evaluated where its training data are not there: what is refused, and what is said.

That metrics and predictions are the same, byte for byte, is tested for every card in ``tests/recipes/test_tasks.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from toys import ToyTask, ToyUpstream, toy_corpus

from benchmark import registry
from benchmark.config import RunConfig
from benchmark.data import manifest
from benchmark.engine import prepare
from benchmark.engine.prepare import Scored
from benchmark.engine.run import Outcome, run
from benchmark.errors import BenchmarkError, MissingData
from benchmark.interfaces import Corpus, Splits, Trial, Utterance
from downstream.asr.task import ASRConfig, SpeechRecognition
from downstream.classification import ClassificationConfig
from downstream.lid.task import LanguageIdentification, LIDConfig
from downstream.sid.task import SpeakerIdentification
from downstream.sv.task import SpeakerVerification, SVConfig

CORPUS: dict[str, Corpus] = {}


class Evaluable(ToyTask):
    """A task that does without training data; it keeps no classes in splits."""

    @classmethod
    def split_test(
        cls, config: Any, corpus: Corpus, vocabulary: Mapping[str, Any], name: str | None = None
    ) -> Splits | None:
        assert vocabulary == {"classes": ["low", "high"]}
        return Splits(corpus.name, (), (), corpus.splits[name or "test"], vocabulary=vocabulary)


class Refusing(Evaluable):
    """Finds fault with training data that are there."""

    fault = False

    @classmethod
    def split(cls, config: Any, corpus: Corpus, target: Any = None) -> Splits:
        if cls.fault:
            raise BenchmarkError("the speakers of test are those of training")
        return super().split(config, corpus, target)


def corpus(root: Path, *, training: bool = True) -> Corpus:
    whole = CORPUS["toy"]
    if training and "gone" in CORPUS:
        raise BenchmarkError("toy not found: looked for the folder /gone. Expected layout: …")
    return whole if training else Corpus(whole.name, {"test": whole.splits["test"]})


def card(task: str) -> dict[str, Any]:
    here = "test_without_training"
    return {"name": "toy", "task": f"{here}:{task}", "corpus": f"{here}:corpus", "config": {}}


@pytest.fixture(autouse=True)
def _registered(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    CORPUS.clear()
    CORPUS["toy"] = toy_corpus(tmp_path_factory.mktemp("toy"))
    monkeypatch.setattr(registry.upstreams, "_entries", dict(registry.upstreams._load()))
    monkeypatch.setattr(registry.downstreams, "_entries", dict(registry.downstreams._load()))
    registry.upstreams.register("toy", ToyUpstream)


def configure(task: str, *overrides: str) -> RunConfig:
    registry.downstreams._load()["toy"] = registry.Entry("toy", lambda: card(task))
    small = ["trainer.max_steps=4", "trainer.eval_every=2", "device=cpu", "upstream.name=toy", *overrides]
    return prepare.configure("toy", [], small)


def evaluate(task: str, folder: Path, scored: Scored | None = None) -> Outcome:
    return run(configure(task), folder, mode="evaluate", scored=scored)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a trained run, whose training data are gone."""
    run(configure("Evaluable"), tmp_path / "run")
    CORPUS["gone"] = CORPUS["toy"]
    return tmp_path / "run"


def test_it_is_evaluated_as_with_them(folder: Path) -> None:
    before, scores = json.loads((folder / "result.json").read_text()), (folder / "scores_test.txt").read_bytes()
    (folder / "scores_test.txt").unlink()
    result = evaluate("Evaluable", folder).result
    assert result is not None
    assert (folder / "scores_test.txt").read_bytes() == scores
    assert {name: result[name] for name in ("metrics", "data")} == {name: before[name] for name in ("metrics", "data")}
    (warning,) = result["warnings"]
    assert warning.endswith("evaluated without them: toy not found: looked for the folder /gone. Expected layout: …")
    log = (folder / "log.txt").read_text()
    assert warning in log
    assert "train: 10 utterances, 0.00 h, 2 speakers; not there, as the run recorded it" in log


def test_the_checkpoint_that_was_best_suffices(folder: Path) -> None:
    scores = (folder / "scores_test.txt").read_bytes()
    before = json.loads((folder / "result.json").read_text())
    (folder / "checkpoints" / "last.pt").unlink()
    (folder / "scores_test.txt").unlink()
    result = evaluate("Evaluable", folder).result
    assert result is not None
    assert (folder / "scores_test.txt").read_bytes() == scores
    for name in ("metrics", "selected", "provenance"):
        assert result[name] == before[name]
    for name in ("updates", "audio_seconds_seen"):
        assert result["cost"][name] == before["cost"][name]
    (folder / "checkpoints" / "best.pt").unlink()
    with pytest.raises(BenchmarkError, match=r"no checkpoints/best\.pt"):
        evaluate("Evaluable", folder)


def test_the_test_set_must_be_the_same(folder: Path) -> None:
    CORPUS["toy"].splits["test"] = CORPUS["toy"].splits["test"][1:]
    with pytest.raises(BenchmarkError, match="was run with different test data"):
        evaluate("Evaluable", folder)


@pytest.mark.parametrize("gone", [False, True])
def test_other_data_may_be_called_test(folder: Path, tmp_path: Path, gone: bool) -> None:
    if not gone:
        del CORPUS["gone"]
    manifest.write(tmp_path / "test.jsonl", CORPUS["toy"].splits["dev"])
    outcome = evaluate("Evaluable", folder, Scored("test", str(tmp_path / "test.jsonl")))
    assert outcome.result is not None
    assert outcome.folder.parent == folder / "evaluations"
    assert outcome.result["metrics"]["test"] == outcome.result["metrics"]["dev"]


def test_audio_that_is_not_there(folder: Path) -> None:
    del CORPUS["gone"]
    for utterance in CORPUS["toy"].splits["train"]:
        Path(utterance.path).unlink()
    result = evaluate("Evaluable", folder).result
    assert result is not None
    assert "10 of 30 utterances have unusable audio" in result["warnings"][0]
    Path(CORPUS["toy"].splits["test"][0].path).unlink()
    with pytest.raises(BenchmarkError, match="1 of 10 utterances have unusable audio"):
        evaluate("Evaluable", folder)


def test_what_is_wrong_with_data_that_are_there_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(configure("Refusing"), tmp_path / "run")
    monkeypatch.setattr(Refusing, "fault", True)
    with pytest.raises(BenchmarkError, match="the speakers of test are those of training"):
        evaluate("Refusing", tmp_path / "run")


def test_a_task_without_split_test_says_so(tmp_path: Path) -> None:
    run(configure("ToyTask"), tmp_path / "run")
    CORPUS["gone"] = CORPUS["toy"]
    with pytest.raises(BenchmarkError) as error:
        evaluate("ToyTask", tmp_path / "run")
    for part in ("cannot be evaluated without its training data", "-o data.train=FILE", "toy not found"):
        assert part in str(error.value)


def test_a_run_that_has_no_result_says_so(folder: Path) -> None:
    (folder / "result.json").unlink()
    with pytest.raises(BenchmarkError, match="evaluate it once where its training data are"):
        evaluate("Evaluable", folder)


def test_training_still_needs_them(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="toy not found"):
        run(configure("Evaluable"), tmp_path / "other")


def utterances(prefix: str, **labels: list[str]) -> list[Utterance]:
    """One for each value of the labels."""
    rows = zip(*labels.values(), strict=True)
    return [Utterance(f"{prefix}{i}", "a.wav", **dict(zip(labels, row, strict=True))) for i, row in enumerate(rows)]


def test_languages_that_training_did_not_have() -> None:
    other = Corpus("other", {"test": utterances("a", language=["en", "fi", "xx"])})
    with pytest.raises(BenchmarkError, match="1 languages that training does not have: xx"):
        LanguageIdentification.split_test(LIDConfig(), other, {"languages": ["en", "fi"]}, "test")


def test_speakers_that_a_label_budget_left_out() -> None:
    """They count as not recognised, as with the training data; data of other speakers alone are refused."""
    config, vocabulary = ClassificationConfig(), {"speakers": ["a", "b"]}
    own = Corpus("own", {"test": utterances("u", speaker=["a", "b", "lost"])})
    splits = SpeakerIdentification.split_test(config, own, vocabulary)
    assert splits is not None
    task = SpeakerIdentification(config, splits, {})
    assert task.vocabulary() == vocabulary
    scores = task.evaluate("test", {u.id: [-0.1, -2.4] for u in splits.test}).metrics["test"]
    assert scores["accuracy"] == pytest.approx(100 / 3)
    with pytest.raises(BenchmarkError, match="training does not have: c, d"):
        SpeakerIdentification.split_test(config, Corpus("x", {"test": utterances("u", speaker=["c", "d"])}), vocabulary)


def test_trials_of_speakers_that_training_has_seen() -> None:
    """They are in the checkpoint."""
    test = utterances("u", speaker=["a", "a", "b"])
    other = Corpus("other", {"test": test}, {"trials": [Trial(1, "u0", "u1"), Trial(0, "u0", "u2")]})
    splits = SpeakerVerification.split_test(SVConfig(), other, {"speakers": ["c", "d"]}, "test")
    assert splits is not None
    assert [u.id for u in splits.test] == ["u0", "u1", "u2"]
    with pytest.raises(BenchmarkError, match="1 speakers that training sees: b"):
        SpeakerVerification.split_test(SVConfig(), other, {"speakers": ["b", "c"]}, "test")


def test_dev_trials_of_held_out_speakers_need_them() -> None:
    other = Corpus("voxceleb1", {"test": utterances("u", speaker=["a", "a", "b"])})
    with pytest.raises(MissingData, match="held out of training data"):
        SpeakerVerification.split_test(SVConfig(), other, {"speakers": ["c", "d"]}, "dev")


def test_characters_that_the_head_cannot_write() -> None:
    other = Corpus("other", {"test": utterances("u", text=["ab", "abc"])})
    with pytest.raises(BenchmarkError, match=r"characters are not in the alphabet .*'c'"):
        SpeechRecognition.split_test(ASRConfig(), other, {"alphabet": ["<blank>", "|", "a", "b"]}, "test")


def test_what_cannot_be_compared_is_said(caplog: pytest.LogCaptureFixture) -> None:
    other = Corpus("other", {"test": utterances("u", text=["ab"])})
    vocabulary = {"alphabet": ["<blank>", "|", "a", "b"]}
    SpeechRecognition.split_test(ASRConfig(), other, vocabulary, "test")
    assert "test: without the training data it is not known whether training has seen" in caplog.text
