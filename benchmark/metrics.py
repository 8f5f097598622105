"""Metrics: pure functions on arrays. Rates are in percent, costs in [0, 1].

Verification metrics take ``labels`` (trial,) of 1 = same speaker (target) and 0 = different (nontarget), and ``scores``
(trial,), higher = more alike. A trial is accepted when its score is at or above the threshold, so that trials with
equal scores are always accepted or rejected together.

Over 500 lines: the metrics of all kinds of tasks and their declarations, so that a new one is written in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmark.errors import BenchmarkError
from benchmark.registry import suggest
from benchmark.tables import number_text

Floats = NDArray[np.float64]

# --- Declarations -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metric:
    """How a metric is named, read and computed."""

    name: str
    """Its key in ``result.json``."""
    label: str
    """In tables and on axes."""
    unit: str = ""
    """``%``, or nothing for costs."""
    higher_is_better: bool = False
    ceiling: float | None = None
    """Of the errors' range, from 0: what the area under a learning curve is a share of."""
    compute: Mapping[str, Callable[[Any], float | None]] = field(default_factory=dict, compare=False, repr=False)
    """Kind of items (:mod:`benchmark.evaluation`) -> the metric of them; ``None``: they do not determine it."""
    standard: tuple[str, ...] = field(default=(), compare=False, repr=False)
    """Kinds of which every task reports it; elsewhere it is reported where the task asks for it."""

    def declaration(self) -> dict[str, Any]:
        """What a run keeps of it, as plain data."""
        return {name: getattr(self, name) for name in ("label", "unit", "higher_is_better", "ceiling")}

    def text(self, value: float) -> str:
        """The value with its unit."""
        return f"{number_text(value)} {self.unit}".rstrip()

    def error(self, value: float) -> float:
        """The value where lower is better, else its distance from the ceiling."""
        return (self.ceiling or 0.0) - value if self.higher_is_better else value

    @property
    def axis(self) -> str:
        """Label of an axis."""
        unit = f" ({self.unit})" if self.unit else ""
        return f"{self.label}{unit}, {'higher' if self.higher_is_better else 'lower'} is better"


METRICS: dict[str, Metric] = {}
"""Every declared metric by name."""


def declare(metric: Metric) -> None:
    """Add a metric; raises :class:`BenchmarkError` where the name is taken."""
    if metric.name in METRICS:
        raise BenchmarkError(f"metric '{metric.name}' is declared already; choose another name")
    METRICS[metric.name] = metric


def metric(
    name: str, *, kind: str, label: str, unit: str = "", higher_is_better: bool = False, ceiling: float | None = None
) -> Callable[[Callable[[Any], float | None]], Callable[[Any], float | None]]:
    """Declare the decorated function as a metric that every task of a kind reports.

    >>> @metric("error", kind="classes", label="error", unit="%", ceiling=100.0)
    ... def error(items):
    ...     return 100 * float((items.references != items.predictions).mean())
    """

    def decorate(compute: Callable[[Any], float | None]) -> Callable[[Any], float | None]:
        declare(Metric(name, label, unit, higher_is_better, ceiling, {kind: compute}, (kind,)))
        return compute

    return decorate


def find(name: str) -> Metric:
    """A declared metric; :class:`BenchmarkError` names those that there are."""
    if name not in METRICS:
        raise BenchmarkError(f"unknown metric '{name}'. " + suggest(name, list(METRICS), noun="declared"))
    return METRICS[name]


def check_selection(name: str, kind: str, *rules: str) -> None:
    """Raise :class:`BenchmarkError` on a name that is no declared metric of a kind of items, nor one of ``rules``."""
    names = [*rules, *(metric.name for metric in METRICS.values() if kind in metric.compute)]
    if name not in names:
        raise BenchmarkError(
            f"task.selection is '{name}'. " + suggest(name, names, noun=f"expected a metric of {kind}")
        )


