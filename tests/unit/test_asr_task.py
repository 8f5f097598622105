"""Speech recognition on corpora made of text only: splits, checks before training, labels, scores, files."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tasks import make_task, options
from test_asr_decoding import ARPA, LETTERS, MEANT, SPOKEN, acoustics
from torch import Tensor

from benchmark import config, metrics
from benchmark.engine.run import Outcome
from benchmark.errors import BenchmarkError
from benchmark.evaluation import Edits
from benchmark.interfaces import Corpus, Target, Utterance
from benchmark.metrics import cer, wer
from benchmark.registry import downstreams
from benchmark.study import recipe as study
from benchmark.study.runner import run_cell
from downstream.asr.heads import BiLSTM, Linear
from downstream.asr.task import ASRConfig, SpeechRecognition
from downstream.asr.text import TextConfig

OFFICIAL: dict[str, Any] = {"text": {"alphabet": "librispeech", "case": "upper"}}
OWN: dict[str, Any] = {"train_splits": ["train"], "dev_splits": ["dev"], "test_splits": ["test"]}


def transcribed(speaker: int, *texts: str | None) -> list[Utterance]:
    return [
        Utterance(f"{speaker}-1-{i:04}", f"/{speaker}-1-{i:04}.flac", text=text, speaker=str(speaker))
        for i, text in enumerate(texts)
    ]


def librispeech(**more: list[Utterance]) -> Corpus:
    splits = {
        "train-clean-100": transcribed(1, "THE CAT", "IT'S FULL"),
        "dev-clean": transcribed(2, "A CAT SAT"),
        "test-clean": transcribed(3, "THE CUT SAT", "THE CAT SAT"),
        "test-other": transcribed(4, "THE MAT"),
    }
    return Corpus("librispeech", splits | {name.replace("_", "-"): split for name, split in more.items()})


def own(train: list[Utterance], dev: list[Utterance], test: list[Utterance]) -> Corpus:
    return Corpus("manifests", {"train": train, "dev": dev, "test": test})


def make(corpus: Corpus | None = None, target: Target | None = None, **values: Any) -> SpeechRecognition:
    return make_task(SpeechRecognition, options(ASRConfig, **OFFICIAL | values), corpus or librispeech(), target)


def make_own(corpus: Corpus, **values: Any) -> SpeechRecognition:
    return make_task(SpeechRecognition, options(ASRConfig, **OWN | values), corpus)


def says(text: str, alphabet: Any = LETTERS) -> Tensor:
    """Log posteriors whose best path is a text."""
    return acoustics("-".join(text.replace(" ", "|")) + "-|", alphabet)


# --- Splits and checks ------------------------------------------------------------------------------------------------


def test_the_first_test_split_is_test() -> None:
    task = make()
    assert {name: [u.id for u in us] for name, us in task.splits.sets.items()} == {
        "dev": ["2-1-0000"], "test": ["3-1-0000", "3-1-0001"], "test-other": ["4-1-0000"],
    }  # fmt: skip
    assert [u.id for u in task.splits["test"]] == ["3-1-0000", "3-1-0001", "4-1-0000"]
    both = make(
        librispeech(dev_other=transcribed(5, "A")), dev_splits=["dev-other", "dev-clean"], test_splits=["test-other"]
    )
    assert [u.id for u in both.splits["dev"]] == ["2-1-0000", "5-1-0000"]
    assert list(both.splits.sets) == ["dev", "test"]


def test_further_test_splits_may_be_absent(caplog: pytest.LogCaptureFixture) -> None:
    corpus = librispeech()
    del corpus.splits["test-other"]
    assert list(make(corpus).splits.sets) == ["dev", "test"]
    assert "has no split 'test-other' (task.test_splits); it is not scored" in caplog.text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"train_splits": ["train-clean-10"]},
            r"no split 'train-clean-10' \(task.train_splits\).*mean 'train-clean-100'",
        ),
        ({"test_splits": ["test"]}, "has no split 'test'"),
        ({"dev_splits": []}, "task.dev_splits is empty"),
        ({"test_splits": []}, "task.test_splits is empty"),
        ({"test_splits": ["test-clean", "test-other", "test-other"]}, "'test-other' is duplicated"),
        ({"train_splits": ["train-clean-100"] * 2}, r"2 utterances are in two of train-clean-100.*1-1-0000, 1-1-0001"),
        ({"head": {"name": "lstm"}}, "unknown head 'lstm'"),
        ({"text": {"case": "title"}}, "task.text.case is 'title'"),
        ({"selection": "ser"}, "task.selection is 'ser'.*expected a metric of edits: wer_or_cer, wer, cer"),
        ({"specaugment": {"time_masks": -1}}, "task.specaugment.time_masks is -1"),
        ({"lm": {"path": "nowhere.arpa"}}, "task.lm.path: .* does not exist"),
    ],
)
def test_refusals(values: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        make(**values)


def test_a_typo_in_a_nested_option_gets_a_suggestion() -> None:
    card: Any = downstreams.get("librispeech_asr").load()()
    with pytest.raises(BenchmarkError, match=r"unknown option 'task.head.nam'. Did you mean 'task.head.name'"):
        config.compose(card, ASRConfig, [], ["task.head.nam=linear"])


def test_own_data_names_the_flag() -> None:
    corpus = own(transcribed(1, "a"), transcribed(2, "a"), transcribed(3, "a"))
    for name in ("train", "dev", "test"):
        splits = {key: value for key, value in corpus.splits.items() if key != name}
        with pytest.raises(BenchmarkError, match=f"needs a manifest of {name} utterances; give --{name} FILE"):
            make_own(Corpus("manifests", splits))
    with pytest.raises(BenchmarkError, match=r"no utterance in dev of 'manifests'"):
        make_own(own(transcribed(1, "a"), [], transcribed(3, "a")))


def test_all_bad_transcripts_are_named_at_once() -> None:
    corpus = librispeech(
        train_clean_100=transcribed(1, "CAT", None, "", " ", "3 CATS", "CAFÉ"),
        dev_clean=transcribed(2, "", "É É 3"),
        test_clean=transcribed(3, None, "OK"),
    )
    with pytest.raises(BenchmarkError) as caught:
        make(corpus)
    for part in (
        "1 utterances of train have no transcript: 1-1-0001",
        "2 utterances of train have an empty transcript: 1-1-0002, 1-1-0003",
        "1 utterances of test have no transcript: 3-1-0000",
        "2 characters are not in the alphabet (<s><pad>",
        "'É' (3 times, first in 1-1-0005 of train), '3' (2 times, first in 1-1-0004 of train)",
        "task.text.alphabet",
    ):
        assert part in str(caught.value)


def test_the_alphabet_of_own_data_is_that_of_training() -> None:
    corpus = own(transcribed(1, "b a", "ça"), transcribed(2, "ab"), transcribed(3, "b"))
    assert make_own(corpus).vocabulary() == {"alphabet": ["<s>", "|", "a", "b", "ç"]}
    left = corpus.splits["train"][:1]  # by a label budget
    task = make_task(SpeechRecognition, options(ASRConfig, **OWN), corpus, train=left)
    assert [u.text for u in task.splits.train] == ["b a"]
    assert task.vocabulary() == {"alphabet": ["<s>", "|", "a", "b", "ç"]}
    with pytest.raises(
        BenchmarkError, match=r"1 characters are not in the alphabet .*'x' .1 times, first in 3-1-0000 of test"
    ):
        make_own(own(transcribed(1, "ab"), transcribed(2, "ab"), transcribed(3, "ax")))
    with pytest.raises(BenchmarkError, match=r"'\|' .1 times"):
        make_own(own(transcribed(1, "a|b"), transcribed(2, "ab"), transcribed(3, "a")))
    given = make_own(
        own(transcribed(1, "A, b!"), transcribed(2, "ab"), transcribed(3, "ax")),
        text={"alphabet": "abx", "case": "lower", "strip_punctuation": True},
    )
    assert given.vocabulary() == {"alphabet": ["<s>", "|", "a", "b", "x"]}
    assert given.targets(given.splits["train"])[0].tolist() == [[2, 1, 3, 1]]


def test_shared_speakers(caplog: pytest.LogCaptureFixture) -> None:
    shared = own(
        transcribed(1, "ab"),
        transcribed(2, "ab"),
        [replace(u, id="t" + u.id) for u in transcribed(1, "ab") + transcribed(9, "b")],
    )
    with pytest.raises(
        BenchmarkError, match=r"1 speakers are in both the training data and test: 1\. .*shared_speakers"
    ):
        make_own(shared)
    make_own(shared, shared_speakers=True)
    assert "1 speakers are in both the training data and test: 1;" in caplog.text
    caplog.clear()
    make(librispeech(test_clean=transcribed(1, "OK")))  # an official corpus: its publisher's business
    assert "1 speakers are in both the training data and test: 1;" in caplog.text
    nobody = [replace(u, speaker=None) for u in transcribed(1, "ab")]
    make_own(own(nobody, [replace(u, id="d") for u in nobody], [replace(nobody[0], id="t")]))


# --- Labels and heads -------------------------------------------------------------------------------------------------


def test_targets() -> None:
    task = make()
    labels, counts = task.targets(task.splits["train"])
    assert counts.tolist() == [8, 10]
    written = ["".join(LETTERS.symbols[i] for i in row[:n]) for row, n in zip(labels, counts, strict=True)]
    assert written == ["THE|CAT|", "IT'S|FULL|"]
    assert labels[0, 8:].eq(0).all()
    assert labels.dtype == counts.dtype == torch.int64


@given(st.lists(st.text("AB", min_size=1, max_size=3), min_size=1, max_size=3).map(" ".join))
@settings(max_examples=60, deadline=None)
def test_frames_needed_is_where_ctc_becomes_possible(text: str) -> None:
    task = make(librispeech(train_clean_100=transcribed(1, text)))
    (utterance,) = task.splits["train"]
    labels, counts = task.targets([utterance])
    needed = SpeechRecognition.frames_needed(task.config, task.splits)(utterance)

    def loss(frames: int) -> float:
        uniform = torch.zeros(frames, 1, 32).log_softmax(2)
        return float(F.ctc_loss(uniform, labels, torch.tensor([frames]), counts, reduction="sum"))

    assert loss(needed) < float("inf")
    assert loss(needed - 1) == float("inf")


def test_heads_are_made_of_options_and_vocabulary() -> None:
    task = make()
    head = SpeechRecognition.make_head(task.config, task.vocabulary(), 1024)
    assert isinstance(head, BiLSTM)
    assert sum(p.numel() for p in head.parameters()) == 43_090_976
    assert head.specaugment.feature_masks == 4
    linear = SpeechRecognition.make_head(
        options(ASRConfig, head={"name": "linear"}), {"alphabet": ["<s>", "|", "a"]}, 10
    )
    assert isinstance(linear, Linear)
    assert linear.proj.weight.shape == (3, 10)
    assert not SpeechRecognition.croppable


def test_what_the_engine_asks_for() -> None:
    assert SpeechRecognition.requires(ASRConfig()) == ("text",)
    assert SpeechRecognition.strata(ASRConfig()) == ("gender", "speaker")


# --- Scores -----------------------------------------------------------------------------------------------------------


def test_scores_and_files() -> None:
    task = make(librispeech(test_clean=transcribed(3, "the cut sat", "IT'S", "A CAT")))
    predictions = {"3-1-0000": says("THE CAT SAT"), "3-1-0001": acoustics("----"), "3-1-0002": says("A CAT ON"),
                   "4-1-0000": says("THE MAT")}  # fmt: skip
    result = task.evaluate("test", predictions)
    assert set(result.metrics) == {"test", "test-other"}
    references, hypotheses = ["THE CUT SAT", "IT'S", "A CAT"], ["THE CAT SAT", "", "A CAT ON"]
    test = result.metrics["test"]
    assert test["wer"] == pytest.approx(wer(references, hypotheses)) == pytest.approx(50)
    assert test["cer"] == pytest.approx(cer(references, hypotheses))
    assert [test[kind] for kind in ("substitutions", "deletions", "insertions")] == pytest.approx([100 / 6] * 3)
    assert test["blank_share"] == pytest.approx(100 * (11 + 4 + 8) / (23 + 4 + 17))
    assert result.metrics["test-other"]["wer"] == 0
    assert set(result.files) == {
        "predictions.jsonl", "predictions_test-other.jsonl",
        "ref_test.trn", "hyp_test.trn", "ref_test-other.trn", "hyp_test-other.trn",
    }  # fmt: skip
    lines = [json.loads(line) for line in str(result.files["predictions.jsonl"]).splitlines()]
    items = result.items
    assert isinstance(items, Edits)
    assert (list(items.references), list(items.hypotheses)) == (references, hypotheses)
    assert (items.cluster, list(items.clusters)) == ("speaker", ["3"] * 3)
    assert lines[0] == {
        "id": "3-1-0000", "speaker": "3", "reference": "THE CUT SAT", "prediction": "THE CAT SAT",
        "substitutions": 1, "deletions": 0, "insertions": 0,
    }  # fmt: skip
    assert result.files["ref_test.trn"] == "THE CUT SAT (3-1-0000)\nIT'S (3-1-0001)\nA CAT (3-1-0002)\n"
    assert result.files["hyp_test.trn"] == "THE CAT SAT (3-1-0000)\n (3-1-0001)\nA CAT ON (3-1-0002)\n"


def test_each_pair_of_texts_is_aligned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = {name: Mock(wraps=getattr(metrics, name)) for name in ("word_edits", "character_edits")}
    for name, edits in counted.items():
        monkeypatch.setattr(metrics, name, edits)
    task = make()
    task.evaluate("test", {u.id: says("THE CAT") for u in task.splits["test"]})
    assert [edits.call_count for edits in counted.values()] == [3, 3]


@pytest.mark.parametrize(
    ("fields", "cluster", "clusters"),
    [
        ({}, "speaker", ["3", "3"]),
        ({"speaker": None, "session": "s"}, "session", ["s", "s"]),
        ({"speaker": None}, "utterance", ["3-1-0000", "3-1-0001"]),
    ],
    ids=["speaker", "session", "utterance"],
)
def test_clusters(fields: dict[str, Any], cluster: str, clusters: list[str]) -> None:
    utterances = [replace(u, **fields) for u in transcribed(3, "ab", "b")]
    task = make_own(own(transcribed(1, "ab"), transcribed(2, "ab"), utterances))
    items = task.evaluate("test", {u.id: says("ab", task.alphabet) for u in utterances}).items
    assert items is not None
    assert (items.cluster, list(items.clusters)) == (cluster, clusters)


COLLAPSES = [
    ((105, 63), (100, 100)),  # no output
    ((105, 63), (100, 96)),
    ((105, 62.2), (99.9, 68.9)),  # on real LibriSpeech: a word in 700 more, and more letters wrong
    ((101, 50), (94, 92)),  # the most frequent word and nothing else
]
"""(WER, CER) of the better one, and of the one that WER alone prefers."""


def rank(output: tuple[float, float], **values: Any) -> tuple[float, ...]:
    wer, cer = output
    task = make(**values)
    return task.rank({"wer": wer, "cer": cer}, error=wer if task.selection == "wer" else cer)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        *COLLAPSES,
        ((89.9, 80), (90, 30)),  # every output with a tenth of the words right
        ((20, 9), (21, 5)),  # by WER
        ((99, 60), (101, 65)),
        ((99, 96), (100, 100)),
        ((100, 100), (250, 130)),  # what is worse than nothing
    ],
)
def test_a_collapsed_output_is_not_preferred(better: tuple[float, float], worse: tuple[float, float]) -> None:
    assert rank(better) < rank(worse)
    assert (rank(better, selection="wer") > rank(worse, selection="wer")) == ((better, worse) in COLLAPSES)
    assert (rank(better, selection="cer") < rank(worse, selection="cer")) == (better[1] < worse[1])


rates = st.sampled_from([0.0, 30.0, 89.9, 90.0, 100.0, 105.0, 240.0]) | st.floats(0, 300)


@given(st.lists(st.tuples(rates, rates), min_size=2, max_size=6))
@settings(max_examples=60, deadline=None)
def test_the_chosen_output_is_the_best_of_its_kind(outputs: list[tuple[float, float]]) -> None:
    chosen = min(outputs, key=rank)
    if chosen[0] < 90:
        assert chosen[0] == min(wer for wer, _ in outputs)
    else:
        assert all(wer >= 90 and cer >= chosen[1] for wer, cer in outputs)


def test_a_search_compares_by_the_same_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = {1e-5: (100.0, 96.0), 1e-4: (105.0, 63.0), 1e-3: (118.0, 64.0)}
    runs: list[tuple[str, str]] = []

    def run(settings: config.RunConfig, folder: Path, mode: str, **_: Any) -> Outcome:
        runs.append((mode, folder.name))
        output = outputs[settings.optim.lr]
        return Outcome(folder, {"step": 200, "metric": "wer", "value": output[0], "rank": rank(output)}, None)

    monkeypatch.setattr("benchmark.engine.run.run", run)
    recipe = study.Study(
        name="s",
        upstreams={"u": study.StudyUpstream("wav2vec2_tiny")},
        tasks={"librispeech_asr": study.StudyTask()},
        regimes={"frozen": study.StudyRegime(search={"optim.lr": list(outputs)})},
    )
    (cell,) = study.cells(recipe)
    outcome = run_cell(recipe, cell, tmp_path, None)
    assert runs == [("fit", "lr=1e-05"), ("fit", "lr=0.0001"), ("fit", "lr=0.001"), ("evaluate", "lr=0.0001")]
    written = json.loads((tmp_path / cell.folder / "cell.json").read_text())
    assert (written["chosen"], written["metric"]) == (outcome["chosen"], "wer") == ("lr=0.0001", "wer")
    assert [(one["dev"], one["rank"]) for one in written["tried"]] == [(100, [1, 96]), (105, [1, 63]), (118, [1, 64])]


def test_what_is_reported_is_a_metric() -> None:
    assert make().selection == make_own(own(*[transcribed(k, "a") for k in (1, 2, 3)])).selection == "wer"
    assert make(selection="wer").selection == "wer"
    assert make(selection="cer").selection == "cer"


def test_dev_has_its_own_set() -> None:
    task = make()
    result = task.evaluate("dev", {"2-1-0000": says("A CAT SIT")})
    assert result.metrics["dev"]["wer"] == pytest.approx(100 / 3)
    assert set(result.metrics) == {"dev"}
    assert set(result.files) == {"predictions_dev.jsonl"}
    assert list(result.items.ids) == ["2-1-0000"]


def test_files_name_other_corpora_s_utterances() -> None:
    utterances = [
        Utterance("a b(1).wav", "/a", text="ab", speaker="s 1"),
        Utterance("clips/x.wav", "/b", text="ab"),
    ]
    task = make_own(own(transcribed(1, "ab"), transcribed(2, "ab"), utterances))
    result = task.evaluate("test", {u.id: says("ab", task.alphabet) for u in utterances})
    assert result.files["hyp_test.trn"] == "ab (s_1-a_b_1_.wav)\nab (clips/x.wav)\n"


def test_silence_is_a_test_item(caplog: pytest.LogCaptureFixture) -> None:
    """Words that are recognised in it are insertions; training, and a set of nothing else, refuse it."""
    corpus = librispeech(dev_clean=transcribed(2, "A CAT SAT", ""), test_clean=transcribed(3, " ", "THE CAT SAT ON"))
    with caplog.at_level(logging.INFO):
        task = make(corpus)
    assert "dev: 1 of 2 utterances have an empty transcript; what is recognised there" in caplog.text
    assert "test: 1 of 2 utterances have an empty transcript" in caplog.text
    said = {"3-1-0000": "A CAT", "3-1-0001": "THE CAT SAT ON", "4-1-0000": "THE MAT"}
    result = task.evaluate("test", {name: says(text) for name, text in said.items()})
    assert result.metrics["test"]["wer"] == result.metrics["test"]["insertions"] == 50
    assert result.files["ref_test.trn"] == " (3-1-0000)\nTHE CAT SAT ON (3-1-0001)\n"
    silent = dict(said, **{"3-1-0000": ""})
    assert task.evaluate("test", {name: says(text) for name, text in silent.items()}).metrics["test"]["wer"] == 0
    for bad in ({"train_clean_100": transcribed(1, "A", "")}, {"test_other": transcribed(4, "", "")}):
        with pytest.raises(BenchmarkError, match=r"utterances of (train|test-other) have an empty transcript"):
            make(librispeech(**bad))


def test_trn_ids_are_unique() -> None:
    utterances = [Utterance(name, "/a", text="ab") for name in ("a b", "a_b", "a%20b", "a(b")]
    task = make_own(own(transcribed(1, "ab"), transcribed(2, "ab"), utterances))
    result = task.evaluate("test", {u.id: says("ab", task.alphabet) for u in utterances})
    lines = str(result.files["hyp_test.trn"]).splitlines()
    assert len(set(lines)) == 4
    assert all(len(line.split()) == 2 for line in lines)


def test_alarm_when_the_output_is_nearly_empty(caplog: pytest.LogCaptureFixture) -> None:
    task = make(librispeech(dev_clean=transcribed(2, "A BCD", "EFGH"), test_clean=transcribed(3, "ABCD")))
    blank = acoustics("-" * 100)

    def warned(split: str, *logs: Tensor) -> str:
        caplog.clear()
        task.evaluate(split, dict(zip([u.id for u in task.splits[split]], logs, strict=True)))
        return caplog.text

    alarm = warned("dev", blank, blank)
    assert "dev: the output is nearly empty: the hypotheses have 0.0 % as many characters as the references" in alarm
    assert "(2 of 2 are empty), 100.0 % of all frames are blank, and the CER is 100.0. CTC is stuck" in alarm
    for advice in ("trainer.max_steps", "optim.lr", "optim.upstream_lr", "optim.warmup_steps", "tune.freeze_updates"):
        assert advice in alarm
    assert "0.0 % as many" in warned("dev", acoustics("|" * 99 + "-"), acoustics("|" * 99 + "-"))  # spaces only
    written = acoustics("AB" + "-" * 40)  # 97.6 % blank
    alarm = warned("dev", written, blank)
    assert "22.2 % as many characters as the references (1 of 2 are empty), 98.6 % of all" in alarm
    assert "and the CER is 77.8" in alarm
    assert not warned("dev", acoustics("ABC" + "-" * 997), blank)  # 99.7 % blank, 3 characters of 9
    assert not warned("dev", says("E"), says("FGHI"))
    alarm = warned("test", blank, blank)
    assert [name for name in ("test", "test-other") if f"{name}: the output is nearly empty" in alarm] == [
        "test",
        "test-other",
    ]
    assert "The chosen checkpoint does not recognise this speech" in alarm
    assert not warned("test", says("ABXX"), says("TO"))


# --- Language model ---------------------------------------------------------------------------------------------------


@pytest.fixture
def arpa(tmp_path: Path) -> str:
    (tmp_path / "lm.arpa").write_text(ARPA, encoding="utf-8")
    return str(tmp_path / "lm.arpa")


def ambiguous(task: SpeechRecognition) -> dict[str, Tensor]:
    return {u.id: acoustics(SPOKEN, second=MEANT) for u in task.splits["test"]}


def test_a_language_model_changes_wer(arpa: str) -> None:
    """The acoustics are nearly tied between CUT and CAT: the best path says CUT, the model knows what cats do."""
    task = make(librispeech(test_other=transcribed(4, "THE CAT SAT")), lm={"path": arpa})
    result = task.evaluate("test", ambiguous(task))
    assert list(result.metrics) == ["test", "test-other", "test_lm", "test-other_lm"]  # without first
    assert list(result.items.hypotheses) == ["THE CUT SAT"] * 2  # greedy
    assert result.metrics["test"]["wer"] == pytest.approx(100 / 6)  # THE CUT SAT, THE CAT SAT
    assert result.metrics["test_lm"]["wer"] == pytest.approx(100 / 6)
    assert result.metrics["test-other"]["wer"] == pytest.approx(100 / 3)
    assert result.metrics["test-other_lm"]["wer"] == 0
    assert "blank_share" not in result.metrics["test_lm"]
    assert "THE CAT SAT" in str(result.files["hyp_test-other_lm.trn"])
    assert result.files["ref_test-other_lm.trn"] == result.files["ref_test-other.trn"]
    assert json.loads(str(result.files["predictions_test-other_lm.jsonl"]))["prediction"] == "THE CAT SAT"
    dev = task.evaluate("dev", {u.id: says("A CAT SAT") for u in task.splits["dev"]})
    assert list(dev.metrics) == ["dev"]


def test_without_the_extra_it_is_skipped_and_said(
    arpa: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "flashlight.lib.text.decoder.kenlm", None)
    task = make(lm={"path": arpa})
    assert "beam search with a language model is not installed (ModuleNotFoundError:" in caplog.text
    assert "pip install -e '.[lm]'" in caplog.text
    result = task.evaluate("test", ambiguous(task))
    assert list(result.metrics) == ["test", "test-other"]
    assert SpeechRecognition.present(task.config, task.vocabulary(), says("A CAT")) == {"text": "A CAT"}
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        make()
    assert not caplog.text  # nobody asked for one


# --- Other data -------------------------------------------------------------------------------------------------------


def test_a_split_in_place_of_the_test_sets() -> None:
    corpus = librispeech(dev_other=transcribed(7, "IT'S A CAT"))
    task = make(target=Target("dev-other", corpus))
    assert task.splits.corpus == "librispeech"
    assert [u.id for u in task.splits["test"]] == ["7-1-0000"]
    assert set(task.evaluate("test", {"7-1-0000": says("IT'S A HAT")}).metrics) == {"test"}
    assert [u.id for u in task.splits["dev"]] == ["2-1-0000"]
    with pytest.raises(BenchmarkError, match=r"no split 'dev-others'.*Did you mean 'dev-other'"):
        make(target=Target("dev-others", corpus))


def test_own_data_in_place_of_the_test_sets(caplog: pytest.LogCaptureFixture) -> None:
    task = make(target=Target("test", Corpus("manifests", {"test": transcribed(1, "lower case is fine")})))
    assert (task.splits.corpus, [u.id for u in task.splits["test"]]) == ("manifests", ["1-1-0000"])
    assert task.vocabulary() == make().vocabulary()
    assert "1 speakers are in both the training data and test: 1;" in caplog.text
    assert task.evaluate("test", {"1-1-0000": says("LOWER CASE IS FINE")}).metrics["test"]["wer"] == 0
    for text, message in (
        ("№ 5", "2 characters are not in the alphabet"),
        ("", "empty transcript"),
        (None, "no transcr"),
    ):
        with pytest.raises(BenchmarkError, match=message):
            make(target=Target("test", Corpus("manifests", {"test": transcribed(8, text)})))
    shared = own(transcribed(1, "a"), transcribed(2, "a"), transcribed(3, "a"))
    make_own(shared)
    caplog.clear()
    SpeechRecognition.split(
        options(ASRConfig, **OWN), shared, Target("test", own([], [], transcribed(1, "a")))
    )  # a warning, even of own data
    assert "1 speakers are in both the training data and test: 1;" in caplog.text


def test_present(arpa: str) -> None:
    task = make(lm={"path": arpa})
    shown = SpeechRecognition.present(task.config, task.vocabulary(), acoustics(SPOKEN, second=MEANT))
    assert shown == {"text": "THE CUT SAT", "text_lm": "THE CAT SAT"}
    assert SpeechRecognition.present(ASRConfig(), task.vocabulary(), says("IT'S").numpy()) == {"text": "IT'S"}


# --- Cards ------------------------------------------------------------------------------------------------------------


def test_librispeech_asr_has_superbs_values() -> None:
    """s3prl ec8064b5, downstream/asr/config.yaml; batch: problem/asr/superb_asr.py."""
    values: Any = downstreams.get("librispeech_asr").load()()["config"]
    task = options(ASRConfig, **values["task"])
    assert task == ASRConfig(text=TextConfig("librispeech", "upper"))  # the defaults are SUPERB's too
    assert task.selection == "wer_or_cer"  # but for this
    assert (task.train_splits, task.dev_splits) == (["train-clean-100"], ["dev-clean"])
    head = task.head
    assert (head.name, head.size, head.hidden, head.layers, head.dropout) == ("bilstm", 1024, 1024, 2, 0.2)
    augment = task.specaugment
    assert (augment.enabled, augment.time_warp, augment.time_masks, augment.time_width) == (True, 5, 2, 40)
    assert (augment.feature_masks, augment.feature_width) == (4, 50)
    lm = task.lm
    assert (lm.path, lm.beam, lm.threshold, lm.weight, lm.word_score) == (None, 5, 25, 2, -1)
    optim = values["optim"]
    assert (optim["name"], optim["lr"], optim["weight_decay"], optim["clip"]) == ("adam", 1e-4, 0, 1)
    trainer = values["trainer"]
    assert (trainer["max_steps"], trainer["batch_size"], trainer["accumulate"]) == (200000, 16, 1)
    assert (trainer["eval_every"], trainer["eval_batch_size"]) == (2000, 1)


@pytest.mark.parametrize(
    ("name", "train", "dev", "steps"),
    [
        ("librispeech960_asr", ["train-clean-100", "train-clean-360", "train-other-500"], ["dev-clean"], 200000),
        ("librilight_10min_asr", ["librilight-10min"], ["dev-other"], 13000),
        ("librilight_1h_asr", ["librilight-1h"], ["dev-other"], 13000),
        ("librilight_10h_asr", ["librilight-10h"], ["dev-other"], 20000),
        ("asr", ["train"], ["dev"], 20000),
    ],
)
def test_other_cards_differ_in_data_and_length(name: str, train: list[str], dev: list[str], steps: int) -> None:
    card: Any = downstreams.get(name).load()()
    superb: Any = downstreams.get("librispeech_asr").load()()["config"]
    task = options(ASRConfig, **card["config"]["task"])
    assert (task.train_splits, task.dev_splits) == (train, dev)
    assert (task.head, task.specaugment) == (ASRConfig().head, ASRConfig().specaugment)
    assert card["config"]["trainer"]["max_steps"] == steps
    assert card["config"]["optim"] == superb["optim"]
    assert (task.selection, card["version"]) == ("wer_or_cer", 2)
    assert "selection" not in card["finetune"].get("task", {})  # one rule for every regime
    own_data = name == "asr"
    assert task.text == (TextConfig() if own_data else TextConfig("librispeech", "upper"))
    assert card["corpus"] == ("manifests" if own_data else "librispeech" if "960" in name else "librilight")
