"""Speaker verification on a corpus made of names only: held-out speakers, trials, scores, refusals."""

from __future__ import annotations

import logging
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tasks import make_task, options

from benchmark import config
from benchmark.calibration import act_dcf, cllr, min_cllr
from benchmark.errors import BenchmarkError
from benchmark.evaluation import Trials
from benchmark.interfaces import Corpus, Splits, Target, Trial, Utterance
from benchmark.metrics import eer, min_dcf
from benchmark.registry import downstreams
from downstream.sv.norm import AdaptiveSNorm, NormConfig
from downstream.sv.scoring import cosines, stack
from downstream.sv.task import SpeakerVerification, SVConfig
from downstream.sv.trials import TrialList, connected, make_trials


def speech(first: int, speakers: int, sessions: int = 3, each: int = 2, split: str = "dev") -> list[Utterance]:
    return [
        Utterance(f"id{s:05}/v{v}/{u:05}.wav", f"/{s}/{v}/{u}.wav", speaker=f"id{s:05}", session=f"v{v}", split=split)
        for s in range(first, first + speakers)
        for v in range(sessions)
        for u in range(each)
    ]


def make_corpus(speakers: int = 20, **sizes: int) -> Corpus:
    test = speech(9000, 3, split="test")
    official = [
        Trial(1, test[2].id, test[0].id),
        Trial(0, test[0].id, test[6].id),
        Trial(0, test[7].id, test[2].id),
        Trial(1, test[6].id, test[8].id),
    ]
    return Corpus(
        "voxceleb1",
        {"dev": speech(1, speakers, **sizes), "test": test},
        {"veri_test2": official, "veri_test": [*official[::-1], Trial(0, test[4].id, test[7].id)]},
    )


def shuffled(corpus: Corpus, seed: int) -> Corpus:
    splits = {name: random.Random(seed).sample(those, len(those)) for name, those in reversed(corpus.splits.items())}
    return Corpus(corpus.name, splits, corpus.trials)


def made(options: SVConfig, corpus: Corpus | None = None) -> SpeakerVerification:
    return make_task(SpeakerVerification, options, corpus or make_corpus())


def parts(task: SpeakerVerification) -> list[list[Utterance]]:
    return [list(task.splits[name]) for name in ("train", "dev", "test")]


DEV_SPEAKERS = ["id00002", "id00003", "id00005", "id00009"]
DEV_TRIALS = [
    "1 id00002/v0/00001.wav id00002/v1/00000.wav",
    "0 id00002/v2/00000.wav id00003/v0/00001.wav",
    "0 id00003/v2/00000.wav id00009/v0/00000.wav",
    "0 id00003/v2/00001.wav id00009/v2/00001.wav",
    "1 id00005/v0/00000.wav id00005/v2/00000.wav",
    "1 id00005/v0/00001.wav id00005/v1/00001.wav",
]


@pytest.fixture
def task() -> SpeakerVerification:
    return made(SVConfig(), make_corpus())


def test_dev_speakers_are_held_out_of_training(task: SpeakerVerification) -> None:
    train, dev, test = ({u.speaker for u in task.splits[name]} for name in ("train", "dev", "test"))
    assert (len(train), len(dev), len(test)) == (16, 4, 2)  # 20 % of 20; of the test set those in trials
    assert not train & dev
    assert not train & test
    assert len(task.splits["train"]) == 16 * 6
    assert task.classes == {name: i for i, name in enumerate(sorted(str(s) for s in train))}
    assert task.targets(task.splits["train"][::6]).tolist() == list(range(16))
    assert len(made(SVConfig(dev_speakers=2), make_corpus()).classes) == 18
    assert len(made(SVConfig(), make_corpus(4)).classes) == 2


def test_the_choice_does_not_depend_on_the_order_of_folders(task: SpeakerVerification) -> None:
    for seed in range(3):
        other = made(SVConfig(), shuffled(make_corpus(), seed))
        assert (parts(other), other.classes) == (parts(task), task.classes)
        assert all(list(other.splits.sets[name]) == list(trials) for name, trials in task.splits.sets.items())
    another = made(SVConfig(dev_seed=1), make_corpus())
    assert {u.speaker for u in another.splits["dev"]} != {u.speaker for u in task.splits["dev"]}


