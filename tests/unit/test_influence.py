"""The influence of speakers, languages and classes: exact, and shown on a page with what is behind it."""

from __future__ import annotations

import html
import io
import json
import re
import shutil
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile
from made_studies import change as set_value
from made_studies import write_cell, write_study

from benchmark import cli, metrics
from benchmark.errors import BenchmarkError
from benchmark.evaluation import Classes, Edits, Items, Trials, describe
from benchmark.interfaces import Utterance
from benchmark.report import clips, compare, explained, whom
from benchmark.report.behind import alignment
from benchmark.report.collect import gather
from benchmark.statistics import influence as influences

SEEDS = range(5)


# --- Test sets --------------------------------------------------------------------------------------------------------


def verification(
    random: np.random.Generator, speakers: int = 40, each: int = 12, planted: Sequence[int] = (), noise: float = 0.6
) -> Trials:
    """Cosine scores of noisy speaker vectors. Half of a planted speaker's utterances are of somebody else."""
    owner = np.repeat(np.arange(speakers), each)
    voice = owner.copy()
    for number, speaker in enumerate(planted):
        voice[speaker * each : speaker * each + each // 2] = speakers + number
    centres = random.normal(size=(speakers + len(planted), 24))
    vectors = centres[voice] + noise * random.normal(size=(owner.size, 24))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    one, other = np.triu_indices(owner.size, k=1)
    same = np.flatnonzero(owner[one] == owner[other])
    different = random.choice(np.flatnonzero(owner[one] != owner[other]), same.size, replace=False)
    kept = random.permutation(np.concatenate([same, different]))
    one, other = one[kept], other[kept]
    return Trials(
        ids=[f"id{o:03d}/{k % each}.wav" for k, o in enumerate(owner)], clusters=[f"id{o:03d}" for o in owner],
        cluster="speaker", labels=(owner[one] == owner[other]).astype(int), enrolment=one, test=other,
        scores=np.sum(vectors[one] * vectors[other], axis=1),
    )  # fmt: skip


def classification(
    random: np.random.Generator, speakers: int = 60, each: int = 10, planted: Sequence[int] = ()
) -> Classes:
    """Languages of speakers, 15 % of the utterances recognised wrongly. Planted speakers have a wrong label."""
    names = [f"l{k}" for k in range(6)]
    owner = np.repeat(np.arange(speakers), each)
    spoken = owner % len(names)
    logits = 2.2 * np.eye(len(names))[spoken] + random.normal(size=(owner.size, len(names)))
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    labels = spoken.copy()
    for speaker in planted:
        labels[owner == speaker] = (labels[owner == speaker] + 1) % len(names)
    return Classes(
        ids=[f"u{k:04d}" for k in range(owner.size)], clusters=[f"s{o:03d}" for o in owner], cluster="speaker",
        names=names, references=labels, predictions=logs.argmax(1), log_posteriors=logs,
    )  # fmt: skip


def recognition(random: np.random.Generator, speakers: int = 40, each: int = 8, planted: Sequence[int] = ()) -> Edits:
    """Transcripts with one word in ten wrong; those of planted speakers belong to other utterances."""
    owner = np.repeat(np.arange(speakers), each)
    said = [[f"w{random.integers(200)}" for _ in range(random.integers(4, 12))] for _ in owner]
    heard = [" ".join(word if random.random() > 0.1 else "x" for word in words) for words in said]
    references = [" ".join(words) for words in said]
    for speaker in planted:
        first = speaker * each
        references[first : first + each] = references[first + 1 : first + each] + references[first : first + 1]
    return Edits(
        ids=[f"u{k:04d}" for k in range(owner.size)], clusters=[f"s{o:03d}" for o in owner], cluster="speaker",
        references=references, hypotheses=heard,
    )  # fmt: skip


def without(items: Items, groups: Sequence[str], group: str) -> Items:
    """The items of everybody else, by a plain loop."""
    if isinstance(items, Trials):
        pairs = zip(items.enrolment, items.test, strict=True)
        kept = [k for k, (one, other) in enumerate(pairs) if group not in (groups[one], groups[other])]
    else:
        kept = [k for k in range(len(items)) if groups[k] != group]
    return items.take(np.array(kept, dtype=int))


# --- Exactness --------------------------------------------------------------------------------------------------------

CASES = {
    "trials": (verification, ("eer", "min_dcf_p01", "min_dcf_p05")),
    "classes": (classification, ("accuracy", "macro_accuracy", "macro_f1", "cavg", "min_cavg", "eer", "top5_accuracy")),
    "edits": (recognition, ("wer", "cer")),
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, (_, names) in CASES.items() for name in names])
def test_it_is_the_metric_minus_the_metric_without_the_speaker(kind: str, name: str) -> None:
    make: Any = CASES[kind][0]
    items = make(np.random.default_rng(3), speakers=12)
    metric = metrics.METRICS[name]
    found = influences.influence(items, metric)
    assert found.names == tuple(sorted({*items.clusters}))
    assert found.value == pytest.approx(metrics.compute(metric, items), abs=1e-10)
    for k, group in enumerate(found.names):
        left = without(items, items.clusters, group)
        assert found.items[k] == len(items) - len(left)
        assert found.without[k] == pytest.approx(metrics.score(left, [name])[name], abs=1e-10), group
        assert found.influence[k] == pytest.approx(found.value - metrics.score(left, [name])[name], abs=1e-10)