def score(items: Any, more: Sequence[str] = ()) -> dict[str, float]:
    """The standard metrics of the items' kind, then ``more``; those that the items do not determine are left out.

    Raises:
        BenchmarkError: a metric is unknown, fails, or gives something else than a number.
    """
    names = dict.fromkeys([metric.name for metric in METRICS.values() if items.kind in metric.standard] + list(more))
    values = {name: compute(find(name), items) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def compute(metric: Metric, items: Any) -> float | None:
    """A metric of items as a plain number; ``None`` where they do not determine it, as where it is NaN or infinite.

    Raises:
        BenchmarkError: the metric fails, or gives something else than a number.
    """
    try:
        value = metric.compute[items.kind](items)
        number = None if value is None else float(value)
    except BenchmarkError:
        raise
    except Exception as error:  # whatever a plug-in raises
        raise BenchmarkError(f"metric '{metric.name}' failed with {type(error).__name__}: {error}") from error
    return number if number is not None and np.isfinite(number) else None


# --- Verification -----------------------------------------------------------------------------------------------------


class DetCurve(NamedTuple):
    """The two error rates at every threshold that changes a decision, from rejecting all to accepting all."""

    thresholds: Floats
    """(point,) decreasing: ``+inf``, then each distinct score."""
    p_miss: Floats
    """(point,) share of targets rejected, from 1 to 0."""
    p_fa: Floats
    """(point,) share of nontargets accepted, from 0 to 1."""


def check_trials(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], Floats]:
    """Which trials are targets (trial,), and their scores (trial,).

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
    return is_target, score


def det_curve(labels: ArrayLike, scores: ArrayLike) -> DetCurve:
    """Detection error trade-off of a set of trials; O(n log n).

    The points are those of ``sklearn.metrics.roc_curve(labels, scores, drop_intermediate=False)``, with
    ``p_miss = 1 - tpr`` and ``p_fa = fpr``.

    Args:
        labels: (trial,) 1 or 0.
        scores: (trial,) finite.

    Raises:
        BenchmarkError: as :func:`check_trials`.
    """
    is_target, score = check_trials(labels, scores)
    targets = int(is_target.sum())
    order = np.argsort(-score, kind="stable")
    score = score[order]
    last_of_tie = np.append(np.flatnonzero(score[1:] != score[:-1]), score.size - 1)
    accepted_targets = np.cumsum(is_target[order])[last_of_tie]
    accepted_nontargets = last_of_tie + 1 - accepted_targets
    return DetCurve(
        thresholds=np.concatenate([[np.inf], score[last_of_tie]]),
        p_miss=np.concatenate([[targets], targets - accepted_targets]) / targets,
        p_fa=np.concatenate([[0], accepted_nontargets]) / (score.size - targets),
    )


def eer(labels: ArrayLike, scores: ArrayLike) -> float:
    """Equal error rate in percent: where the straight-line interpolated ROC meets ``p_miss = p_fa``.

    >>> eer([1, 1, 0, 0], [0.9, 0.4, 0.6, 0.1])
    50.0

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


# --- Classification and language identification -----------------------------------------------------------------------
# Classes are whole numbers from 0. `references` and `predictions` (utterance,) are classes; an average over classes is
# over those that occur in `references`. A class that nobody spoke has no recall and would be given an F1 of 0 at its
# first false alarm; its false alarms count in the recall of the class that they were taken from.


def accuracy(references: ArrayLike, predictions: ArrayLike) -> float:
    """Share of correct predictions in percent. Raises :class:`BenchmarkError` for sizes that differ, or nothing."""
    reference, prediction = _classes(references, predictions)
    return float(100 * np.mean(reference == prediction))


def macro_accuracy(references: ArrayLike, predictions: ArrayLike) -> float:
    """Mean over the reference classes of the share of correct predictions, in percent. Raises as :func:`accuracy`."""
    spoken, _, right = _per_class(references, predictions)
    return float(100 * np.mean(right / spoken))


def macro_f1(references: ArrayLike, predictions: ArrayLike) -> float:
    """Mean over the reference classes of F1, in percent; 0 for a class never predicted. Raises as :func:`accuracy`."""
    spoken, predicted, right = _per_class(references, predictions)
    return float(100 * np.mean(2 * right / (spoken + predicted)))