def test_the_choice_is_part_of_the_protocol() -> None:
    """These must never change: runs with different dev speakers cannot be compared. Raise the card's version if so."""
    task = made(SVConfig(dev_trials=6), make_corpus())
    assert sorted({u.speaker for u in task.splits["dev"]}) == DEV_SPEAKERS
    assert [f"{t.label} {t.enrolment} {t.test}" for t in task.splits.sets["dev"]] == DEV_TRIALS


def test_one_more_speaker_moves_at_most_one() -> None:
    before = made(SVConfig(dev_speakers=4), make_corpus(30))
    after = made(SVConfig(dev_speakers=4), make_corpus(31))
    assert len({u.speaker for u in before.splits["dev"]} & {u.speaker for u in after.splits["dev"]}) >= 3


def test_dev_trials_are_balanced_and_cross_session(task: SpeakerVerification) -> None:
    speaker = {u.id: u.speaker for u in task.splits["dev"]}
    session = {u.id: u.session for u in task.splits["dev"]}
    trials = task.splits.sets["dev"]
    assert all(trial.label == (speaker[trial.enrolment] == speaker[trial.test]) for trial in trials)
    assert all(session[t.enrolment] != session[t.test] for t in trials if t.label)
    pairs = [frozenset((t.enrolment, t.test)) for t in trials]
    assert len(set(pairs)) == len(pairs)
    assert {len(pair) for pair in pairs} == {2}
    # 4 speakers x (15 pairs - 3 within a session)
    assert [sum(t.label == label for t in trials) for label in (0, 1)] == [48, 48]
    capped = made(SVConfig(dev_trials=30), make_corpus())
    assert [sum(t.label == label for t in capped.splits.sets["dev"]) for label in (0, 1)] == [15, 15]


def test_dev_utterances_are_capped_and_spread_over_sessions() -> None:
    task = made(SVConfig(dev_utterances=6), make_corpus(sessions=3, each=50))
    for name in {u.speaker for u in task.splits["dev"]}:
        sessions = [u.session for u in task.splits["dev"] if u.speaker == name]
        assert sorted(sessions) == ["v0", "v0", "v1", "v1", "v2", "v2"]
    assert len(task.splits["train"]) == 16 * 150


def test_speakers_of_one_session_still_give_target_trials() -> None:
    task = made(SVConfig(), make_corpus(sessions=1, each=4))
    assert sum(t.label for t in task.splits.sets["dev"]) == 4 * 6
    corpus = make_corpus(sessions=2, each=1)
    corpus.splits["dev"] = [replace(u, session=None) for u in corpus.splits["dev"]]
    assert sum(t.label for t in made(SVConfig(), corpus).splits.sets["dev"]) == 4


def test_voxceleb1_size_is_prepared() -> None:
    corpus = make_corpus(1211, sessions=18, each=7)
    task = made(SVConfig(), corpus)
    assert len(task.classes) == 1171
    assert len(task.splits.sets["dev"]) == 20000
    assert 1500 < len(task.splits["dev"]) <= 1600


def test_classes_follow_a_label_budget(task: SpeakerVerification) -> None:
    kept = {u.speaker for u in task.splits["train"][:30]}
    left = [u for u in task.splits["train"] if u.speaker in kept]
    task = make_task(SpeakerVerification, SVConfig(), make_corpus(), train=left)
    assert len(task.classes) == len(kept) == 5
    assert task.vocabulary() == {"speakers": sorted(kept)}
    assert task.make_head(SVConfig(), task.vocabulary(), 8).objective.W.shape == (512, 5)
    alone = make_task(SpeakerVerification, SVConfig(), make_corpus(), train=left[:3])
    with pytest.raises(BenchmarkError, match="at least 2 speakers are needed to train on, training data have id00001"):
        alone.make_head(SVConfig(), alone.vocabulary(), 8)