@pytest.mark.usefixtures("registries")
def test_any_metric_of_trials_is_computed_anew() -> None:
    @metrics.metric("gap", kind="trials", label="gap")
    def gap(items: Trials) -> float | None:
        means = [float(items.scores[items.labels == label].mean()) for label in (0, 1) if label in items.labels]
        return means[1] - means[0] if len(means) == 2 else None

    items = verification(np.random.default_rng(3), speakers=5)
    assert not influences.quick(items, metrics.METRICS["gap"])
    assert influences.quick(items, metrics.METRICS["eer"])
    found = influences.influence(items, metrics.METRICS["gap"])
    assert found.value == pytest.approx(gap(items))
    assert found.without == pytest.approx([gap(without(items, items.clusters, of)) for of in found.names])


@pytest.mark.parametrize("kind", CASES)
def test_any_other_groups_are_left_out_as_exactly(kind: str) -> None:
    """Groups of several speakers, and of utterances across speakers: then a trial may be within a group or across."""
    make: Any = CASES[kind][0]
    random = np.random.default_rng(4)
    items = make(random, speakers=12)
    for groups in ([f"g{int(name[-2:]) % 3}" for name in items.clusters], [f"g{k % 5}" for k in range(len(items.ids))]):
        for name in CASES[kind][1]:
            found = influences.influence(items, metrics.METRICS[name], groups)
            told = [metrics.score(without(items, groups, group), [name])[name] for group in found.names]
            assert found.without == pytest.approx(told, abs=1e-10)


@pytest.mark.parametrize("seed", SEEDS)
def test_equal_scores_are_no_exception(seed: int) -> None:
    random = np.random.default_rng(seed)
    items = verification(random, speakers=8, each=6, noise=2.0)
    items = replace(items, scores=np.round(items.scores, 1))
    assert len({*items.scores}) < 25
    for name in CASES["trials"][1]:
        found = influences.influence(items, metrics.METRICS[name])
        told = [metrics.compute(metrics.METRICS[name], without(items, items.clusters, of)) for of in found.names]
        assert found.without == pytest.approx(told, abs=1e-10)


def test_what_is_not_determined_without_a_group_is_left_open() -> None:
    items = verification(np.random.default_rng(0), speakers=2, each=4)
    found = influences.influence(items, metrics.METRICS["eer"])
    assert np.isnan(found.without).all()  # one speaker is left: no nontargets
    assert np.isnan(found.influence).all()
    three = verification(np.random.default_rng(0), speakers=3, each=4)
    groups = ["a" if name == "id000" else "b" for name in three.clusters]
    part = influences.influence(three, metrics.METRICS["eer"], groups)
    assert np.isnan(part.without).tolist() == [False, True]
    assert part.order().tolist() == [0, 1]


