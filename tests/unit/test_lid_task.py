"""Language identification: its splits, what it refuses, its evaluation sets and the files that it writes."""

from __future__ import annotations

import csv
import json
import logging
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from tasks import make_task as make
from tasks import options

from benchmark import config, metrics
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Corpus, Splits, Target, Utterance
from benchmark.registry import downstreams, tasks
from downstream.classifier import Classifier
from downstream.embedders import EMBEDDERS, EmbedderConfig
from downstream.lid.task import LanguageIdentification, LIDConfig
from downstream.losses import LOSSES, LossConfig
from downstream.splits import hold_out

LANGUAGES = ("de", "en", "fi", "tr")


def utterances(split: str, each: int, languages: Sequence[str] = LANGUAGES, **more: Any) -> list[Utterance]:
    """``each`` utterances of each language, two of each speaker."""
    return [
        Utterance(f"{split}/{language}/{k:03d}", f"/{split}/{language}/{k}.wav", language=language, split=split,
                  **{"speaker": f"{split} {language} {k // 2}"} | more)
        for language in languages
        for k in range(each)
    ]  # fmt: skip


def make_corpus(name: str = "commonlanguage", **splits: list[Utterance]) -> Corpus:
    return Corpus(
        name, {"train": utterances("train", 20), "dev": utterances("dev", 4), "test": utterances("test", 9)} | splits
    )


def make_task(
    config: LIDConfig | None = None, corpus: Corpus | None = None, target: Target | None = None, **more: Any
) -> LanguageIdentification:
    """With durations of 1, 2 … seconds in the order of a split's ids."""
    return make(LanguageIdentification, config or LIDConfig(), corpus or make_corpus(), target, **more)


def held_out(pool: list[Utterance], share: float, most: int) -> set[str]:
    return hold_out(pool, "language", ("speaker", "session"), share, most, 0)


def parts(splits: Splits) -> dict[str, list[Utterance]]:
    return {name: list(splits[name]) for name in ("train", "dev", "test")}