def embeddings_of(task: SpeakerVerification, split: str, noise: float = 1.0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    voices = {u.speaker: torch.randn(16, generator=generator) for u in task.splits[split]}
    return {u.id: voices[u.speaker] + noise * torch.randn(16, generator=generator) for u in task.splits[split]}


def test_scores_are_written_in_the_order_of_the_list(task: SpeakerVerification) -> None:
    embeddings = embeddings_of(task, "test")
    assert [u.id for u in task.splits["test"]] == sorted(
        {name for key in ("test", "veri_test") for t in task.splits.sets[key] for name in (t.enrolment, t.test)}
    )
    result = task.evaluate("test", embeddings)
    assert list(result.metrics) == ["test", "veri_test"]
    assert list(result.files) == ["scores.txt", "scores_veri_test.txt", "det.png"]
    assert result.files["det.png"]()[:8] == b"\x89PNG\r\n\x1a\n"
    for key, name in (("test", "scores.txt"), ("veri_test", "scores_veri_test.txt")):
        lines = [line.split(" ") for line in result.files[name].splitlines()]
        assert [(int(a), b, c) for a, b, c, _ in lines] == [
            (t.label, t.enrolment, t.test) for t in task.splits.sets[key]
        ]
        for trial, (*_, score) in zip(task.splits.sets[key], lines, strict=True):
            cosine = torch.cosine_similarity(embeddings[trial.enrolment], embeddings[trial.test], dim=0)
            assert float(score) == pytest.approx(float(cosine), abs=1e-6)


def test_metrics_can_be_recomputed_from_the_scores_file(task: SpeakerVerification) -> None:
    result = task.evaluate("dev", embeddings_of(task, "dev", noise=3.0))
    assert (list(result.metrics), list(result.files)) == (["dev"], ["scores_dev.txt"])
    rows = [line.split() for line in result.files["scores_dev.txt"].splitlines()]
    labels, scores = [int(row[0]) for row in rows], [float(row[3]) for row in rows]
    assert 5 < result.metrics["dev"]["eer"] < 45
    assert result.metrics["dev"] == {
        "eer": eer(labels, scores),
        "min_dcf_p01": min_dcf(labels, scores, 0.01),
        "min_dcf_p05": min_dcf(labels, scores, 0.05),
        "act_dcf_p01": act_dcf(labels, scores, 0.01),
        "act_dcf_p05": act_dcf(labels, scores, 0.05),
        "cllr": pytest.approx(cllr(labels, scores)),
        "min_cllr": min_cllr(labels, scores),
    }
    assert task.selection in result.metrics["dev"]
    perfect = task.evaluate("dev", embeddings_of(task, "dev", noise=0.0)).metrics["dev"]
    assert [perfect[name] for name in ("eer", "min_dcf_p01", "min_dcf_p05", "min_cllr")] == [0.0] * 4


def test_collapsed_embeddings_are_at_chance(task: SpeakerVerification) -> None:
    result = task.evaluate("dev", {u.id: np.zeros(4) for u in task.splits["dev"]}).metrics["dev"]
    costs = ("min_dcf_p01", "min_dcf_p05", "act_dcf_p01", "act_dcf_p05", "cllr", "min_cllr")
    assert result == {"eer": 50.0, **dict.fromkeys(costs, pytest.approx(1.0))}


def test_scores_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch, task: SpeakerVerification) -> None:
    embeddings = embeddings_of(task, "dev")
    trials = task.splits.sets["dev"]
    rows = stack(trials.ids, embeddings)
    whole = cosines(trials, rows)
    monkeypatch.setattr("downstream.sv.scoring.CHUNK", 7)
    np.testing.assert_array_equal(cosines(trials, rows), whole)


def test_bad_embeddings_are_named(task: SpeakerVerification) -> None:
    embeddings = embeddings_of(task, "test")
    name = task.splits["test"][2].id
    for value, message in [
        (torch.full((16,), float("nan")), "not finite"),
        (torch.zeros(8), r"shape \(8,\), expected \(16,\)"),
        (torch.zeros(1, 16), r"shape \(1, 16\), expected \(16,\)"),
    ]:
        with pytest.raises(BenchmarkError, match=f"the embedding of utterance {name} .*{message}"):
            task.evaluate("test", embeddings | {name: value})
    del embeddings[name]
    with pytest.raises(BenchmarkError, match=f"no embedding of utterance {name}"):
        task.evaluate("test", embeddings)