def test_refused() -> None:
    items = classification(np.random.default_rng(0))
    with pytest.raises(BenchmarkError, match="metric 'wer' is not defined on classes"):
        influences.influence(items, metrics.METRICS["wer"])
    with pytest.raises(BenchmarkError, match="at least 2 groups, there is 1"):
        influences.influence(items, metrics.METRICS["accuracy"], ["one"] * len(items))
    with pytest.raises(BenchmarkError, match="3 groups for 600 utterances"):
        influences.influence(items, metrics.METRICS["accuracy"], ["a", "b", "c"])


def test_means_and_differences_are_those_of_the_metric() -> None:
    random = np.random.default_rng(5)
    runs = [replace(recognition(np.random.default_rng(1), speakers=6), hypotheses=hypotheses) for hypotheses in (
        [" ".join(f"w{random.integers(200)}" for _ in range(6)) for _ in range(48)] for _ in range(4))]  # fmt: skip
    wer = metrics.METRICS["wer"]
    each = [influences.influence(items, wer) for items in runs]
    change = influences.difference(influences.mean(each[:2]), influences.mean(each[2:]))

    def of(group: str | None) -> float:
        values = [metrics.compute(wer, i if group is None else without(i, i.clusters, group)) for i in runs]
        return float(np.mean(values[2:]) - np.mean(values[:2]))  # type: ignore[arg-type]

    assert change.value == pytest.approx(of(None))
    assert change.influence == pytest.approx([of(None) - of(group) for group in change.names])
    with pytest.raises(BenchmarkError, match="same groups"):
        influences.difference(each[0], replace(each[1], names=each[1].names[::-1]))


# --- What is wrong with a test set comes first ------------------------------------------------------------------------

PLANTED = (7, 19, 31)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("make", "name"),
    [(verification, "eer"), (classification, "accuracy"), (recognition, "wer")],
)
def test_mislabelled_speakers_rank_first(make: Any, name: str, seed: int) -> None:
    metric = metrics.METRICS[name]
    items = make(np.random.default_rng(seed), planted=PLANTED)
    found = influences.influence(items, metric)
    first = {int(found.names[k][-2:]) for k in found.order()[: len(PLANTED)]}
    assert first == {*PLANTED}
    harm = found.influence * (-1 if metric.higher_is_better else 1)
    assert all(harm[k] > 0 for k in found.order()[: len(PLANTED)])
    plain = influences.influence(make(np.random.default_rng(seed)), metric)
    largest = [float(np.abs(one.influence)[one.order()[0]]) for one in (found, plain)]
    assert largest[0] > 1.2 * largest[1]  # and stand out from what chance does


# --- Spread -----------------------------------------------------------------------------------------------------------


def test_the_spread_is_that_of_ml_superb_2() -> None:
    """Mean, standard deviation, worst and mean of the 15 worst, as its script computes them from a list of CERs."""
    rates = np.random.default_rng(0).uniform(5, 80, size=142)
    of = influences.spread(rates)
    listed = sorted(rates.tolist(), reverse=True)
    assert (of.groups, of.worst_groups, of.worst_value) == (142, 15, listed[0])
    assert rates[of.worst] == listed[0]
    assert of.mean == pytest.approx(sum(listed) / len(listed))
    assert of.sd == pytest.approx(statistics.stdev(listed))
    assert of.worst_mean == pytest.approx(sum(listed[:15]) / 15)
    accuracies = influences.spread(100 - rates, higher_is_better=True)
    assert accuracies.worst_mean == pytest.approx(100 - of.worst_mean)
    few = influences.spread([3.0, np.nan, 5.0])
    assert (few.groups, few.worst, few.worst_groups, few.worst_mean) == (2, 2, 1, 5.0)
    with pytest.raises(BenchmarkError, match="at least one group"):
        influences.spread([np.nan])