def confusion_matrix(references: ArrayLike, predictions: ArrayLike, classes: int) -> NDArray[np.int64]:
    """(class, class) counts, references in rows, predictions in columns. Raises as :func:`accuracy`."""
    reference, prediction = _classes(references, predictions)
    counted = (np.minimum(reference, prediction) >= 0) & (np.maximum(reference, prediction) < classes)
    cells = (reference * classes + prediction)[counted].astype(np.int64)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def _per_class(references: ArrayLike, predictions: ArrayLike) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """(reference class,): utterances of it, predictions of it, and what both have in common."""
    reference, prediction = _classes(references, predictions)
    classes, index = np.unique(reference, return_inverse=True)
    among = prediction[np.isin(prediction, classes)]
    return (
        np.bincount(index),
        np.bincount(np.searchsorted(classes, among), minlength=len(classes)),
        np.bincount(index[reference == prediction], minlength=len(classes)),
    )


def _classes(references: ArrayLike, predictions: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    reference, prediction = np.asarray(references), np.asarray(predictions)
    if reference.ndim != 1 or reference.shape != prediction.shape or not reference.size:
        raise BenchmarkError(
            "references and predictions must be one-dimensional, of one size and not empty, got "
            f"{reference.shape} and {prediction.shape}"
        )
    return reference, prediction


def detection_llrs(log_posteriors: ArrayLike) -> Floats:
    """Log-likelihood ratio of each class against the average of the others, from the posteriors of a classifier.

    Under a flat prior posteriors are proportional to likelihoods, so that the ratio is
    ``log(p[t]) - log(mean of p[n], n != t)``. The classifier's posteriors are taken as they are: what its training
    data's imbalance did to them is not undone.

    Args:
        log_posteriors: (utterance, class) finite, at least 2 classes. Need not be normalised.

    Returns:
        (utterance, class) natural logarithms.

    Raises:
        BenchmarkError: another shape; a value that is NaN or infinite.
    """
    logs = np.asarray(log_posteriors, dtype=np.float64)
    if logs.ndim != 2 or logs.shape[1] < 2:
        raise BenchmarkError(f"log-posteriors must be (utterance, class) of at least 2 classes, got {logs.shape}")
    if not np.isfinite(logs).all():
        bad = int(np.argmin(np.isfinite(logs).all(1)))
        raise BenchmarkError(f"log-posteriors must be finite, those of utterance {bad} are not")
    rows = np.arange(len(logs))
    best = logs.argmax(1)
    shifted = logs - logs[rows, best][:, None]
    likelihoods = np.exp(shifted)
    others = likelihoods.sum(1, keepdims=True) - likelihoods  # of each class: the sum over the others ...
    # ... but for the best class, where the difference would cancel
    masked = shifted.copy()
    masked[rows, best] = -np.inf
    second = masked.max(1)
    others[rows, best] = 1.0
    log_others = np.log(others)
    log_others[rows, best] = second + np.log(np.exp(masked - second[:, None]).sum(1))
    return np.asarray(shifted - log_others + np.log(logs.shape[1] - 1))


def language_pairs(references: ArrayLike, llrs: ArrayLike) -> tuple[NDArray[np.int64], Floats]:
    """The detection trials of a language identification test: each utterance with each language of the test.

    Languages that the classifier knows but no utterance of the test speaks are no detectors here: without target
    trials they have no miss rate. They do compete in the LLRs.

    Args:
        references: (utterance,) classes.
        llrs: (utterance, class), see :func:`detection_llrs`.

    Returns:
        labels (pair,), 1 where the utterance speaks the language, and scores (pair,): for ``eer`` and ``det_curve``.
    """
    reference, scores, present = _detection(references, llrs)
    return (reference[:, None] == present).astype(np.int64).ravel(), scores.ravel()


def cavg(references: ArrayLike, llrs: ArrayLike, p_target: float = 0.5) -> float:
    """Average detection cost at the Bayes threshold ``log((1 - p_target) / p_target)``, in [0, 1]; both costs are 1.

    ``1/N sum_t [P_target P_miss(t) + sum_{n != t} P_nontarget P_fa(t, n)]`` with ``P_nontarget = (1 - P_target) / (N -
    1)``, the closed-set cost of NIST's language recognition evaluations and of OLR (arXiv:1706.09742). ``P_miss(t)`` is
    the share of language t's utterances whose LLR for t is below the threshold, ``P_fa(t, n)`` the share of language
    n's whose LLR for t is at or above it.

    N counts the languages that occur in ``references``, and both sums are over them. A language without utterances has
    neither a miss rate nor false alarms as a nontarget; OLR's ``compute_cavg.py`` counts both as 0 and all languages of
    its trial list in N, so that every absent language looks well recognised.

    Args:
        references: (utterance,) classes.
        llrs: (utterance, class), see :func:`detection_llrs`.
        p_target: prior of each target, between 0 and 1.

    Raises:
        BenchmarkError: shapes that do not match; a reference that is no class; fewer than 2 languages; an LLR that is
            not finite; a prior out of range.
    """
    targets, weights, scores = _weighted_pairs(references, llrs, p_target)
    accepted = scores >= np.log((1 - p_target) / p_target)
    return float(weights[targets != accepted].sum())


def min_cavg(references: ArrayLike, llrs: ArrayLike, p_target: float = 0.5) -> float:
    """The least :func:`cavg` that any one threshold, common to all languages, gives.

    Exact, over all thresholds; OLR tries 21 between the lowest and the highest score, so that its cost is at least this
    one. Arguments and errors as :func:`cavg`.
    """
    targets, weights, scores = _weighted_pairs(references, llrs, p_target)
    order = np.argsort(-scores, kind="stable")
    targets, weights, scores = targets[order], weights[order], scores[order]
    # the cost of accepting the k best pairs, k from 0: the targets after them and the nontargets among them
    missed = np.append(np.cumsum(np.where(targets, weights, 0)[::-1])[::-1], 0)
    accepted = np.append(0, np.cumsum(np.where(targets, 0, weights)))
    between_ties = np.concatenate([[True], scores[1:] != scores[:-1], [True]])
    return float((missed + accepted)[between_ties].min())


def _weighted_pairs(
    references: ArrayLike, llrs: ArrayLike, p_target: float
) -> tuple[NDArray[np.bool_], Floats, Floats]:
    """Each pair of :func:`language_pairs`: is it a target, what does its error add to Cavg, its score; (pair,) each."""
    if not 0 < p_target < 1:
        raise BenchmarkError(f"Cavg needs 0 < p_target < 1, got {p_target}")
    reference, scores, present = _detection(references, llrs)
    count = len(present)
    if count < 2:
        raise BenchmarkError(f"Cavg needs utterances of at least 2 languages, got {count}")
    spoken = np.searchsorted(present, reference)
    share = 1 / np.bincount(spoken)[spoken]  # (utterance,) of its language
    targets = reference[:, None] == present
    weights = np.where(targets, p_target, (1 - p_target) / (count - 1)) * share[:, None] / count
    return targets.ravel(), weights.ravel(), scores.ravel()


def _detection(references: ArrayLike, llrs: ArrayLike) -> tuple[NDArray[np.int64], Floats, NDArray[np.int64]]:
    """References (utterance,), LLRs (utterance, language) for the languages that occur, and these (language,)."""
    reference, scores = np.asarray(references), np.asarray(llrs, dtype=np.float64)
    if reference.ndim != 1 or scores.ndim != 2 or len(reference) != len(scores) or not len(scores):
        raise BenchmarkError(
            "references (utterance,) and LLRs (utterance, class) must be of the same utterances, at least one, got "
            f"{reference.shape} and {scores.shape}"
        )
    present = np.unique(reference)
    if present[0] < 0 or present[-1] >= scores.shape[1]:
        raise BenchmarkError(f"references must be classes from 0 to {scores.shape[1] - 1}, got {present}")
    if not np.isfinite(scores).all():
        raise BenchmarkError("LLRs must be finite, some are not; look at the classifier's log-posteriors")
    return reference, scores[:, present], present


# --- Speech recognition -----------------------------------------------------------------------------------------------
# Texts are taken as they are: case and punctuation are the caller's business. Words are what white space separates;
# characters are code points, a single space between words among them.


class Edits(NamedTuple):
    """What turns a reference into a hypothesis at the least number of edits.

    Their sum is unique, the split into kinds need not be: several alignments may be as short.
    """

    substitutions: int
    deletions: int
    insertions: int
    length: int
    """Words (or characters) of the reference."""


def word_edits(reference: str, hypothesis: str) -> Edits:
    """Edits of words. Either text may be empty."""
    return _edits("process_words", reference, hypothesis)


def character_edits(reference: str, hypothesis: str) -> Edits:
    """Edits of characters. Either text may be empty."""
    return _edits("process_characters", reference, hypothesis)


def _edits(process: str, reference: str, hypothesis: str) -> Edits:
    import jiwer

    aligned = getattr(jiwer, process)(" ".join(reference.split()), " ".join(hypothesis.split()))
    length = aligned.hits + aligned.substitutions + aligned.deletions
    return Edits(aligned.substitutions, aligned.deletions, aligned.insertions, length)


def edit_rate(edits: Iterable[Edits]) -> float:
    """Edits of all utterances over the length of all references, in percent; may be above 100.

    Raises:
        BenchmarkError: the references are empty.
    """
    total = np.array(list(edits), dtype=np.int64).reshape(-1, len(Edits._fields)).sum(axis=0)
    if total[3] == 0:
        raise BenchmarkError("an error rate needs references that are not all empty")
    return float(100 * total[:3].sum() / total[3])


def wer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Word error rate over all utterances in percent; see :func:`edit_rate`.

    >>> wer(["good morning all of you"], ["good mourning all you"])
    40.0
    """
    return edit_rate(word_edits(*pair) for pair in zip(references, hypotheses, strict=True))


def cer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Character error rate over all utterances in percent; see :func:`edit_rate`."""
    return edit_rate(character_edits(*pair) for pair in zip(references, hypotheses, strict=True))


# --- What is declared -------------------------------------------------------------------------------------------------


def _of_languages(metric: Callable[[Any, Any], float]) -> Callable[[Any], float | None]:
    """A detection metric of classes; not determined by one class, nor without posteriors."""

    def compute(items: Any) -> float | None:
        if items.llrs is None or len(np.unique(items.references)) < 2:
            return None
        return metric(items.references, items.llrs)

    return compute


def _top5(items: Any) -> float | None:
    if items.log_posteriors is None:
        return None
    best = np.argsort(-items.log_posteriors, axis=1, kind="stable")[:, :5]  # ties go to the first class, as argmax's
    return float(100 * np.mean((best == items.references[:, None]).any(axis=1)))


_T, _C, _E = ("trials",), ("classes",), ("edits",)
for _metric in (
    Metric("eer", "EER", "%", False, 100.0, {
        "trials": lambda t: eer(t.labels, t.scores),
        "classes": _of_languages(lambda references, llrs: eer(*language_pairs(references, llrs))),
    }, _T),
    Metric("min_dcf_p01", "minDCF (P = 0.01)", "", False, 1.0, {
        "trials": lambda t: min_dcf(t.labels, t.scores, 0.01),
    }, _T),
    Metric("min_dcf_p05", "minDCF (P = 0.05)", "", False, 1.0, {
        "trials": lambda t: min_dcf(t.labels, t.scores, 0.05),
    }, _T),
    Metric("accuracy", "accuracy", "%", True, 100.0, {"classes": lambda c: accuracy(c.references, c.predictions)}, _C),
    Metric("macro_accuracy", "macro accuracy", "%", True, 100.0, {
        "classes": lambda c: macro_accuracy(c.references, c.predictions),
    }, _C),
    Metric("macro_f1", "macro F1", "%", True, 100.0, {"classes": lambda c: macro_f1(c.references, c.predictions)}, _C),
    Metric("top5_accuracy", "top-5 accuracy", "%", True, 100.0, {"classes": _top5}),
    Metric("cavg", "Cavg", "", False, 1.0, {"classes": _of_languages(cavg)}),
    Metric("min_cavg", "min. Cavg", "", False, 1.0, {"classes": _of_languages(min_cavg)}),
    Metric("wer", "WER", "%", False, 100.0, {"edits": lambda e: edit_rate(e.words)}, _E),
    Metric("cer", "CER", "%", False, 100.0, {"edits": lambda e: edit_rate(e.characters)}, _E),
):  # fmt: skip
    declare(_metric)