def test_trials_of_training_speakers_are_refused() -> None:
    corpus = make_corpus()
    task = made(SVConfig(), corpus)
    known = task.splits["train"][0]
    corpus.trials["vox1_h"] = [*corpus.trials["veri_test"], Trial(0, known.id, task.splits["test"][0].id)]
    for listed in (SVConfig(trials="vox1_h"), SVConfig(more_trials=["vox1_h"])):
        with pytest.raises(BenchmarkError, match=f"'vox1_h' has 1 speakers that training sees: {known.speaker}"):
            made(listed, corpus)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trials": "veri_tst2"}, r"no trial list 'veri_tst2' .*Did you mean 'veri_test2'"),
        ({"train_split": "train"}, "no split 'train' .*dev, test"),
        ({"dev_speakers": 1}, "must be at least 2"),
        ({"dev_trials": 0}, "must be at least 2"),
        ({"dev_utterances": 500}, r"at most 5000, got 40 \* 500"),
        ({"head": {"name": "ecappa"}}, "unknown head 'ecappa'"),
        ({"norm": {"name": "snrom"}}, r"unknown norm 'snrom' \(task.norm.name\). Did you mean 'snorm'"),
        (
            {"norm": {"top_n": 1}},
            "task.norm.top_n must be at least 2 and task.norm.utterances at least 1, got 1 and 10",
        ),
    ],
)
def test_bad_options_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        SpeakerVerification.split(options(SVConfig, **values), make_corpus())


def test_a_typo_in_a_nested_option_gets_a_suggestion() -> None:
    card: Any = downstreams.get("sv").load()()
    with pytest.raises(BenchmarkError, match=r"unknown option 'task.head.poled'. Did you mean 'task.head.pooled'"):
        config.compose(card, SVConfig, [], ["task.head.name=xvector", "task.head.poled=12"])


def test_unusable_corpora_are_refused() -> None:
    def refused(message: str, corpus: Corpus) -> None:
        with pytest.raises(BenchmarkError, match=message):
            made(SVConfig(), corpus)

    refused("has 3 speakers; at least 4 are needed", make_corpus(3))
    refused(
        "no dev trials can be made of the speakers .*: a different task.dev_seed holds out others",
        make_corpus(sessions=1, each=1),
    )
    corpus = make_corpus()
    corpus.splits["dev"][5] = replace(corpus.splits["dev"][5], speaker=None)
    refused("split 'dev' of 'voxceleb1' has 1 utterances without the label 'speaker': id00001/v2/00001.wav", corpus)
    corpus = make_corpus()
    corpus.trials["veri_test2"] = corpus.trials["veri_test2"][:1]
    refused("'veri_test2' needs target .1. and nontarget .0. trials", corpus)
    corpus = make_corpus()
    corpus.trials["veri_test"].append(Trial(0, "id1/x/1.wav", "id2/x/1.wav"))
    refused("'veri_test' names 2 utterances that the corpus does not have: id1/x/1.wav, id2/x/1.wav", corpus)
    corpus = make_corpus()
    corpus.trials["veri_test"] += [Trial(1, i, i) for i in (corpus.splits["test"][3].id, corpus.splits["test"][4].id)]
    refused(
        "'veri_test' has 2 trials of an utterance with itself: id09000/v1/00001.wav, id09000/v2/00000.wav. .* remove",
        corpus,
    )
    corpus = make_corpus()
    trial = corpus.trials["veri_test2"][1]
    corpus.trials["veri_test2"][1] = replace(trial, label=1)
    refused(
        f"'veri_test2' has 1 trials whose label contradicts the utterances' speakers: 1 {trial.enrolment} {trial.test}",
        corpus,
    )


def test_lists_that_are_not_there_are_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        task = made(SVConfig(more_trials=["list_test_all2", "veri_test", "x"]), make_corpus())
    assert list(task.splits.sets) == ["dev", "test", "veri_test"]
    assert "voxceleb1 has no trial list list_test_all2, x (task.more_trials): not scored" in caplog.text