def test_rates_within_groups() -> None:
    items = recognition(np.random.default_rng(2), speakers=5)
    for k, group in enumerate(sorted({*items.clusters})):
        own = items.take(np.flatnonzero(np.array(items.clusters) == group))
        assert influences.group_rates(items, items.clusters)[k] == pytest.approx(metrics.edit_rate(own.words))
        characters = influences.group_rates(items, items.clusters, characters=True)
        assert characters[k] == pytest.approx(metrics.edit_rate(own.characters))
    classes = classification(np.random.default_rng(2))
    names = [classes.names[k] for k in classes.references]
    recall = 100 - influences.group_rates(classes, names)
    assert recall.mean() == pytest.approx(metrics.macro_accuracy(classes.references, classes.predictions))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_threshold_is_where_the_error_rates_meet(seed: int) -> None:
    items = verification(np.random.default_rng(seed), noise=2.0)
    wrong, _ = influences.item_errors(items)
    eer = metrics.eer(items.labels, items.scores)
    for label in (0, 1):
        assert 100 * wrong[items.labels == label].mean() == pytest.approx(eer, abs=0.5)


# --- Runs on disk -----------------------------------------------------------------------------------------------------

NASTY = "<script>alert('1')</script>&\"x\"/é\u202e"
"""An id, a class, a word: whatever people write into manifests."""


def put(folder: Path, items: Items, lines: str, regime: str = "frozen", data: dict[str, Any] | None = None) -> Path:
    """A run's folder with these items."""
    template = write_cell(folder / "made", "verify", "frozen", "all", 0)
    template.rename(folder / "run")
    values = metrics.score(items)
    name = {"trials": "eer", "classes": "accuracy", "edits": "wer"}[items.kind]
    for keys, value in {
        ("metrics", "test"): values, ("selected", "metric"): name, ("regime",): regime,
        ("data", "test", "languages"): 0, **{(key,): value for key, value in (data or {}).items()},
    }.items():  # fmt: skip
        set_value(folder / "run" / "result.json", *keys, to=value)
    (folder / "run" / "config.yaml").write_text(
        "downstream: asr\nupstream: {name: wav2vec2_tiny}\ndata: {root: /nowhere}\n"
    )
    (folder / "run" / items.file).write_text(lines, encoding="utf-8")
    (folder / "run" / "evaluation.json").write_text(describe(items, list(values)), encoding="utf-8")
    return folder / "run"


def put_classes(folder: Path, items: Classes, regime: str = "frozen") -> Path:
    lines = [
        {"id": name, "reference": items.names[r], "prediction": items.names[p], "log_posteriors": logs.tolist()}
        for name, r, p, logs in zip(
            items.ids, items.references, items.predictions, items.log_posteriors, strict=True  # type: ignore[arg-type]
        )
    ]  # fmt: skip
    return put(folder, items, "".join(json.dumps(line) + "\n" for line in lines), regime)


def put_edits(folder: Path, items: Edits, regime: str = "frozen") -> Path:
    lines = [
        {"id": name, "reference": r, "prediction": h}
        for name, r, h in zip(items.ids, items.references, items.hypotheses, strict=True)
    ]
    return put(folder, items, "".join(json.dumps(line) + "\n" for line in lines), regime)


def put_trials(folder: Path, items: Trials, regime: str = "frozen") -> Path:
    rows = zip(items.labels, items.enrolment, items.test, items.scores, strict=True)
    return put(
        folder, items, "".join(f"{y} {items.ids[a]} {items.ids[b]} {float(s)!r}\n" for y, a, b, s in rows), regime
    )


def text(page: str) -> str:
    """What is read: no tags, single spaces."""
    return " ".join(html.unescape(re.sub(r"<style.*?</style>|<[^>]+>", " ", page, flags=re.S)).split())


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    status = cli.main(["influence", *map(str, arguments)])
    shown = capsys.readouterr()
    assert status == 0, shown.err
    return shown.out


