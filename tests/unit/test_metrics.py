"""benchmark.metrics against scikit-learn, s3prl's formula, brute force and cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import roc_curve

from benchmark.errors import BenchmarkError
from benchmark.metrics import det_curve, eer, min_dcf

Trials = tuple[NDArray[np.int64], NDArray[np.float64]]


def random_trials(seed: int) -> Trials:
    """Sets of 2 to 400 trials, from no ties to three distinct scores, from reversed to well separated."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.r_[1, 0, random.random(random.integers(0, 399)) < random.uniform(0.05, 0.95)])
    scores = random.normal(size=labels.size) + random.uniform(-1, 4) * labels
    levels = random.choice([0, 1, 2, 5, 20])
    return labels.astype(np.int64), np.round(scores * levels / 3) if levels else scores


SETS = [random_trials(seed) for seed in range(300)]


@st.composite
def trials(draw: st.DrawFn) -> Trials:
    labels = draw(st.lists(st.integers(0, 1), min_size=2, max_size=40).filter(lambda some: len(set(some)) == 2))
    scores = draw(st.lists(st.integers(-6, 6), min_size=len(labels), max_size=len(labels)))
    return np.array(labels), np.array(scores) / 4


def s3prl_eer(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> float:
    fpr, tpr, _ = roc_curve(labels, scores)
    return float(brentq(lambda x: 1.0 - x - interp1d(fpr, tpr)(x), 0.0, 1.0))


def brute_force_dcf(labels: NDArray[np.int64], scores: NDArray[np.float64], p: float, miss: float, fa: float) -> float:
    costs = []
    for threshold in [*scores, np.inf]:
        p_miss = np.mean(scores[labels == 1] < threshold)
        p_fa = np.mean(scores[labels == 0] >= threshold)
        costs.append((miss * p * p_miss + fa * (1 - p) * p_fa) / min(miss * p, fa * (1 - p)))
    return float(min(costs))


def test_eer_is_s3prls() -> None:
    for labels, scores in SETS:
        assert eer(labels, scores) == pytest.approx(100 * s3prl_eer(labels, scores), abs=1e-8)


def test_curve_is_scikit_learns() -> None:
    for labels, scores in SETS:
        curve = det_curve(labels, scores)
        fpr, tpr, thresholds = roc_curve(labels, scores, drop_intermediate=False)
        np.testing.assert_allclose(curve.p_fa, fpr, atol=1e-12)
        np.testing.assert_allclose(curve.p_miss, 1 - tpr, atol=1e-12)
        np.testing.assert_array_equal(curve.thresholds, thresholds)


@pytest.mark.parametrize(("p", "miss", "fa"), [(0.01, 1, 1), (0.05, 1, 1), (0.5, 1, 1), (0.01, 10, 1), (0.9, 1, 5)])
def test_min_dcf_is_brute_force(p: float, miss: float, fa: float) -> None:
    for labels, scores in SETS[:60]:
        assert min_dcf(labels, scores, p, miss, fa) == pytest.approx(brute_force_dcf(labels, scores, p, miss, fa))


@pytest.mark.parametrize(
    ("targets", "nontargets", "percent"),
    [
        ([3, 4], [1, 2], 0.0),  # separated
        ([1, 2], [3, 4], 100.0),  # reversed
        ([1, 1, 1], [1, 1], 50.0),  # all tied: the diagonal
        ([1, 3], [0, 2], 50.0),  # order + - + -: one of two missed where one of two is accepted
        ([1, 3, 4, 5], [0, 0, 0, 2], 25.0),
        # threshold 2: p_miss 0, p_fa 1/2; threshold 3: p_miss 1/3, p_fa 0. The segment between meets the diagonal
        # at 1/3 - s/3 = s/2, s = 2/5, p_fa = 1/5.
        ([2, 3, 3], [2, 1], 20.0),
    ],
)
def test_eer_by_hand(targets: list[float], nontargets: list[float], percent: float) -> None:
    labels = [1] * len(targets) + [0] * len(nontargets)
    assert eer(labels, targets + nontargets) == pytest.approx(percent, abs=1e-12)


def test_min_dcf_by_hand() -> None:
    # 2 targets, 200 nontargets, one of which scores above the lower target: reject that target, 0.01 * 1/2 / 0.01, or
    # accept the nontarget, 0.99 * 1/200 / 0.01 = 0.495.
    labels = np.r_[1, 0, 1, np.zeros(199)]
    scores = np.r_[5, 4, 3, np.zeros(199)]
    assert min_dcf(labels, scores, p_target=0.01) == pytest.approx(0.495)
    assert min_dcf(labels, scores, p_target=0.005) == pytest.approx(0.5)
    assert min_dcf([1, 0], [0.0, 1.0]) == 1.0  # nothing beats rejecting all
    assert min_dcf([1, 0], [1.0, 0.0]) == 0.0


@given(trials())
@settings(max_examples=200, deadline=None)
def test_invariances(some: Trials) -> None:
    labels, scores = some
    rate, cost = eer(labels, scores), min_dcf(labels, scores)
    assert 0 <= rate <= 100
    assert 0 <= cost <= 1 + 1e-12
    order = np.argsort(np.sin(np.arange(labels.size)))
    for same_labels, same_scores in [
        (labels[order], scores[order]),  # order
        (labels, np.exp(scores) * 7 - 3),  # increasing map
        (np.tile(labels, 3), np.tile(scores, 3)),  # repetition
    ]:
        assert eer(same_labels, same_scores) == pytest.approx(rate, abs=1e-9)
        assert min_dcf(same_labels, same_scores) == pytest.approx(cost, abs=1e-9)
    assert eer(labels, -scores) == pytest.approx(100 - rate, abs=1e-9)
    assert eer(1 - labels, -scores) == pytest.approx(rate, abs=1e-9)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([1, 1], [0.1, 0.2], "both classes, got 2 target and 0 nontarget"),
        ([0, 0, 0], [0.1, 0.2, 0.3], "got 0 target and 3 nontarget"),
        ([], [], "got 0 target and 0 nontarget"),
        ([1, 0, 1], [0.1, 0.2], r"\(3,\) and \(2,\)"),
        ([[1, 0]], [[0.1, 0.2]], "one-dimensional"),
        ([1, 0, 2], [0.1, 0.2, 0.3], "0 or 1, got .*2"),
        ([1, 0, 0], [0.1, np.nan, np.inf], "2 of 3 scores are not finite, the first at index 1"),
    ],
)
def test_refusals(labels: list[int], scores: list[float], message: str) -> None:
    for metric in (eer, min_dcf):
        with pytest.raises(BenchmarkError, match=message):
            metric(labels, scores)


@pytest.mark.parametrize("options", [{"p_target": 0.0}, {"p_target": 1.0}, {"c_miss": 0.0}, {"c_fa": -1.0}])
def test_min_dcf_refuses_costs(options: dict[str, float]) -> None:
    with pytest.raises(BenchmarkError, match="minDCF needs"):
        min_dcf([1, 0], [1.0, 0.0], **options)


def test_vox1_e_sized_lists_can_be_scored() -> None:
    """An algorithm that compares all pairs of trials would not end."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 600_000)
    scores = (random.normal(size=labels.size) + 3 * labels).astype(np.float32)
    assert 6 < eer(labels, scores) < 7  # Phi(-1.5) = 6.68 %
    assert 0 < min_dcf(labels, scores) < 1