def test_trials_are_kept_as_arrays() -> None:
    corpus = make_corpus()
    for given in corpus.trials.values():
        trials = TrialList(given)
        assert list(trials) == given
        assert [trials[i] for i in range(len(trials))] == given
        assert trials[1:3] == given[1:3]
        assert trials.ids == sorted({name for t in given for name in (t.enrolment, t.test)})
    assert list(TrialList([])) == []


# --- Own data ---------------------------------------------------------------------------------------------------------

OWN = SVConfig(train_split="train", dev_split="dev", test_split="test", trials="trials", more_trials=[])


def own_corpus(**splits: list[Utterance]) -> Corpus:
    return Corpus("manifests", {"train": speech(1, 8), "test": speech(9000, 3)} | splits)


def test_own_data_without_dev_and_trials() -> None:
    task = made(OWN, own_corpus())
    assert len(task.classes) == 6
    assert len({u.speaker for u in task.splits["dev"]}) == 2
    assert {u.speaker for u in task.splits["test"]} == {u.speaker for u in own_corpus().splits["test"]}
    trials = list(task.splits.sets["test"])
    assert trials == make_trials(own_corpus().splits["test"], OWN)
    assert [sum(t.label == label for t in trials) for label in (0, 1)] == [36, 36]  # 3 speakers x 12 pairs


def test_own_dev_and_trials_are_used_as_they_are() -> None:
    corpus = own_corpus(dev=speech(500, 5))
    corpus.trials["trials"] = [
        Trial(1, "id09000/v0/00000.wav", "id09000/v1/00001.wav"),
        Trial(0, "id09000/v0/00000.wav", "id09001/v1/00001.wav"),
    ]
    task = made(OWN, corpus)
    assert len(task.classes) == 8
    assert {u.speaker for u in task.splits["dev"]} == {u.speaker for u in corpus.splits["dev"]}
    assert list(task.splits.sets["test"]) == corpus.trials["trials"]
    assert len(task.splits["test"]) == 3
    few = made(replace(OWN, dev_speakers=3), corpus)
    assert len({u.speaker for u in few.splits["dev"]}) == 3


def test_made_trials_stay_affordable(monkeypatch: pytest.MonkeyPatch) -> None:
    """All pairs of the utterances are listed, so their number is bounded; whole speakers are left out."""
    monkeypatch.setattr("downstream.sv.trials.MOST_UTTERANCES", 20)
    test = speech(9000, 10)
    trials = make_trials(test, OWN)
    used = {name for t in trials for name in (t.enrolment, t.test)}
    assert len(used) == 18
    assert len({name.split("/")[0] for name in used}) == 3
    assert make_trials(test[::-1], OWN) == trials


def test_own_data_that_cannot_be_used_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    def refused(message: str, corpus: Corpus) -> None:
        with pytest.raises(BenchmarkError, match=message):
            made(OWN, corpus)

    refused(
        "2 speakers are both in 'train' and in 'dev': id00007, id00008. Verification is of speakers that training has "
        "not seen",
        own_corpus(dev=speech(7, 5)),
    )
    refused("'test' has 2 speakers that training sees: id00007, id00008", own_corpus(test=speech(7, 5)))
    without = own_corpus()
    del without.splits["test"]
    refused("'manifests' has no split 'test' .* give it as --test FILE", without)
    without = own_corpus()
    del without.splits["train"]
    refused("'manifests' has no split 'train' .* give it as --train FILE", without)
    refused(
        "no test trials can be made of the speakers id09000: it needs at least two speakers, one of them with two "
        r"utterances; or give a list \(--trials FILE\)",
        own_corpus(test=speech(9000, 1)),
    )
    nameless = own_corpus(test=[replace(u, speaker=None) for u in speech(9000, 2)])
    refused("split 'test' of 'manifests' has 12 utterances without the label 'speaker': id09000/v0/00000.wav", nameless)
    nameless.trials["trials"] = [
        Trial(1, "id09000/v0/00000.wav", "id09000/v1/00001.wav"),
        Trial(0, "id09000/v0/00000.wav", "id09001/v1/00001.wav"),
    ]
    with caplog.at_level(logging.WARNING):
        assert len(made(OWN, nameless).splits["test"]) == 3
    assert "3 of 3 utterances name no speaker" in caplog.text