def test_the_command_says_whom_a_change_helps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = recognition(np.random.default_rng(0), speakers=6)
    better = [r if k < 40 else h for k, (r, h) in enumerate(zip(first.references, first.hypotheses, strict=True))]
    better[47] = "nothing of it"
    second = replace(first, hypotheses=better)
    frozen, tuned = put_edits(tmp_path / "a", first), put_edits(tmp_path / "b", second, "finetune")
    one = run(capsys, frozen)
    assert one.startswith("some_upstream, frozen: WER ")
    shown = run(capsys, tuned, "--against", frozen, "--top", 3, "-o", tmp_path / "whom.html")
    values = [metrics.edit_rate(items.words) for items in (first, second)]
    assert f"({values[1]:.3g} % against {values[0]:.3g} %)" in shown
    assert "finetune makes fewer errors than frozen on 5 of 6 speakers and more on 1." in shown
    assert "Speaker s005 has the largest influence" in shown
    assert "No single speaker decides which of the two is better." in shown
    assert "… and 3 more" in shown
    page = text((tmp_path / "whom.html").read_text(encoding="utf-8"))
    count, length = sum(second.words[47][:3]), second.words[47].length
    assert f"u0047 frozen: {sum(first.words[47][:3])} error" in page
    assert f"finetune: {count} errors in {length} words {first.references[47].split()[0]}" in page
    rows = (tmp_path / "whom_tables" / "s1_influence_speaker.csv").read_text().splitlines()
    assert len(rows) == 7
    assert rows[1].startswith("s005,8,")
    change = values[1] - values[0]
    left = [metrics.edit_rate(without(items, items.clusters, "s005").words) for items in (first, second)]  # type: ignore
    assert [float(x) for x in rows[1].split(",")[-2:]] == pytest.approx([change - left[1] + left[0], left[1] - left[0]])


def test_an_order_that_rests_on_one_speaker_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = recognition(np.random.default_rng(0), speakers=6)
    heard = ["z" if k < 8 else r for k, r in enumerate(whole.references)]
    first = replace(whole, hypotheses=heard)
    second = replace(whole, hypotheses=[*whole.references[:8], "z", *heard[9:]])
    frozen, tuned = put_edits(tmp_path / "a", first), put_edits(tmp_path / "b", second, "lora")
    shown = run(capsys, tuned, "--against", frozen)
    assert "Which of the two is better rests on a single speaker: without s000 they change places." in shown


def test_that_nobody_changes_the_value_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = recognition(np.random.default_rng(0), speakers=3)
    right = replace(whole, hypotheses=whole.references)
    frozen, tuned = put_edits(tmp_path / "a", right), put_edits(tmp_path / "b", right, "lora")
    shown = run(capsys, frozen)
    assert "No single speaker changes WER: without any one of them it is the same." in shown
    assert "No single speaker changes the difference: without" in run(capsys, tuned, "--against", frozen)
    assert "largest influence" not in shown


def test_runs_of_other_data_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = put_edits(tmp_path / "a", recognition(np.random.default_rng(0), speakers=6))
    other = put_edits(tmp_path / "b", recognition(np.random.default_rng(1), speakers=6))
    for arguments, message in {
        (one, "--against", other): "was scored on another test set than",
        (one, "--metric", "eer"): "do not determine the metric 'eer'",
        (one, "--metric", "zer"): "is not declared in this process",
        (one, "--audio"): "name it by -o",
        (tmp_path,): "holds no result",
        (one, "--by", "gender"): "--train and --test missing",
    }.items():
        assert cli.main(["influence", *map(str, arguments)]) == 1
        assert message in capsys.readouterr().err
    set_value(other / "result.json", "regime", to="finetune")
    assert cli.main(["influence", str(one), str(other)]) == 1
    assert "cannot be averaged; compare two systems by --against" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["influence", str(one), "-o", str(tmp_path)])
    assert "is a folder; name a file" in capsys.readouterr().err
    set_value(one / "result.json", "metrics", "test", "wer", to=99.0)
    assert cli.main(["influence", str(one)]) == 1
    assert "its result has 99" in capsys.readouterr().err


def test_classes_are_told_with_their_confusions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = classification(np.random.default_rng(0), planted=(7,))
    folder = put_classes(tmp_path, items)
    shown = run(capsys, folder, "-o", tmp_path / "whom.html")
    assert "Speaker s007 has the largest influence" in shown
    assert "\nclass  utterances  accuracy (%)" in shown
    recall = {
        name: 100 * float((items.predictions[items.references == k] == k).mean()) for k, name in enumerate(items.names)
    }
    worst = min(recall, key=lambda name: recall[name])
    assert f"{worst}: {recall[worst]:.3g}" in shown
    page = text((tmp_path / "whom.html").read_text(encoding="utf-8"))
    assert re.search(r"Recognised: l2 as l1 \(\d+\)", page)
    assert (tmp_path / "whom_tables" / "s1_confusions.csv").read_text().startswith("said,recognised as,")
    assert "class" in run(capsys, folder, "--by", "class")
    set_value(folder / "result.json", "data", "test", "languages", to=6)
    languages = run(capsys, folder, "--by", "class")
    assert "SD over languages" in languages
    assert "s007" not in languages


