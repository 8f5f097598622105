"""Calibration: costs against cases worked out by hand, definitions and another library; the fit; what a run keeps."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from toys import ToyUpstream, toy_corpus

from benchmark import calibration, evaluation, metrics, plots, registry, results, statistics
from benchmark.calibration import FEWEST, Calibration, act_dcf, cllr, fit, min_cllr, multiclass_cllr
from benchmark.engine import prepare
from benchmark.engine.prepare import Scored
from benchmark.engine.run import run
from benchmark.errors import BenchmarkError
from benchmark.evaluation import Classes, Trials
from benchmark.interfaces import Corpus, Evaluation, Utterance
from benchmark.metrics import cavg, detection_llrs, eer, min_dcf

Scores = NDArray[np.float64]


@st.composite
def trials(draw: st.DrawFn) -> tuple[NDArray[np.int64], Scores]:
    """Labels and scores of 2 to 40 trials, with ties, and with scores that mislead."""
    random = np.random.RandomState(draw(st.integers(0, 2**32 - 1)))
    labels = random.permutation(np.r_[0, 1, random.randint(2, size=draw(st.integers(0, 38)))])
    scores = random.normal(size=len(labels)) * 2 + labels * draw(st.sampled_from([-1.0, 0.0, 2.0, 9.0]))
    return labels, np.round(scores, draw(st.sampled_from([0, 1, 8])))


def items_of(labels: Any, scores: Any, fitted: Calibration | None = None) -> Trials:
    """Trials of which each has two utterances, of speakers of its own."""
    count = len(labels)
    ids = [f"u{i}" for i in range(2 * count)]
    clusters = [f"s{i // 2 if labels[i // 2] else i}" for i in range(2 * count)]
    index = np.arange(count)
    return Trials(ids, clusters, "speaker", np.asarray(labels), 2 * index, 2 * index + 1, np.asarray(scores), fitted)


def classes_of(references: Any, logs: Any, fitted: Calibration | None = None) -> Classes:
    ids = [f"u{i:04}" for i in range(len(references))]
    names = [f"l{i}" for i in range(np.shape(logs)[1])]
    return Classes(ids, ids, "utterance", names, np.asarray(references), np.argmax(logs, 1), np.asarray(logs), fitted)


def spoken(each: int, classes: int = 4, seed: int = 0, sharp: float = 3.0) -> Classes:
    """Log-posteriors that are too sure by the factor ``sharp``, and biased towards the first class."""
    random = np.random.default_rng(seed)
    references = np.repeat(np.arange(classes), each)
    evidence = random.normal(size=(len(references), classes))
    evidence[np.arange(len(references)), references] += 1.5
    logs = sharp * 1.5 * evidence
    logs[:, 0] += 2
    return classes_of(references, logs - np.logaddexp.reduce(logs, axis=1, keepdims=True))


# --- Costs ------------------------------------------------------------------------------------------------------------


def test_costs_worked_out_by_hand() -> None:
    assert cllr([1, 0], [0.0, 0.0]) == 1
    assert cllr([1, 0], [np.log(3), -np.log(3)]) == pytest.approx(np.log2(4 / 3))
    assert cllr([1, 1, 0], [np.log(3), 0.0, np.log(3)]) == pytest.approx(((np.log2(4 / 3) + 1) / 2 + 2) / 2)
    assert cllr([1, 0], [1000.0, 1000.0]) == pytest.approx(500 / np.log(2))  # no overflow
    # pools: {2}, {1.5, 1} and {0}: the middle one's likelihood ratio is 1, the others cost nothing
    assert min_cllr([1, 0, 1, 0], [2.0, 1.5, 1.0, 0.0]) == pytest.approx(0.5)
    assert min_cllr([1, 1, 0, 0], [4.0, 3.0, 2.0, 1.0]) == 0
    assert min_cllr([1, 1, 0, 0], [1.0, 2.0, 3.0, 4.0]) == pytest.approx(1)
    assert min_cllr([1, 0, 0], [7.0, 7.0, 7.0]) == pytest.approx(1)
    # the threshold is log 99 = 4.595: half of the targets are missed, half of the nontargets accepted
    assert act_dcf([1, 1, 0, 0], [5.0, 0.0, 4.6, -1.0]) == pytest.approx((0.01 * 0.5 + 0.99 * 0.5) / 0.01)
    assert act_dcf([1, 1, 0, 0], [5.0, 4.6, 4.59, -1.0]) == 0
    assert act_dcf([1, 0], [np.log(19), -1.0], 0.05) == 0
    assert act_dcf([1, 1, 0], [0.9, 0.8, -0.7]) == 1  # cosines are below the threshold, all of them
    # two utterances of class 0 cost 0 and 1 bit, that of class 1 costs 2; class 2 competes, but does not occur
    logs = np.log([[1, 1e-300, 1e-300], [0.5, 0.25, 0.25], [0.5, 0.25, 0.25]])
    assert multiclass_cllr([0, 0, 1], logs) == pytest.approx((0.5 + 2) / 2)
    assert multiclass_cllr([0, 1, 2], np.full((3, 8), -7.0)) == pytest.approx(3)


@pytest.mark.parametrize(
    ("seed", "number", "apart", "digits", "cost", "least"),
    [
        (0, 40, 1.0, 8, 0.7069119014148383, 0.46468092330130023),
        (1, 300, 2.5, 0, 0.8152020838558043, 0.6072227639329404),
        (2, 1000, -0.5, 1, 1.5922917450694674, 0.9999999951235659),
    ],
)
def test_cllr_is_that_of_lir(seed: int, number: int, apart: float, digits: int, cost: float, least: float) -> None:
    """``lir.metrics.cllr`` and ``cllr_min`` of lir 1.3.1, whose LLRs are to base 10."""
    random = np.random.RandomState(seed)
    labels = random.permutation(np.arange(number) % 3 == 0).astype(int)
    scores = np.round(random.normal(size=number) * 1.5 + apart * labels, digits)
    assert cllr(labels, scores) == pytest.approx(cost, abs=1e-12)
    assert min_cllr(labels, scores) == pytest.approx(least, abs=1e-12)


@given(trials())
@settings(max_examples=100, deadline=None)
def test_costs_are_their_definitions(some: tuple[NDArray[np.int64], Scores]) -> None:
    labels, scores = some
    targets, nontargets = scores[labels == 1], scores[labels == 0]
    expected = (np.mean(np.log2(1 + np.exp(-targets))) + np.mean(np.log2(1 + np.exp(nontargets)))) / 2
    assert cllr(labels, scores) == pytest.approx(expected)
    assert multiclass_cllr(labels, np.stack([0 * scores, scores], axis=1)) == pytest.approx(expected)
    # isotonic regression by its min-max formula, over the distinct scores
    values = np.unique(scores)
    shares = np.array([[np.mean(targets == v), np.mean(nontargets == v)] for v in values])

    def ratio(i: int, j: int) -> float:
        both = shares[i : j + 1].sum(0)
        return float(both[0] / both.sum())

    last = len(values)
    fitted = [max(min(ratio(i, j) for j in range(k, last)) for i in range(k + 1)) for k in range(last)]
    bits = -np.log2(np.maximum(np.stack([fitted, 1 - np.array(fitted)], axis=1), 1e-300))
    assert min_cllr(labels, scores) == pytest.approx(float((shares * bits).sum() / 2), abs=1e-9)
    assert min_cllr(labels, scores) <= min(1, cllr(labels, scores)) + 1e-12
    for prior in (0.01, 0.5):
        assert act_dcf(labels, scores, prior) >= min_dcf(labels, scores, prior) - 1e-12


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cllr([1, 1], [0.0, 1.0]), "trials of both classes"),
        (lambda: cllr([1, 0], [0.0, np.nan]), "1 of 2 scores are not finite"),
        (lambda: min_cllr([1, 2], [0.0, 1.0]), "labels must be 0 or 1"),
        (lambda: act_dcf([1, 0], [0.0, 1.0], 1.0), "0 < p_target < 1"),
        (lambda: multiclass_cllr([0, 2], np.zeros((2, 2))), "classes from 0 to 1"),
        (lambda: multiclass_cllr([0], np.zeros((2, 2))), "of the same utterances"),
        (lambda: multiclass_cllr([0], [[0.0, -np.inf]]), "must be finite"),
        (lambda: Calibration(1.0, (0.0, 0.0, 0.0))(np.zeros((5, 2))), "3 classes does not fit"),
    ],
)
def test_bad_values_are_refused(call: Any, message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        call()


# --- The fit ----------------------------------------------------------------------------------------------------------


@given(trials())
@settings(max_examples=60, deadline=None)
def test_calibration_changes_no_order(some: tuple[NDArray[np.int64], Scores]) -> None:
    labels, scores = some
    fitted = fit(items_of(labels, scores))
    assert fitted is not None
    if fitted.scale <= 0:
        return
    assert fitted.scale < 1e6
    llrs = fitted(scores)
    assert eer(labels, llrs) == eer(labels, scores)
    assert min_cllr(labels, llrs) == pytest.approx(min_cllr(labels, scores), abs=1e-12)
    assert [min_dcf(labels, llrs, p) for p in (0.01, 0.05)] == [min_dcf(labels, scores, p) for p in (0.01, 0.05)]


def test_trials_are_fitted_as_by_scikit_learn() -> None:
    random = np.random.default_rng(0)
    labels = (np.arange(8000) % 5 == 0).astype(int)  # imbalanced: the prior is flat all the same
    scores = 0.1 * random.normal(size=8000) + 0.2 * labels + 0.3
    fitted = fit(items_of(labels, scores))
    assert fitted is not None
    other = LogisticRegression(C=1e10, class_weight="balanced", tol=1e-10, max_iter=1000).fit(scores[:, None], labels)
    assert fitted.scale == pytest.approx(other.coef_[0, 0], rel=5e-3)
    assert fitted.offsets == pytest.approx(other.intercept_, rel=5e-3)
    assert fitted.scale == pytest.approx(20, rel=0.06)  # LLR of the two normals: 20 (score - 0.4)
    assert fitted.offsets[0] == pytest.approx(-8, rel=0.06)
    assert min_cllr(labels, scores) <= cllr(labels, fitted(scores)) < min_cllr(labels, scores) + 0.01


def test_separated_trials_have_a_finite_scale() -> None:
    labels = np.arange(40) % 2
    fitted = fit(items_of(labels, labels + 0.01 * np.arange(40)))
    assert fitted is not None
    llrs = fitted(labels + 0.01 * np.arange(40))
    assert np.abs(llrs).max() < 20
    assert 0 < cllr(labels, llrs) < 0.1


def test_scores_that_say_nothing_are_not_calibrated(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for scores in ([0.5] * 4, [0.1, 0.5, 0.2, 0.7]):
            fitted = fit(items_of([1, 0, 1, 0], scores))
            assert fitted is not None
            assert fitted.scale <= 0
            assert not caplog.text  # a later checkpoint may be better, and be chosen
            assert calibration.of_chosen(fitted.plain()) is None
            assert caplog.text.count("scores on dev are no higher where they should be") == 1
            caplog.clear()
    assert calibration.of_chosen(None) is None
    assert fit(replace(spoken(30), log_posteriors=None)) is None
    assert fit(classes_of([1, 1], np.log([[0.5, 0.5], [0.4, 0.6]]))) is None
    assert fit(evaluation.Edits(["a"], ["a"], "speaker", ["x"], ["y"])) is None


def test_classes_are_made_less_sure_and_unbiased() -> None:
    dev, test = spoken(100), spoken(400, seed=1)
    fitted = fit(dev)
    assert fitted is not None
    assert fitted.scale == pytest.approx(1 / 3, rel=0.1)
    offsets = np.array(fitted.offsets)
    assert (offsets - offsets[1:].mean())[0] == pytest.approx(-2 / 3, abs=0.25)
    before, after = (
        multiclass_cllr(test.references, logs) for logs in (test.log_posteriors, fitted(test.log_posteriors))
    )
    assert after < 0.7 * before
    truth = (np.asarray(test.log_posteriors) - [2, 0, 0, 0]) / 3
    assert after == pytest.approx(multiclass_cllr(test.references, truth), abs=0.01)
    # a gradient of zero: no other scale or offsets cost less on dev
    for scale, shift in ((1.02, 0.0), (0.98, 0.0), (1.0, 0.05), (1.0, -0.05)):
        other = fitted.scale * scale * np.asarray(dev.log_posteriors) + fitted.offsets + [0, shift, 0, 0]
        assert multiclass_cllr(dev.references, other) > multiclass_cllr(dev.references, fitted(dev.log_posteriors))


def test_few_utterances_of_a_class_give_no_offsets() -> None:
    enough, few = fit(spoken(FEWEST)), fit(spoken(FEWEST - 1))
    assert enough is not None
    assert few is not None
    assert any(enough.offsets)
    assert few.offsets == (0.0,) * 4
    assert 0.2 < few.scale < 0.5
    some = spoken(50)
    without = fit(some.take(np.flatnonzero(some.references != 2)))  # class 2 does not occur
    assert without is not None
    assert without.offsets == (0.0,) * 4


# --- Evaluations ------------------------------------------------------------------------------------------------------


def test_the_fit_sees_dev_alone() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(400) % 2
    dev = items_of(labels, random.normal(size=400) + 2 * labels)
    found = []
    for seed in (1, 2):
        other = np.random.default_rng(seed).permutation(labels)
        test = items_of(other, np.random.default_rng(seed).normal(size=400) * seed)
        both = Evaluation(
            {name: metrics.score(items) for name, items in (("dev", dev), ("test", test))}, test, {"dev": dev}
        )
        found.append(calibration.of_dev(both))
        result = Evaluation({"test": metrics.score(test)}, test, {"test": test})
        calibration.apply(result, found[-1])
        assert isinstance(result.items, Trials)
        assert result.items.calibration == found[-1] == fit(dev)
    assert found[0] == found[1] is not None


def test_calibrated_metrics_come_beside_the_others() -> None:
    labels, scores = np.arange(60) % 2, np.linspace(0.2, 0.8, 60) + 0.2 * (np.arange(60) % 2)
    items, normed = items_of(labels, scores), items_of(labels, 10 * scores)
    fitted = Calibration(12.0, (-7.0,))
    before = metrics.score(items)
    assert list(before) == ["eer", "min_dcf_p01", "min_dcf_p05", "act_dcf_p01", "act_dcf_p05", "cllr", "min_cllr"]
    result = Evaluation({"test": dict(before), "test_snorm": metrics.score(normed)}, items, {"test": items})
    calibration.apply(result, None)
    assert result.metrics["test"] == before
    calibration.apply(result, fitted)
    llrs = 12 * scores - 7
    assert result.metrics["test"] == before | {
        "act_dcf_p01_calibrated": act_dcf(labels, llrs, 0.01),
        "act_dcf_p05_calibrated": act_dcf(labels, llrs, 0.05),
        "cllr_calibrated": cllr(labels, llrs),
    }
    assert not any(name.endswith("_calibrated") for name in result.metrics["test_snorm"])
    langs = spoken(30)
    fitted = fit(langs)
    assert fitted is not None
    result = Evaluation({"test": metrics.score(langs, ("cavg", "cllr"))}, langs, {"test": langs})
    calibration.apply(result, fitted)
    logs = fitted(langs.log_posteriors)
    assert result.metrics["test"]["cllr_calibrated"] == multiclass_cllr(langs.references, logs)
    assert result.metrics["test"]["cavg_calibrated"] == cavg(langs.references, detection_llrs(logs))
    plain = Evaluation({"dev": {"accuracy": 1.0}}, langs, {"dev": langs})
    assert calibration.of_dev(plain) is None  # nothing would be reported of it


@pytest.mark.parametrize("kind", ["trials", "classes"])
def test_intervals_of_calibrated_metrics(kind: str) -> None:
    random = np.random.default_rng(0)
    items: Trials | Classes
    if kind == "trials":
        labels = np.arange(200) % 2
        scores = random.normal(size=200) + 2 * labels
        items = items_of(labels, scores, fit(items_of(labels, scores)))
        names = ["cllr", "min_cllr", "cllr_calibrated", "act_dcf_p05_calibrated"]
    else:
        langs = spoken(30)
        items, names = replace(langs, calibration=fit(langs)), ["cllr", "cllr_calibrated", "cavg_calibrated"]
    statistic = statistics.of(items, {name: metrics.METRICS[name] for name in names})
    found = statistics.summarise([statistic], replicates=200)
    for name in names:
        value = metrics.compute(metrics.METRICS[name], items)
        assert value is not None
        assert statistic.values()[name] == pytest.approx(value)
        assert found[name].test_set.low < value < found[name].test_set.high


def test_the_figure_shows_actual_and_minimum() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(2000) % 2
    scores = 0.1 * random.normal(size=2000) + 0.3 * labels
    items = items_of(labels, scores)
    fitted = fit(items)
    assert fitted is not None
    figure = calibration.bayes_errors(replace(items, calibration=fitted), "title")
    assert plots.png(figure).startswith(b"\x89PNG")
    raw, calibrated, least = (line for line in figure.axes[0].lines[:3])
    log_odds = np.asarray(raw.get_xdata(), dtype=float)
    for at in (20, 80, 131):
        prior = float(expit(log_odds[at]))
        assert np.asarray(raw.get_ydata())[at] == pytest.approx(act_dcf(labels, scores, prior))
        assert np.asarray(calibrated.get_ydata())[at] == pytest.approx(act_dcf(labels, fitted(scores), prior))
        assert np.asarray(least.get_ydata())[at] == pytest.approx(min_dcf(labels, scores, prior))


# --- A run ------------------------------------------------------------------------------------------------------------

CORPORA: dict[str, Corpus] = {}


def corpus(_: Path) -> Corpus:
    return CORPORA["toy"]


def languages(root: Path, *, swapped: bool = False) -> Corpus:
    """High and low tones as languages; of test the other way round where ``swapped``."""
    toy = toy_corpus(root)

    def labelled(split: str, utterance: Utterance) -> Utterance:
        high = (utterance.speaker == "high") != (swapped and split == "test")
        return replace(utterance, language="high" if high else "low", speaker=utterance.id)

    splits = {name: [labelled(name, utterance) for utterance in those] for name, those in toy.splits.items()}
    return Corpus(
        "toy", {**splits, "other": [replace(u, id=f"other-{u.id}", speaker=f"o{u.id}") for u in splits["test"]]}
    )


def test_a_run_keeps_the_calibration_of_dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = {
        "name": "toy", "task": "lid", "corpus": "test_calibration:corpus",
        "config": {"task": {"dev_split": "dev", "buckets": [0.2]}},
    }  # fmt: skip
    for of, name, target in ((registry.upstreams, "toy", ToyUpstream), (registry.downstreams, "toy", lambda: card)):
        monkeypatch.setattr(of, "_entries", dict(of._load()))
        of.register(name, target)
    overrides = ["trainer.max_steps=60", "trainer.eval_every=30", "device=cpu", "upstream.name=toy", "optim.lr=0.01"]
    settings = prepare.configure("toy", [], overrides)
    found = []
    for name in ("straight", "swapped"):
        CORPORA["toy"] = languages(tmp_path, swapped=name == "swapped")
        run(settings, tmp_path / name)
        found.append(results.read(tmp_path / name / "result.json"))
    first, second = found
    assert first["calibration"] == second["calibration"] is not None  # labels of test do not matter
    assert first["metrics"]["dev"] == second["metrics"]["dev"]
    assert first["metrics"]["test"]["cllr"] != second["metrics"]["test"]["cllr"]
    assert not any(name.endswith("_calibrated") for name in first["metrics"]["dev"])
    assert "cllr_calibrated" in first["metrics"]["test_0.2s+"]
    assert first["calibration"]["offsets"] == [0.0, 0.0]

    folder = tmp_path / "swapped"
    about = evaluation.read_about(folder)
    assert about is not None
    assert about.calibration == Calibration.read(second["calibration"])
    items = evaluation.read_items(folder, about)
    for name in ("cllr", "cllr_calibrated", "cavg_calibrated"):
        value = metrics.compute(about.metrics[name] if about.metrics[name].compute else metrics.METRICS[name], items)
        assert value == pytest.approx(second["metrics"]["test"][name], abs=1e-4)

    outcome = run(settings, folder, mode="evaluate", scored=Scored("other"))  # the same calibration elsewhere
    assert outcome.result is not None
    assert outcome.result["calibration"] == second["calibration"]
    assert outcome.result["metrics"]["test"]["cllr_calibrated"] == second["metrics"]["test"]["cllr_calibrated"]

    useless = Calibration(-1.0, (0.0, 0.0))
    monkeypatch.setattr(calibration, "of_dev", lambda _: useless)  # of a chosen checkpoint that is worse than chance
    result = run(settings, tmp_path / "useless").result
    assert result is not None
    assert result["calibration"] is None
    assert [line for line in result["warnings"] if "no calibration" in line]
    assert "cllr_calibrated" not in result["metrics"]["test"]


def test_files_of_earlier_releases_have_no_calibration(tmp_path: Path) -> None:
    about = json.loads(evaluation.describe(spoken(3), ["cllr"]))
    del about["calibration"]
    (tmp_path / evaluation.FILE).write_text(json.dumps(about))
    read = evaluation.read_about(tmp_path)
    assert read is not None
    assert read.calibration is None