def posteriors(task: LanguageIdentification, split: str, strength: float = 2.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = {}
    for utterance in task.splits[split]:
        logits = torch.randn(len(task.classes), generator=generator)
        logits[task.classes[str(utterance.language)]] += strength
        found[utterance.id] = logits.log_softmax(0)
    return found


# --- Splits -----------------------------------------------------------------------------------------------------------


def test_splits_are_the_publishers() -> None:
    task = make_task()
    assert {name: len(found) for name, found in parts(task.splits).items()} == {"train": 80, "dev": 16, "test": 36}
    for name, found in parts(task.splits).items():
        assert [u.id for u in found] == sorted(u.id for u in found)
        assert {u.split for u in found} == {name}
    assert task.vocabulary() == {"languages": ["de", "en", "fi", "tr"]}
    assert task.targets(task.splits["train"][19:21]).tolist() == [0, 1]
    assert task.targets(task.splits["train"]).dtype == torch.int64


def test_dev_is_held_out_by_speaker_and_stratified() -> None:
    task = make_task(LIDConfig(dev_split=None))
    speakers = {name: {u.speaker for u in task.splits[name]} for name in ("train", "dev")}
    assert not speakers["train"] & speakers["dev"]
    assert Counter(u.language for u in task.splits["dev"]) == dict.fromkeys(LANGUAGES, 2)
    assert len(task.splits["train"]) == 72
    assert {u.split for u in task.splits["dev"]} == {"train"}
    assert [u.id for u in make_task(LIDConfig(dev_split=None)).splits["dev"]] == [u.id for u in task.splits["dev"]]
    other = make_task(LIDConfig(dev_split=None, dev_seed=1)).splits["dev"]
    assert [u.id for u in other] != [u.id for u in task.splits["dev"]]
    few = make_task(LIDConfig(dev_split=None, dev_share=0.5, dev_utterances=4)).splits["dev"]
    assert Counter(u.language for u in few) == dict.fromkeys(LANGUAGES, 4)


@st.composite
def pools(draw: st.DrawFn) -> list[Utterance]:
    """Own data as they come: some speakers and sessions known, some speakers of two languages."""
    known = draw(st.sampled_from([("speaker", "session"), ("speaker",), ("session",), ()]))
    count = draw(st.integers(2, 40))
    return [
        Utterance(
            f"u{k}",
            f"/u{k}.wav",
            language=draw(st.sampled_from("abc")),
            **{kind: str(draw(st.integers(0, 8))) for kind in known if draw(st.booleans())},
        )
        for k in range(count)
    ]


@given(pools(), st.sampled_from([0.1, 0.3, 0.6]), st.sampled_from([1, 3, 100]), st.randoms())
@settings(max_examples=150, deadline=None)
def test_what_is_held_out(pool: list[Utterance], share: float, most: int, order: random.Random) -> None:
    try:
        held = held_out(pool, share, most)
    except BenchmarkError:  # every unit is needed for training
        return
    dev, train = [u for u in pool if u.id in held], [u for u in pool if u.id not in held]
    assert dev
    assert {u.language for u in train} == {u.language for u in pool}, "a language is left without training data"
    assert not ({u.speaker for u in dev} & {u.speaker for u in train}) - {None}
    unknown = [[u.session for u in part if u.speaker is None] for part in (dev, train)]
    assert not (set(unknown[0]) & set(unknown[1])) - {None}
    shuffled = list(pool)
    order.shuffle(shuffled)
    assert held_out(shuffled, share, most) == held
    # no more than asked for, but for the one unit that a language at least gives
    if all(u.speaker is None and u.session is None for u in pool):
        for language, count in Counter(u.language for u in dev).items():
            available = sum(u.language == language for u in pool)
            assert count <= max(1, min(most, int(share * available)))


def test_a_new_speaker_moves_no_others() -> None:
    pool = utterances("train", 40)
    held = held_out(pool, 0.2, 100)
    more = held_out([*pool, replace(pool[0], id="new", speaker="new")], 0.2, 100)
    assert len(held - more) <= 2  # a speaker's


def test_a_language_of_one_speaker_is_not_in_dev(caplog: pytest.LogCaptureFixture) -> None:
    pool = [*utterances("train", 20, ("de", "en")), *utterances("train", 5, ("fi",), speaker="only")]
    with caplog.at_level(logging.WARNING):
        held = held_out(pool, 0.2, 100)
    assert "1 values of 'language' have only one speaker or session and are not in dev: fi" in caplog.text
    assert not any("/fi/" in name for name in held)
    with pytest.raises(BenchmarkError, match=r"no dev set can be held out .* --dev FILE"):
        held_out(utterances("train", 5, ("fi",), speaker="only"), 0.2, 100)


def test_own_data_without_dev_holds_it_out_and_official_corpora_do_not() -> None:
    own = make_corpus("manifests")
    del own.splits["dev"]
    assert Counter(u.split for u in make_task(corpus=own).splits["dev"]) == {"train": 8}
    official = make_corpus()
    official.splits["dve"] = official.splits.pop("dev")
    with pytest.raises(
        BenchmarkError, match=r"'commonlanguage' has no split 'dev' .task.dev_split.*Did you mean 'dve'"
    ):
        make_task(corpus=official)
    del own.splits["test"]
    with pytest.raises(BenchmarkError, match=r"no split 'test' .task.test_split.*own data, give it as --test FILE"):
        make_task(corpus=own)


def test_languages_can_be_chosen() -> None:
    task = make_task(LIDConfig(languages=["tr", "de"]))
    assert task.vocabulary() == {"languages": ["de", "tr"]}
    assert all({u.language for u in found} == {"de", "tr"} for found in parts(task.splits).values())
    with pytest.raises(BenchmarkError, match=r"task.languages names du, of which 'train' .* no utterance.* de, "):
        make_task(LIDConfig(languages=["du", "de", "en"]))
    with pytest.raises(BenchmarkError, match=r"'train' of 'commonlanguage' has no utterance of task.languages .xx"):
        make_task(LIDConfig(languages=["xx"]))


# --- Bad data ---------------------------------------------------------------------------------------------------------


def test_an_unseen_language_is_named() -> None:
    for name in ("dev", "test"):
        corpus = make_corpus(**{name: utterances(name, 2, ("de", "xx", "yy"))})
        message = rf"{name} has 2 languages that training does not have: xx, yy .4 utterances: {name}/xx/000"
        with pytest.raises(BenchmarkError, match=message):
            make_task(corpus=corpus)
    corpus.splits["test"] = utterances("test", 2, ("de", "xx"))
    assert make_task(LIDConfig(languages=["de", "en"]), corpus).vocabulary() == {"languages": ["de", "en"]}


def test_a_language_without_test_data_is_stated(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        task = make_task(corpus=make_corpus(test=utterances("test", 4, ("de", "fi"))))
    assert "2 languages of training do not occur in test; averages are over the others: en, tr" in caplog.text
    found = task.evaluate("test", posteriors(task, "test")).metrics["test"]
    assert (found["languages"], found["utterances"]) == (2, 8)


@pytest.mark.parametrize("kind", ["speaker", "session"])
@pytest.mark.parametrize("name", ["dev", "test"])
def test_shared_speakers_are_refused_or_counted(kind: str, name: str, caplog: pytest.LogCaptureFixture) -> None:
    corpus = make_corpus("manifests")
    corpus.splits["train"][7] = replace(corpus.splits["train"][7], **{kind: "shared"})
    corpus.splits[name][3] = replace(corpus.splits[name][3], **{kind: "shared"})
    with pytest.raises(BenchmarkError, match=rf"{name} shares 1 {kind}s with training: shared .*shared_speakers=true"):
        make_task(corpus=corpus)
    with caplog.at_level(logging.WARNING):
        make_task(LIDConfig(shared_speakers=True), corpus)
    assert f"{name} shares 1 {kind}s with training: shared (1 utterances)" in caplog.text


def test_an_utterance_without_a_language_is_named() -> None:
    for name in ("train", "dev", "test"):
        corpus = make_corpus()
        corpus.splits[name][2] = replace(corpus.splits[name][2], language=None)
        with pytest.raises(
            BenchmarkError, match=rf"split '{name}' .* has 1 utterances without the label 'language': {name}/de/002"
        ):
            make_task(corpus=corpus)


def test_a_budget_that_loses_a_language_is_refused() -> None:
    left = [u for u in make_task().splits["train"] if u.language not in ("fi", "tr")]
    with pytest.raises(BenchmarkError, match=r"no training utterance of 2 languages of dev is left: fi, tr.*--budget"):
        make_task(train=left)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dev_share": 0.0}, "dev_share must be more than 0"),
        ({"dev_share": 1.0}, "less than 1, got 1.0"),
        ({"dev_utterances": 0}, "dev_utterances must be at least 1"),
        ({"buckets": [20.0, 5.0]}, "increasing order"),
        ({"buckets": [0.0]}, "above 0"),
        ({"head": {"name": "men"}}, "unknown head 'men'.*Did you mean 'mean'"),
        ({"loss": {"name": "softmax2"}}, "unknown loss 'softmax2'"),
        ({"train_split": "trian"}, "no split 'trian' .*Did you mean 'train'"),
        ({"test_split": "tset"}, "no split 'tset' .*Did you mean 'test'"),
    ],
)
def test_bad_options_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        make_task(options(LIDConfig, **values))