def test_speakers_that_are_the_classes_are_told_once() -> None:
    items = classification(np.random.default_rng(0))
    same = replace(items, clusters=[items.names[k] for k in items.references])
    system = explained.System(
        "x", [Path("x")], [same], [{"data": {"test": {"languages": 0}}}], metrics.METRICS["accuracy"]
    )
    assert [grouping.noun for grouping in explained.groupings(system)] == ["speaker"]
    alone = replace(system, items=[replace(items, cluster="utterance", clusters=items.ids)])
    assert [grouping.noun for grouping in explained.groupings(alone)] == ["class"]


# --- The page ---------------------------------------------------------------------------------------------------------


def test_whatever_comes_from_data_is_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edits = recognition(np.random.default_rng(0), speakers=3, each=3)
    edits = replace(
        edits, ids=[f"{NASTY}{k}" for k in range(9)], clusters=[f"{NASTY}{k // 3}" for k in range(9)],
        references=[f"{NASTY} {r}" for r in edits.references],
        hypotheses=[f"<img src=x> {h}" for h in edits.hypotheses],
    )  # fmt: skip
    classes = classification(np.random.default_rng(0), speakers=6)
    classes = replace(classes, names=[f"{NASTY}{k}" for k in range(6)], ids=[f"{NASTY}{k}" for k in range(60)],
                      clusters=[f"{NASTY}{k // 10}" for k in range(60)])  # fmt: skip
    trials = verification(np.random.default_rng(0), speakers=5, each=6, noise=2.0)
    trials = replace(
        trials, ids=[f"{NASTY}{k:02d}" for k in range(30)], clusters=[f"{NASTY}{k // 6}" for k in range(30)]
    )
    for name, folder in {
        "edits": put_edits(tmp_path / "e", edits, f"{NASTY}"), "classes": put_classes(tmp_path / "c", classes),
        "trials": put_trials(tmp_path / "t", trials),
    }.items():  # fmt: skip
        run(capsys, folder, "-o", tmp_path / f"{name}.html")
        page = (tmp_path / f"{name}.html").read_text(encoding="utf-8")
        assert "<script" not in page, name
        assert "<img" not in page, name
        assert "alert(&#x27;1&#x27;)&lt;/script&gt;&amp;&quot;x&quot;" in page, name
        assert "default-src 'none'" in page


def test_alignments() -> None:
    shown = alignment("the cat sat down", "the hat sat there <b>")
    assert (
        text(shown.replace("<del>", " -").replace("<ins>", " +"))
        == "the - cat + hat sat - down + there <b>".replace("- ", "-").replace("+ ", "+")
        or "<del>" in shown
    )
    plain = re.sub(r"</?bdi[^>]*>", "", shown)
    assert plain.startswith("the <del>cat</del> <ins>hat</ins> sat")
    assert "&lt;b&gt;" in plain
    assert re.sub(r"</?bdi[^>]*>", "", alignment("", "a")) == "<ins>a</ins>"
    assert re.sub(r"</?bdi[^>]*>", "", alignment("a b", "")) == "<del>a b</del>"
    assert re.sub(r"</?bdi[^>]*>", "", alignment("abc", "axc", characters=True)) == "a<del>b</del><ins>x</ins>c"