def test_evaluation_elsewhere(caplog: pytest.LogCaptureFixture) -> None:
    corpus = make_corpus()

    def elsewhere(name: str, other: Corpus) -> Splits:
        return SpeakerVerification.split(SVConfig(), corpus, Target(name, other))

    task = make_task(SpeakerVerification, SVConfig(), corpus, Target("veri_test", corpus))
    sets = task.splits.sets
    assert (list(sets), list(sets["test"])) == (["dev", "test"], corpus.trials["veri_test"])
    assert [u.id for u in task.splits["test"]] == sets["test"].ids
    assert list(task.evaluate("test", embeddings_of(task, "test")).metrics) == ["test"]
    assert len(elsewhere("test", corpus).test) == 18  # a split: trials are made of it
    own = Corpus("manifests", {"test": speech(700, 4)})
    splits = elsewhere("test", own)
    assert {u.speaker for u in splits.test} == {u.speaker for u in own.splits["test"]}
    assert splits.corpus == "manifests"
    assert splits.train == task.splits.train
    own = replace(own, trials={"trials": list(splits.sets["test"])[::7]})
    assert list(elsewhere("test", own).sets["test"]) == own.trials["trials"]
    assert list(elsewhere("dev", corpus).sets["test"]) == list(sets["dev"])  # those of the held-out speakers
    training = Corpus("elsewhere", {"dev": corpus.splits["dev"]})
    for name, other, message in [
        ("veri_tset", corpus, "is neither a trial list nor a split of 'voxceleb1'. Did you mean 'veri_test'"),
        ("dev", training, "trial list 'dev' has .* speakers that training sees"),
    ]:
        with pytest.raises(BenchmarkError, match=message):
            elsewhere(name, other)
    known = task.splits["train"][0]
    hard = [*corpus.trials["veri_test"], Trial(0, known.id, corpus.splits["test"][0].id)]
    corpus = replace(corpus, trials={**corpus.trials, "list_test_hard2": hard})
    with pytest.raises(BenchmarkError, match=f"'list_test_hard2' has 1 speakers that training sees: {known.speaker}"):
        elsewhere("list_test_hard2", corpus)


def test_the_trials_of_held_out_speakers_are_a_target() -> None:
    corpus = own_corpus()
    splits = SpeakerVerification.split(OWN, corpus, Target("dev", corpus))
    dev = SpeakerVerification.split(OWN, corpus)
    assert (splits.test, list(splits.sets["test"])) == (dev.dev, list(dev.sets["dev"]))
    with pytest.raises(BenchmarkError, match="'dev' is neither a trial list nor a split of 'other'"):
        SpeakerVerification.split(OWN, corpus, Target("dev", Corpus("other", {"test": speech(700, 4)})))


def test_items_carry_speakers_or_what_target_trials_connect(task: SpeakerVerification) -> None:
    predictions = embeddings_of(task, "test")
    result = task.evaluate("test", predictions)
    items = result.items
    assert isinstance(items, Trials)
    assert items.clusters == [name.split("/")[0] for name in items.ids]
    assert result.metrics["test"]["eer"] == eer(items.labels, items.scores)
    lines = str(result.files["scores.txt"]).splitlines()
    assert lines == [
        f"{label} {items.ids[a]} {items.ids[b]} {score:.9g}"
        for label, a, b, score in zip(items.labels, items.enrolment, items.test, items.scores, strict=True)
    ]
    dev = task.evaluate("dev", embeddings_of(task, "dev")).items
    assert isinstance(dev, Trials)
    assert len(dev) == len(task.splits.sets["dev"])
    corpus = make_corpus()
    corpus.splits["test"] = [replace(u, speaker=None) for u in corpus.splits["test"]]
    unknown = made(SVConfig(), corpus).evaluate("test", predictions).items
    assert isinstance(unknown, Trials)
    groups = dict(zip(unknown.ids, unknown.clusters, strict=True))
    trials = task.splits.sets["test"]
    assert all((groups[t.enrolment] == groups[t.test]) == t.label for t in trials)
    assert len(set(groups.values())) == 3  # 0-2, 6-8 and 7
    chain = TrialList([Trial(1, "a", "b"), Trial(1, "b", "c"), Trial(0, "c", "d")])
    assert [connected(chain)[0] == name for name in connected(chain)] == [True, True, True, False]


