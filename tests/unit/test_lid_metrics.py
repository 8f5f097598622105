"""Classification and language identification metrics against scikit-learn, brute force and cases worked out by hand."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from scipy.special import logsumexp
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score, roc_curve

from benchmark import metrics
from benchmark.errors import BenchmarkError
from benchmark.metrics import cavg, detection_llrs, language_pairs, macro_accuracy, macro_f1, min_cavg

Labels = NDArray[np.int64]
Scores = NDArray[np.float64]


@st.composite
def sets(draw: st.DrawFn) -> tuple[Labels, Scores]:
    """References of 2 to 5 of 2 to 6 classes, imbalanced, and scores with ties."""
    classes = draw(st.integers(2, 6))
    random = np.random.RandomState(draw(st.integers(0, 2**32 - 1)))
    present = random.permutation(classes)[: draw(st.integers(2, classes))]
    references = random.permutation(np.r_[present, random.choice(present, draw(st.integers(0, 25)))])
    scores = random.normal(size=(len(references), classes))
    scores[np.arange(len(references)), references] += draw(st.sampled_from([-1.0, 0.0, 1.5, 4.0]))
    return references, np.round(scores, draw(st.sampled_from([0, 1, 8])))


def brute_force_cavg(references: Labels, llrs: Scores, p_target: float, threshold: float) -> float:
    """The formula, term by term."""
    languages = sorted(set(references.tolist()))
    n_languages = len(languages)
    total = 0.0
    for target in languages:
        own = [llrs[u, target] for u in range(len(references)) if references[u] == target]
        total += p_target * sum(score < threshold for score in own) / len(own)
        for other in languages:
            if other != target:
                theirs = [llrs[u, target] for u in range(len(references)) if references[u] == other]
                false_alarm = sum(score >= threshold for score in theirs) / len(theirs)
                total += (1 - p_target) / (n_languages - 1) * false_alarm
    return total / n_languages


@given(sets())
@settings(max_examples=150, deadline=None)
def test_classification_is_scikit_learns(some: tuple[Labels, Scores]) -> None:
    references, scores = some
    predictions = scores.argmax(1)
    assert metrics.accuracy(references, predictions) == pytest.approx(100 * accuracy_score(references, predictions))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes predicted but not in the references
        balanced = balanced_accuracy_score(references, predictions)
    assert macro_accuracy(references, predictions) == pytest.approx(100 * balanced)
    present = sorted(set(references.tolist()))
    each = f1_score(references, predictions, labels=present, average=None, zero_division=0)
    assert macro_f1(references, predictions) == pytest.approx(100 * np.mean(each))
    if set(predictions) <= set(references):  # the same classes: scikit-learn's own average
        usual = f1_score(references, predictions, average="macro", zero_division=0)
        assert macro_f1(references, predictions) == pytest.approx(100 * usual)
    found = metrics.confusion_matrix(references, predictions, scores.shape[1])
    np.testing.assert_array_equal(found, confusion_matrix(references, predictions, labels=range(scores.shape[1])))


def test_classification_by_hand() -> None:
    references, predictions = [0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 2]
    assert metrics.accuracy(references, predictions) == pytest.approx(100 * 4 / 6)
    assert macro_accuracy(references, predictions) == pytest.approx(100 * (3 / 4 + 1 / 2) / 2)
    # F1: class 0 2*3/(2*3+1) = 6/7, class 1 2*1/(2*1+1+1) = 1/2; class 2 occurs in no reference
    assert macro_f1(references, predictions) == pytest.approx(100 * (6 / 7 + 1 / 2) / 2)
    assert metrics.confusion_matrix(references, predictions, 4).tolist() == [
        [3, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0],
    ]  # fmt: skip


@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.sampled_from([0.1, 3.0, 80.0]))
@settings(max_examples=100, deadline=None)
def test_llrs_are_the_formula(seed: int, classes: int, spread: float) -> None:
    logits = np.random.RandomState(seed).normal(size=(5, classes)) * spread
    logits[0, :2] = logits[0].max()  # two best classes
    llrs = detection_llrs(logits - logsumexp(logits, axis=1, keepdims=True))
    for u in range(5):
        for t in range(classes):
            others = [logits[u, n] for n in range(classes) if n != t]
            expected = logits[u, t] - (logsumexp(others) - np.log(classes - 1))
            assert llrs[u, t] == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_llrs_keep_their_digits_where_posteriors_do_not() -> None:
    """A classifier that is sure: 1 - p is 0 in float64, its logarithm is -100."""
    llrs = detection_llrs(np.array([[0.0, -100.0, -101.0]], dtype=np.float32))
    assert llrs[0, 0] == pytest.approx(100 - np.log((1 + np.exp(-1)) / 2))
    assert llrs[0, 1] == pytest.approx(-100 + np.log(2))
    flat = detection_llrs(np.full((1, 5), -np.log(5)))
    np.testing.assert_allclose(flat, 0, atol=1e-12)


@given(sets(), st.sampled_from([0.5, 0.1, 0.8]))
@settings(max_examples=150, deadline=None)
def test_cavg_is_brute_force(some: tuple[Labels, Scores], p_target: float) -> None:
    references, llrs = some
    bayes = float(np.log((1 - p_target) / p_target))
    assert cavg(references, llrs, p_target) == pytest.approx(brute_force_cavg(references, llrs, p_target, bayes))
    least = min(brute_force_cavg(references, llrs, p_target, t) for t in [*llrs.ravel().tolist(), np.inf])
    assert min_cavg(references, llrs, p_target) == pytest.approx(least, abs=1e-12)
    assert min_cavg(references, llrs, p_target) <= cavg(references, llrs, p_target) + 1e-12


@given(sets())
@settings(max_examples=100, deadline=None)
def test_pairs_are_those_of_the_test(some: tuple[Labels, Scores]) -> None:
    references, llrs = some
    labels, scores = language_pairs(references, llrs)
    pairs = [(int(r == t), llrs[u, t]) for u, r in enumerate(references) for t in sorted(set(references.tolist()))]
    assert list(zip(labels.tolist(), scores.tolist(), strict=True)) == pairs
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    expected = brentq(lambda x: 1.0 - x - interp1d(fpr, tpr)(x), 0.0, 1.0)
    assert metrics.eer(labels, scores) == pytest.approx(100 * expected, abs=1e-8)


def test_cavg_by_hand() -> None:
    # 3 languages in the test, a 4th that the model knows; N = 3, P_nontarget = 0.25
    references = [0, 0, 1, 1, 2]
    llrs = np.full((5, 4), -1.0)
    llrs[np.arange(5), references] = 1.0
    llrs[:, 3] = 9.0  # no detector here
    assert cavg(references, llrs) == 0
    assert min_cavg(references, llrs) == 0
    llrs[0, 0] = -0.5  # one of two utterances of language 0 missed: 0.5 * 1/2 / 3
    assert cavg(references, llrs) == pytest.approx(0.5 / 2 / 3)
    assert min_cavg(references, llrs) == 0  # at threshold -0.5
    llrs[4, 1] = -0.4  # language 2's utterance now comes first: accept it, 0.25 * 1 / 3, or miss the other
    assert min_cavg(references, llrs) == pytest.approx(min(0.25 / 3, 0.5 / 2 / 3))
    assert cavg(references, np.full((5, 4), 0.0)) == pytest.approx(0.5)  # at the threshold: all accepted
    assert cavg(references, np.full((5, 4), -1.0)) == pytest.approx(0.5)
    assert min_cavg(references, np.full((5, 4), 3.0)) == pytest.approx(0.5)


def test_a_shift_of_all_scores_moves_cavg_but_not_its_minimum() -> None:
    random = np.random.RandomState(0)
    references = random.randint(0, 4, 200)
    llrs = random.normal(size=(200, 4)) + 3 * np.eye(4)[references] - 1.5
    assert cavg(references, llrs + 5) > 0.4 > 0.1 > cavg(references, llrs)
    assert min_cavg(references, llrs + 5) == pytest.approx(min_cavg(references, llrs), abs=1e-12)


def test_utterances_of_a_language_weigh_as_much_as_those_of_any_other() -> None:
    references = np.array([0, 1])
    llrs = np.array([[1.0, -1.0], [1.0, -1.0]])
    many = np.r_[np.zeros(99, dtype=int), 1]
    assert cavg(references, llrs) == pytest.approx(0.5)
    assert cavg(many, np.tile(llrs[0], (100, 1))) == pytest.approx(0.5)
    assert metrics.accuracy(many, np.zeros(100)) == pytest.approx(99)
    assert macro_accuracy(many, np.zeros(100)) == pytest.approx(50)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.accuracy([], []), "not empty"),
        (lambda: macro_accuracy([0, 1], [0]), r"\(2,\) and \(1,\)"),
        (lambda: macro_f1([[0]], [[0]]), "one-dimensional"),
        (lambda: detection_llrs([[0.0]]), r"at least 2 classes, got \(1, 1\)"),
        (lambda: detection_llrs([[0.0, 1.0], [0.0, -np.inf]]), "those of utterance 1 are not"),
        (lambda: cavg([0, 0], [[0.0, 1.0]] * 2), "at least 2 languages, got 1"),
        (lambda: cavg([0, 2], [[0.0, 1.0]] * 2), "classes from 0 to 1"),
        (lambda: cavg([-1, 0], [[0.0, 1.0]] * 2), "classes from 0 to 1"),
        (lambda: cavg([0, 1, 1], [[0.0, 1.0]] * 2), "same utterances"),
        (lambda: min_cavg([0, 1], [[0.0, np.nan]] * 2), "finite"),
        (lambda: min_cavg([0, 1], [[0.0, 1.0]] * 2, p_target=1.0), "0 < p_target < 1"),
        (lambda: language_pairs([], np.zeros((0, 3))), "at least one"),
    ],
)
def test_refusals(call: object, message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        call()  # type: ignore[operator]


def test_fleurs_sized_sets() -> None:
    random = np.random.RandomState(0)
    references = random.randint(0, 102, 20_000)  # a quarter of FLEURS
    llrs = detection_llrs(random.normal(size=(20_000, 102)) + 4 * np.eye(102)[references])
    assert 0 < min_cavg(references, llrs) <= cavg(references, llrs) < 0.5
    assert 0 < metrics.eer(*language_pairs(references, llrs)) < 10