def test_what_is_behind_a_difference_are_the_items_that_changed(tmp_path: Path) -> None:
    first = verification(np.random.default_rng(1), speakers=10, noise=1.5)
    scores = first.scores.copy()
    own = [
        k for k in range(len(first)) if "id004" in (first.clusters[first.enrolment[k]], first.clusters[first.test[k]])
    ]
    targets = [k for k in own if first.labels[k] == 1][:20]
    scores[targets] -= 1.0
    second = replace(first, scores=scores)
    systems = [explained.read([put_trials(tmp_path / of, items, of)]) for of, items in (("a", first), ("b", second))]
    told = explained.explain("x", systems)
    assert told.found[0].change.names[told.found[0].change.order()[0]] == "id004"
    page = whom.page("t", [told], "whom").page
    behind = page.partition("<details")[2].partition("</details>")[0]
    assert behind.count("<li>") == whom.EXAMPLES
    assert behind.count("Same speaker") == whom.EXAMPLES
    assert len(re.findall("frozen: accepted, right|a: accepted, right", text(behind))) >= whom.EXAMPLES - 1


# --- Clips ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def utterances(tmp_path: Path) -> dict[str, Utterance]:
    made = {}
    for k, seconds in enumerate((1.0, 25.0, 2.0)):
        path = tmp_path / f"{k}.wav"
        soundfile.write(path, 0.1 * np.random.default_rng(k).normal(size=round(seconds * 22050)), 22050)
        made[f"u{k}"] = Utterance(f"u{k}", str(path))
    made["cut"] = Utterance("cut", made["u1"].path, start=3.0, duration=0.5)
    made["gone"] = Utterance("gone", str(tmp_path / "gone.wav"))
    return made


def test_clips_are_short_few_and_named_by_numbers(utterances: dict[str, Utterance], monkeypatch: Any) -> None:
    made = clips.Clips({}, "page_clips")
    made.begin(utterances)
    assert made.player("u1") == '<audio controls preload="none" src="page_clips/0001.flac"></audio>'
    assert made.player("u1") == made.player("u1")
    assert (made.player("gone"), made.player("unknown")) == ("", "")
    assert "gone.wav does not exist" in made.problems[0]
    made.player("cut")
    monkeypatch.setattr(made, "_left", 0)
    assert made.player("u0") == ""
    assert made.player("cut") != ""
    lengths = {}
    for name, content in made.files.items():
        samples, rate = soundfile.read(io.BytesIO(content))
        assert rate == clips.RATE
        lengths[name] = samples.size / rate
    assert lengths == {"0001.flac": clips.SECONDS, "0002.flac": 0.5}