def test_a_typo_in_a_nested_option_gets_a_suggestion() -> None:
    card: Any = downstreams.get("lid").load()()
    with pytest.raises(BenchmarkError, match=r"unknown option 'task.head.sise'. Did you mean 'task.head.size'"):
        config.compose(card, LIDConfig, [], ["task.head.sise=12"])


# --- Head -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", sorted(EMBEDDERS))
@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_heads_predict_log_posteriors_whatever_the_batch(head: str, loss: str) -> None:
    torch.manual_seed(0)
    sizes = {"ecapa": {"channels": 16, "pooled": 24}, "asp": {"pooled": 24}, "xvector": {"pooled": 24}}.get(head, {})
    made = LIDConfig(head=EmbedderConfig(head, size=16, **sizes), loss=LossConfig(loss))
    classifier = LanguageIdentification.make_head(made, {"languages": list(LANGUAGES)}, 8)
    assert isinstance(classifier, Classifier)
    features, lengths = torch.randn(3, 40, 8), torch.tensor([40, 17, 25])
    assert classifier.loss(features, lengths, torch.tensor([0, 3, 1])).ndim == 0
    classifier.eval()
    together = classifier.predict(features, lengths)
    for row, length, found in zip(features, lengths, together, strict=True):
        assert found.shape == (4,)
        assert float(found.exp().sum()) == pytest.approx(1, abs=1e-5)
        (alone,) = classifier.predict(row[None, :length], length[None])
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)


