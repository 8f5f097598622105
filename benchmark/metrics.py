"""Metrics: pure functions on arrays. Rates are in percent, costs in [0, 1].

Verification metrics take ``labels`` (trial,) of 1 = same speaker (target) and 0 = different (nontarget), and ``scores``
(trial,), higher = more alike. A trial is accepted when its score is at or above the threshold, so that trials with
equal scores are always accepted or rejected together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmark.errors import BenchmarkError

Floats = NDArray[np.float64]


class DetCurve(NamedTuple):
    """The two error rates at every threshold that changes a decision, from rejecting all to accepting all."""

    thresholds: Floats
    """(point,) decreasing: ``+inf``, then each distinct score."""
    p_miss: Floats
    """(point,) share of targets rejected, from 1 to 0."""
    p_fa: Floats
    """(point,) share of nontargets accepted, from 0 to 1."""


def det_curve(labels: ArrayLike, scores: ArrayLike) -> DetCurve:
    """Detection error trade-off of a set of trials; O(n log n).

    The points are those of ``sklearn.metrics.roc_curve(labels, scores, drop_intermediate=False)``, with
    ``p_miss = 1 - tpr`` and ``p_fa = fpr``.

    Args:
        labels: (trial,) 1 or 0.
        scores: (trial,) finite.

    Raises:
        BenchmarkError: sizes differ; a label other than 0 and 1; only one class; a score that is NaN or infinite.
    """
    label, score = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if label.ndim != 1 or label.shape != score.shape:
        raise BenchmarkError(
            f"labels and scores must be one-dimensional and of one size, got {label.shape} and {score.shape}"
        )
    is_target = label == 1
    if not np.all(is_target | (label == 0)):
        raise BenchmarkError(f"labels must be 0 or 1, got {label[~(is_target | (label == 0))][0]!r}")
    targets = int(is_target.sum())
    if targets in (0, label.size):
        raise BenchmarkError(
            f"error rates need trials of both classes, got {targets} target and {label.size - targets} nontarget trials"
        )
    finite = np.isfinite(score)
    if not finite.all():
        first = int(np.argmin(finite))
        raise BenchmarkError(
            f"{int((~finite).sum())} of {score.size} scores are not finite, the first at index {first}: {score[first]}"
        )
    order = np.argsort(-score, kind="stable")
    score = score[order]
    last_of_tie = np.append(np.flatnonzero(score[1:] != score[:-1]), score.size - 1)
    accepted_targets = np.cumsum(is_target[order])[last_of_tie]
    accepted_nontargets = last_of_tie + 1 - accepted_targets
    return DetCurve(
        thresholds=np.concatenate([[np.inf], score[last_of_tie]]),
        p_miss=np.concatenate([[targets], targets - accepted_targets]) / targets,
        p_fa=np.concatenate([[0], accepted_nontargets]) / (label.size - targets),
    )


def eer(labels: ArrayLike, scores: ArrayLike) -> float:
    """Equal error rate in percent: where the straight-line interpolated ROC meets ``p_miss = p_fa``.

    The same number as s3prl's ``brentq(lambda x: 1 - x - interp1d(fpr, tpr)(x), 0, 1)`` over scikit-learn's
    ``roc_curve`` (s3prl ec8064b5, ``downstream/sv_voxceleb1/utils.py``), in closed form. Raises as :func:`det_curve`.
    """
    return eer_of(det_curve(labels, scores))


def eer_of(curve: DetCurve) -> float:
    """The equal error rate in percent of a curve; see :func:`eer`."""
    gap = curve.p_miss - curve.p_fa  # falls from 1 to -1
    after = int(np.argmax(gap <= 0))
    before = after - 1
    weight = gap[before] / (gap[before] - gap[after])
    return float(100 * (curve.p_fa[before] + weight * (curve.p_fa[after] - curve.p_fa[before])))


def min_dcf(
    labels: ArrayLike, scores: ArrayLike, p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0
) -> float:
    """Minimum of the normalised detection cost over all thresholds, in [0, 1].

    ``(c_miss * p_target * p_miss + c_fa * (1 - p_target) * p_fa) / min(c_miss * p_target, c_fa * (1 - p_target))``,
    section 3 of the NIST SRE 2016 evaluation plan. 1 is what rejecting (or accepting) every trial costs.

    Args:
        labels: (trial,) 1 or 0.
        scores: (trial,) finite.
        p_target: prior of a target trial, between 0 and 1.
        c_miss: cost of rejecting a target.
        c_fa: cost of accepting a nontarget.

    Raises:
        BenchmarkError: as :func:`det_curve`, and for a prior or cost out of range.
    """
    if not 0 < p_target < 1 or c_miss <= 0 or c_fa <= 0:
        raise BenchmarkError(f"minDCF needs 0 < p_target < 1 and positive costs, got {p_target=}, {c_miss=}, {c_fa=}")
    curve = det_curve(labels, scores)
    miss, false_alarm = c_miss * p_target, c_fa * (1 - p_target)
    return float(np.min(miss * curve.p_miss + false_alarm * curve.p_fa) / min(miss, false_alarm))