def test_a_page_with_audio(tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    items = recognition(np.random.default_rng(0), speakers=4, each=3)
    folder = put_edits(tmp_path, items)
    path = tmp_path / "tone.wav"
    soundfile.write(path, np.sin(np.arange(8000) / 10), 16000)
    monkeypatch.setattr(whom, "at_hand", lambda *_: {name: Utterance(name, str(path)) for name in items.ids})
    output = tmp_path / "out" / "my page.html"
    (tmp_path / "out" / "my page_clips").mkdir(parents=True)
    for name in ("9999.flac", "mine.flac"):
        (tmp_path / "out" / "my page_clips" / name).write_bytes(b"")
    shown = run(capsys, folder, "-o", output, "--audio")
    sources = re.findall(r'<audio [^>]*src="([^"]*)"', output.read_text(encoding="utf-8"))
    assert sources
    assert all((output.parent / unquote(source)).stat().st_size > 100 for source in sources)
    assert f"{len({*sources})} clips in my page_clips/" in shown
    assert sorted(p.name for p in (output.parent / "my page_clips").iterdir())[-1] == "mine.flac"
    assert not (output.parent / "my page_clips" / "9999.flac").exists()


def test_a_page_without_its_data_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = put_edits(tmp_path, recognition(np.random.default_rng(0), speakers=4))
    run(capsys, folder, "-o", tmp_path / "page.html", "--audio")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "no audio:" in page
    assert "<audio" not in page


# --- In a report ------------------------------------------------------------------------------------------------------


def test_a_page_of_a_report(tmp_path: Path) -> None:
    root = write_study(tmp_path / "toy", layers=False)
    gathered = gather([root])
    views = compare.tasks(gathered, compare.Bootstrap(50))
    notices: list[str] = []
    made = whom.of_views(views, notices, title="Whom?", stem="report_whom", back="report.html")
    assert made is not None
    assert not notices
    assert [title for title, _ in made.answers] == [
        f"{task}: finetuned against frozen" for task in ("verify", "languages", "words")
    ]
    assert all(
        re.match(r"finetuned makes fewer errors than frozen on \d+ of \d+ speakers", said) for _, said in made.answers
    )
    assert '<a href="report.html">Back to the report</a>' in made.page
    whom.write(made, tmp_path / "report_whom.html")
    rows = (tmp_path / "report_whom_tables" / "s1_influence_speaker.csv").read_text().splitlines()
    assert len(rows) == 25
    means = {
        regime: np.mean([
            run.value for cell, run in gathered.runs.items()
            if (cell.task, cell.budget, cell.regime) == ("verify", "all", regime)
        ]) for regime in ("frozen", "finetuned")
    }  # fmt: skip
    influence, left = (float(x) for x in rows[1].split(",")[-2:])
    assert influence + left == pytest.approx(means["finetuned"] - means["frozen"], abs=1e-6)


def test_a_task_whose_files_are_gone_is_left_out(tmp_path: Path) -> None:
    root = write_study(tmp_path / "toy", tasks=["words"], layers=False)
    views = compare.tasks(gather([root]), compare.Bootstrap(50))
    for path in root.rglob("predictions.jsonl"):
        path.unlink()
    notices: list[str] = []
    assert whom.of_views(views, notices, title="Whom?", stem="x") is None
    assert "no influences of speakers" in notices[0]


# --- In a browser -----------------------------------------------------------------------------------------------------

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
PROBE = """<body style="margin:0"><pre id="found">nothing</pre><script>
addEventListener('load', () => setTimeout(() => {
  const found = [...document.querySelectorAll('iframe')].map(frame => {
    const page = frame.contentDocument, players = [...page.querySelectorAll('audio')];
    return {
      width: frame.clientWidth, wide: page.documentElement.scrollWidth, players: players.length,
      playable: players.filter(one => one.duration > 0.4).length, failed: players.filter(one => one.error).length,
      outside: [...page.querySelectorAll('p, li, h1, h2, h3, table, td, th, audio, summary, .value, .bar')].filter(
        one => one.getBoundingClientRect().right > frame.clientWidth + 1).length,
    };
  });
  document.getElementById('found').textContent = JSON.stringify(found);
}, 1500));
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine (Debian: apt-get install chromium)")
def test_a_browser_shows_and_plays_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is cut off at any width, with everything opened, and the page's policy lets the clips through."""
    path = tmp_path / "tone.wav"
    soundfile.write(path, np.sin(np.arange(8000) / 10), 16000)
    items = verification(np.random.default_rng(0), speakers=5, each=6, noise=2.0)
    items = replace(items, ids=[f"{'long_' * 12}{k:02d}.wav" for k in range(30)])
    folders = [put_trials(tmp_path / "a", items), put_trials(tmp_path / "b", replace(items, scores=items.scores[::-1]))]
    monkeypatch.setattr(whom, "at_hand", lambda *_: {name: Utterance(name, str(path)) for name in items.ids})
    told = explained.explain("a title that is fairly long", [explained.read([folder]) for folder in folders])
    made = whom.page("Whom does it help?", [told], "whom", audio=True)
    made.page = made.page.replace("<details", "<details open").replace('preload="none"', 'preload="metadata"')
    whom.write(made, tmp_path / "whom.html")
    frames = "".join(
        f'<iframe width="{w}" height="900" style="border:0" src="whom.html"></iframe>' for w in (1200, 390, 320)
    )
    (tmp_path / "probe.html").write_text(PROBE + frames)
    command = [
        BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage",
        "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000",
        "--window-size=1400,1000", "--dump-dom", f"file://{tmp_path / 'probe.html'}",
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout  # type: ignore
    match = re.search(r'<pre id="found">(.*?)</pre>', shown, re.S)
    assert match is not None
    found = json.loads(match[1])
    assert [one["width"] for one in found] == [1200, 390, 320]
    for one in found:
        assert one["wide"] <= one["width"], one
        assert one["outside"] == one["failed"] == 0, one
        assert one["playable"] == one["players"] > 10, one