def test_one_language_is_no_choice() -> None:
    with pytest.raises(BenchmarkError, match="at least 2 languages are needed to train on, training data have de"):
        LanguageIdentification.make_head(LIDConfig(), {"languages": ["de"]}, 8)


def test_a_prediction_as_it_is_written() -> None:
    vocabulary = {"languages": ["de", "en", "fi"]}
    found = LanguageIdentification.present(LIDConfig(), vocabulary, torch.tensor([0.2, 0.7, 0.1]).log())
    assert found["language"] == "en"
    assert list(found["posteriors"]) == ["en", "de", "fi"]
    assert found["posteriors"] == pytest.approx({"de": 0.2, "en": 0.7, "fi": 0.1}, rel=1e-5)
    assert json.loads(json.dumps(found)) == found
    with pytest.raises(BenchmarkError, match="does not fit 3 languages"):
        LanguageIdentification.present(LIDConfig(), vocabulary, torch.zeros(4))


# --- Evaluation -------------------------------------------------------------------------------------------------------


def test_metrics_are_scikit_learns_and_the_files_hold_them() -> None:
    task = make_task(LIDConfig(buckets=[5.0, 20.0]))
    result = task.evaluate("test", posteriors(task, "test"))
    assert set(result.files) == {"predictions.jsonl", "confusion.csv", "confusion.png", "det.png"}
    rows = [json.loads(line) for line in str(result.files["predictions.jsonl"]).splitlines()]
    assert [row["id"] for row in rows] == [u.id for u in task.splits["test"]]
    reference, prediction = [row["reference"] for row in rows], [row["prediction"] for row in rows]
    found = result.metrics["test"]
    assert 40 < found["accuracy"] < 95
    assert found["accuracy"] == pytest.approx(100 * accuracy_score(reference, prediction))
    assert found["macro_f1"] == pytest.approx(100 * f1_score(reference, prediction, average="macro"))
    assert (found["languages"], found["utterances"]) == (4, 36)

    header, *table = csv.reader(str(result.files["confusion.csv"]).splitlines())
    assert header == ["reference", *LANGUAGES]
    assert [row[0] for row in table] == list(LANGUAGES)
    counts = np.array([[int(cell) for cell in row[1:]] for row in table])
    np.testing.assert_array_equal(counts, confusion_matrix(reference, prediction, labels=LANGUAGES))

    # from the file alone, set by set: log-posteriors are in the order of the table's columns
    references = np.array([header[1:].index(name) for name in reference])
    llrs = metrics.detection_llrs([row["log_posteriors"] for row in rows])
    seconds = np.array([row["seconds"] for row in rows])
    members = {
        "test": seconds > 0,
        "test_0-5s": seconds < 5,
        "test_5-20s": (seconds >= 5) & (seconds < 20),
        "test_20s+": seconds >= 20,
    }
    assert list(result.metrics) == list(members)
    for name, chosen in members.items():
        found = result.metrics[name]
        assert found["utterances"] == chosen.sum()
        assert found["macro_accuracy"] == pytest.approx(
            metrics.macro_accuracy(references[chosen], llrs[chosen].argmax(1))
        )
        if name == "test_0-5s":  # utterances of 1 to 4 s, all of de: nothing to detect
            assert not {"eer", "cavg", "min_cavg"} & found.keys()
            assert found["languages"] == 1
            continue
        assert found["cavg"] == pytest.approx(metrics.cavg(references[chosen], llrs[chosen]))
        assert found["min_cavg"] == pytest.approx(metrics.min_cavg(references[chosen], llrs[chosen]))
        assert found["eer"] == pytest.approx(metrics.eer(*metrics.language_pairs(references[chosen], llrs[chosen])))
    for name in ("confusion.png", "det.png"):
        assert result.files[name]().startswith(b"\x89PNG")  # type: ignore[operator]