def test_speakers_that_are_known_stay_clusters_where_others_are_not() -> None:
    """All were guessed from the target trials, which may connect few of a speaker's utterances."""
    trials = TrialList([Trial(1, "a1", "a2"), Trial(1, "a3", "a4"), Trial(1, "b1", "x"), Trial(0, "a1", "y")])
    speakers = dict.fromkeys(("a1", "a2", "a3", "a4"), "anna") | {"b1": "ben"}
    found = dict(zip(trials.ids, connected(trials, [speakers.get(name) for name in trials.ids]), strict=True))
    assert {name: found[name] for name in speakers} == speakers
    assert found["x"] == "ben"
    assert found["y"] not in ("anna", "ben")
    corpus = make_corpus()
    corpus.splits["test"] = [replace(u, speaker=None if u.id == "id09000/v1/00000.wav" else u.speaker)
                             for u in corpus.splits["test"]]  # fmt: skip
    task = made(SVConfig(), corpus)
    items = task.evaluate("test", embeddings_of(task, "test")).items
    assert isinstance(items, Trials)
    known = {u.id: u.speaker for u in task.splits.test}
    assert items.clusters == [known[name] or "id09000" for name in items.ids]


def test_dev_is_of_training_speakers_whatever_ids_others_have() -> None:
    corpus = make_corpus()
    taken = {u.id for u in made(SVConfig(), corpus).splits.dev}
    before = made(SVConfig(), corpus).splits.dev
    corpus.splits["more"] = [Utterance(name, f"/other/{name}") for name in taken]
    assert made(SVConfig(), corpus).splits.dev == before


def test_embeddings_are_presented_as_plain_data() -> None:
    shown = SpeakerVerification.present(SVConfig(), {"speakers": []}, torch.tensor([0.5, -1.0]))
    assert shown == {"embedding": [0.5, -1.0]}


def test_a_cohort_adds_normalised_sets() -> None:
    snorm = SVConfig(norm=NormConfig("snorm", top_n=5, utterances=2))
    task = made(snorm)
    assert task.support("dev") == ()
    cohort = task.support("test")
    assert {u.speaker for u in cohort} == set(task.classes)
    assert len(cohort) == 2 * len(task.classes)
    generator = torch.Generator().manual_seed(1)
    predictions = {u.id: torch.randn(16, generator=generator) for u in (*cohort, *task.splits["test"])}
    result = task.evaluate("test", predictions)
    assert list(result.metrics) == ["test", "test_snorm", "veri_test", "veri_test_snorm"]
    assert list(result.sets) == ["test", "veri_test"]  # what a calibration of dev's cosines is for
    assert list(result.files) == [
        "scores.txt", "scores_test_snorm.txt", "scores_veri_test.txt", "scores_veri_test_snorm.txt", "det.png",
        "det_snorm.png",
    ]  # fmt: skip
    trials, norm = task.splits.sets["veri_test"], AdaptiveSNorm(cohort, predictions, snorm.norm)
    assert np.abs(norm.mean).max() > 0.1
    expected = norm(trials, stack(trials.ids, predictions) - norm.mean)
    written = [float(line.split()[3]) for line in str(result.files["scores_veri_test_snorm.txt"]).splitlines()]
    np.testing.assert_allclose(written, expected, rtol=1e-6)
    plain = made(SVConfig(), make_corpus())
    assert plain.evaluate("test", predictions).files["scores.txt"] == result.files["scores.txt"]
    assert plain.support("test") == ()
    dev = task.evaluate("dev", {u.id: torch.randn(16, generator=generator) for u in task.splits["dev"]})
    assert list(dev.metrics) == ["dev"]
    del predictions[cohort[3].id]
    with pytest.raises(BenchmarkError, match=f"no embedding of utterance {cohort[3].id}"):
        task.evaluate("test", predictions)
    kept = {u.speaker for u in task.splits["train"][:30]}  # a label budget cuts the cohort, too
    left = [u for u in task.splits["train"] if u.speaker in kept]
    task = make_task(SpeakerVerification, snorm, make_corpus(), train=left)
    assert {u.speaker for u in task.support("test")} == kept