def test_dev_has_the_metric_of_the_selection_and_no_files() -> None:
    task = make_task()
    result = task.evaluate("dev", posteriors(task, "dev"))
    assert list(result.metrics) == ["dev"]
    assert task.selection in result.metrics["dev"]
    assert metrics.find(task.selection).higher_is_better
    assert not result.files
    perfect = task.evaluate("dev", posteriors(task, "dev", strength=50.0)).metrics["dev"]
    assert [perfect[name] for name in ("accuracy", "macro_accuracy", "macro_f1", "eer", "cavg", "min_cavg")] == [
        100, 100, 100, 0, 0, 0,
    ]  # fmt: skip


def test_a_collapsed_classifier_is_at_chance() -> None:
    task = make_task()
    flat = {u.id: np.full(4, -np.log(4)) for u in task.splits["test"]}
    found = task.evaluate("test", flat).metrics["test"]
    assert found["macro_accuracy"] == pytest.approx(25)
    assert found["eer"] == pytest.approx(50)
    assert (found["cavg"], found["min_cavg"]) == (pytest.approx(0.5), pytest.approx(0.5))


def test_buckets_are_half_open_and_empty_ones_are_left_out() -> None:
    config = LIDConfig(buckets=[2.5, 3.0, 1000.0])
    task = make_task(config)
    ids = [u.id for u in task.splits["test"]]
    predictions = posteriors(task, "test")
    assert {name: found["utterances"] for name, found in task.evaluate("test", predictions).metrics.items()} == {
        "test": 36, "test_0-2.5s": 2, "test_3-1000s": 34,
    }  # fmt: skip
    task = make_task(config, seconds=dict.fromkeys(ids, 3.0))
    assert list(task.evaluate("test", predictions).metrics) == ["test", "test_3-1000s"]
    task = make_task(LIDConfig(buckets=[]))
    assert list(task.evaluate("test", predictions).metrics) == ["test"]


def test_a_test_set_of_one_language_has_no_detection() -> None:
    task = make_task(corpus=make_corpus(test=utterances("test", 6, ("fi",))))
    result = task.evaluate("test", posteriors(task, "test"))
    assert set(result.metrics["test"]) == {"accuracy", "macro_accuracy", "macro_f1", "languages", "utterances"}
    assert "det.png" not in result.files
    assert "confusion.png" in result.files


def test_bad_predictions_are_named() -> None:
    task = make_task()
    predictions = posteriors(task, "test")
    name = task.splits["test"][2].id
    for value, message in [
        (torch.full((4,), float("nan")), "not finite"),
        (torch.zeros(5), r"must be 4 log-posteriors, got shape \(5,\)"),
        (torch.zeros(1, 4), r"shape \(1, 4\)"),
    ]:
        with pytest.raises(BenchmarkError, match=f"the prediction of utterance {name} .*{message}"):
            task.evaluate("test", predictions | {name: value})
    del predictions[name]
    with pytest.raises(BenchmarkError, match=f"no prediction of utterance {name}"):
        task.evaluate("test", predictions)


# --- Elsewhere --------------------------------------------------------------------------------------------------------


def test_a_target_is_a_split_or_a_manifest(caplog: pytest.LogCaptureFixture) -> None:
    corpus = make_corpus()
    task = make_task(corpus=corpus, target=Target("dev", corpus))
    assert [u.id for u in task.splits["test"]] == [u.id for u in task.splits["dev"]]
    LanguageIdentification.split(LIDConfig(), corpus, Target("train", corpus))
    assert "training has seen 80 of the 80 utterances of train" in caplog.text
    own = Corpus("manifests", {"test": utterances("other", 3, ("en", "fi"))})
    task = make_task(corpus=corpus, target=Target("test", own))
    assert [u.id for u in task.splits["test"]] == sorted(u.id for u in own.splits["test"])
    assert task.splits["train"] == make_task(corpus=corpus).splits["train"]
    assert task.splits.corpus == "manifests"
    assert task.vocabulary() == {"languages": list(LANGUAGES)}
    assert task.evaluate("test", posteriors(task, "test")).metrics["test"]["languages"] == 2


def test_what_was_held_out_is_a_target() -> None:
    corpus = make_corpus("manifests")
    del corpus.splits["dev"]
    task = make_task(corpus=corpus, target=Target("dev", corpus))
    assert task.splits["test"] == task.splits["dev"] == make_task(corpus=corpus).splits["dev"]


def test_a_target_that_cannot_be_scored_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    corpus = make_corpus()

    def split(name: str, other: Corpus) -> Splits:
        return LanguageIdentification.split(LIDConfig(), corpus, Target(name, other))

    with pytest.raises(BenchmarkError, match=r"no split 'tets' .*Did you mean 'test'"):
        split("tets", corpus)
    with pytest.raises(BenchmarkError, match="test has 1 languages that training does not have: xx"):
        split("test", Corpus("manifests", {"test": utterances("other", 3, ("en", "xx"))}))
    nameless = [replace(u, language=None) for u in utterances("other", 1)]
    with pytest.raises(
        BenchmarkError, match="split 'test' of 'manifests' has 4 utterances without the label 'language'"
    ):
        split("test", Corpus("manifests", {"test": nameless}))
    known = [replace(u, speaker="train de 0") for u in utterances("other", 1)]
    with caplog.at_level(logging.WARNING):
        split("test", Corpus("manifests", {"test": known}))
    assert "test shares 1 speakers with training" in caplog.text


# --- Cards ------------------------------------------------------------------------------------------------------------


def test_cards_have_sids_values() -> None:
    """s3prl ec8064b5, downstream/voxceleb1/config.yaml, and the author of s3prl #514."""
    config: Any = downstreams.get("voxlingua107_lid").load()()["config"]
    assert config["task"]["head"] == {"name": "mean", "size": 256}
    assert config["task"]["loss"] == {"name": "softmax"}
    assert (config["optim"]["name"], config["optim"]["lr"], config["optim"]["clip"]) == ("adam", 1e-4, 1.0)
    trainer = config["trainer"]
    assert (trainer["batch_size"], trainer["accumulate"], trainer["max_steps"]) == (8, 4, 100000)
    assert config["data"]["crop_seconds"] == 8.0


@pytest.mark.parametrize(
    ("name", "corpus", "dev", "test"),
    [
        ("voxlingua107_lid", "voxlingua107", None, "dev"),
        ("commonlanguage_lid", "commonlanguage", "dev", "test"),
        ("fleurs_lid", "fleurs", "dev", "test"),
        ("lid", "manifests", "dev", "test"),
    ],
)
def test_cards_fit_their_corpora(name: str, corpus: str, dev: str | None, test: str) -> None:
    card: Any = downstreams.get(name).load()()
    assert tasks.get(card["task"]).load() is LanguageIdentification
    config = options(LIDConfig, **card["config"]["task"])
    assert (card["corpus"], config.train_split, config.dev_split, config.test_split) == (corpus, "train", dev, test)
    assert config.shared_speakers == (name != "lid")
    assert config.head == EmbedderConfig("mean", 256)
    assert any("ntuned" in item or "tune optim.lr" in item for item in card["deviations"])
