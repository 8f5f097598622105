"""Metrics of one system on one test set, as functions of how often each cluster was drawn.

An utterance counts as often as its cluster was drawn, a target trial as often as its speaker, a nontarget trial as
often as the product of its two speakers' draws; docs/statistics.md says why.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmark.errors import BenchmarkError
from benchmark.evaluation import Classes, Items, Trials
from benchmark.metrics import Edits, Metric, det_curve
from benchmark.metrics import compute as compute_metric
from benchmark.statistics.limits import Errors
from benchmark.statistics.rates import rate_of_losses, rate_of_sums
from benchmark.statistics.trials import EqualErrorRate, MinimumCost, Side

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Statistic:
    """Metrics of one system on one test set, as functions of how often each cluster was drawn."""

    names: tuple[str, ...]
    higher_is_better: tuple[bool, ...]
    clusters: int
    compute: Callable[[Floats], Floats] = field(repr=False)
    """(replicate, cluster) counts -> (replicate, metric); NaN where the drawn clusters do not determine a metric."""
    width: int
    """Numbers that ``compute`` holds for one replicate."""
    test_set: str
    """A digest of all but the system's output: the same for two systems on one test set in one order."""
    cluster_names: Sequence[str] = field(repr=False)
    """(cluster,)"""
    cluster: str = "cluster"
    """What the clusters are: speaker, session, utterance."""
    build: Callable[[], dict[str, Errors]] = field(default=dict, repr=False)
    """Makes :attr:`errors`."""
    ceilings: Mapping[str, float | None] = field(default_factory=dict)
    """The largest possible values of metrics without a formula, where they are known and the smallest is 0."""

    @cached_property
    def errors(self) -> dict[str, Errors]:
        """Metric -> the error that its interval is computed from; a metric that is not here gets a bootstrap."""
        return self.build()

    def values(self) -> dict[str, float]:
        """The metrics on the test set as it is."""
        return dict(zip(self.names, map(float, self.compute(np.ones((1, self.clusters)))[0]), strict=True))


def of(items: Items, metrics: Mapping[str, Metric]) -> Statistic:
    """The statistic of a run's items.

    Args:
        items: of the test set.
        metrics: by name. Where all of them can be computed from counts of clusters, the statistic has every metric of
            that kind; otherwise exactly these, computed from the drawn items of each replicate.

    Raises:
        BenchmarkError: a metric is not defined on items of this kind; as :func:`verification`, :func:`identification`
            and :func:`error_rates`.
    """
    for metric in metrics.values():
        if items.kind not in metric.compute:
            raise BenchmarkError(f"metric '{metric.name}' is not defined on {items.kind}")
    if metrics.keys() <= {*_FAST[items.kind]}:
        statistic = _of_counts(items)
        if metrics.keys() <= {*statistic.names}:  # Cavg is not determined by classes without posteriors
            return replace(statistic, test_set=_test_set(items), cluster=items.cluster.partition(" ")[0])
    return replace(_of_items(items, metrics), test_set=_test_set(items), cluster=items.cluster.partition(" ")[0])


def _test_set(items: Items) -> str:
    """A digest of all but the system's output. Classes by their names: each system has numbers of its own."""
    cluster, _ = _clusters(items.clusters)
    if isinstance(items, Trials):
        return _digest(items.labels == 1, cluster[items.enrolment], cluster[items.test])
    names = np.asarray(items.names)[items.references] if isinstance(items, Classes) else np.asarray(items.references)
    return _digest(cluster, names)


_FAST = {
    "trials": ("eer", "min_dcf_p01", "min_dcf_p05"),
    "classes": ("accuracy", "macro_accuracy", "macro_f1", "cavg"),
    "edits": ("wer", "cer"),
}
"""Kind of items -> metrics that are computed from counts of clusters."""


def _of_counts(items: Items) -> Statistic:
    clusters = np.asarray(items.clusters)
    if isinstance(items, Trials):
        sides = (clusters[side].tolist() for side in (items.enrolment, items.test))
        return verification(items.labels, items.scores, *sides)
    if isinstance(items, Classes):
        llrs = items.llrs if np.unique(items.references).size > 1 else None
        return identification(items.references, items.predictions, items.clusters, llrs)

    def rate(edits: Sequence[Edits]) -> tuple[list[int], list[int]]:
        return [sum(edit[:3]) for edit in edits], [edit.length for edit in edits]

    return error_rates({"wer": rate(items.words), "cer": rate(items.characters)}, items.clusters)


def _of_items(items: Items, metrics: Mapping[str, Metric]) -> Statistic:
    """Any metrics: computed from the items that each replicate draws."""
    cluster, found = _clusters(items.clusters)
    count = len(found)
    if isinstance(items, Trials):
        one, other = cluster[items.enrolment], cluster[items.test]
        other_or_none = np.where(items.labels == 1, count, other)  # a target trial counts once per draw of its speaker
        sides = (one, other_or_none)
    else:
        sides = (cluster, np.full_like(cluster, count))
    whole = np.arange(len(items))

    def compute(counts: Floats) -> Floats:
        values = np.full((len(counts), len(metrics)), np.nan)
        for row, drawn in enumerate(np.pad(counts.astype(np.int64), ((0, 0), (0, 1)), constant_values=1)):
            taken = items.take(np.repeat(whole, drawn[sides[0]] * drawn[sides[1]]))
            for column, metric in enumerate(metrics.values()):
                with contextlib.suppress(BenchmarkError):  # these items do not determine it
                    value = compute_metric(metric, taken) if len(taken) else None
                    values[row, column] = np.nan if value is None else value
        return values

    directions = tuple(metric.higher_is_better for metric in metrics.values())
    ceilings = {name: metric.ceiling for name, metric in metrics.items()}
    return Statistic(tuple(metrics), directions, count, compute, max(count, len(items)), "", found, ceilings=ceilings)


def error_rates(
    rates: Mapping[str, tuple[ArrayLike, ArrayLike]], clusters: Sequence[str], *, higher_is_better: bool = False
) -> Statistic:
    """Rates of the kind "sum over utterances / sum over utterances", in percent: WER, CER, accuracy.

    ``{"wer": (edits, words), "cer": (edits, characters)}``; accuracy is ``{"accuracy": (correct, ones)}`` with
    ``higher_is_better``.

    Args:
        rates: metric -> numerators (utterance,), denominators (utterance,), neither negative.
        clusters: (utterance,) of speakers, or of utterance ids where there is no speaker.
        higher_is_better: of all the metrics.

    Raises:
        BenchmarkError: no utterance; sizes differ; a number that is negative or not finite; denominators all 0; fewer
            than 2 clusters.
    """
    of, found = _clusters(clusters)
    count = len(found)
    sums = np.empty((2, count, len(rates)))
    digests: list[NDArray[np.generic]] = [of]
    for index, (name, pair) in enumerate(rates.items()):
        for part, numbers in enumerate(pair):
            number = np.asarray(numbers, dtype=np.float64)
            if number.shape != of.shape:
                raise BenchmarkError(f"{name}: {number.shape} numbers for {of.size} utterances; give one for each")
            if not np.all(np.isfinite(number) & (number >= 0)):
                raise BenchmarkError(f"{name}: errors and lengths must be finite and not negative")
            sums[part, :, index] = np.bincount(of, number, count)
        if not sums[1, :, index].sum():
            raise BenchmarkError(f"{name}: an error rate needs references that are not all empty")
        digests.append(np.asarray(pair[1], dtype=np.float64))

    def compute(counts: Floats) -> Floats:
        return 100 * _ratio(counts @ sums[0], counts @ sums[1])

    def errors() -> dict[str, Errors]:
        wrong = sums[1] - sums[0] if higher_is_better else sums[0]
        ceiling = 1.0 if higher_is_better else math.inf
        return {name: rate_of_sums(wrong[:, m], sums[1, :, m], ceiling=ceiling) for m, name in enumerate(names)}

    names, digest = tuple(rates), _digest(*digests)
    return Statistic(names, (higher_is_better,) * len(names), count, compute, count, digest, found, build=errors)


def verification(
    labels: ArrayLike,
    scores: ArrayLike,
    first: Sequence[str],
    second: Sequence[str],
    p_targets: Sequence[float] = (0.01, 0.05),
) -> Statistic:
    """``eer`` (percent) and ``min_dcf_pXX`` of trials, clustered by the speakers of both sides.

    Args:
        labels: (trial,) 1 = same speaker, 0 = different.
        scores: (trial,) finite, higher = more alike.
        first: (trial,) speaker of one side.
        second: (trial,) speaker of the other.
        p_targets: priors of minDCF, its costs being 1.

    Raises:
        BenchmarkError: as :func:`benchmark.metrics.det_curve`; sizes differ; a label that contradicts the speakers; a
            prior out of range.
    """
    curve = det_curve(labels, scores)
    is_target, score = np.asarray(labels) == 1, np.asarray(scores, dtype=np.float64)
    if not len(first) == len(second) == score.size:
        raise BenchmarkError(f"{score.size} trials, but speakers of {len(first)} and {len(second)}; give both of each")
    if not all(0 < prior < 1 for prior in p_targets):
        raise BenchmarkError(f"minDCF needs priors between 0 and 1, got {list(p_targets)}")
    both, found = _clusters(np.concatenate([np.asarray(side, dtype=str) for side in (first, second)]))
    count = len(found)
    one, other = both[: score.size], both[score.size :]
    wrong = np.flatnonzero((one == other) != is_target)
    if wrong.size:
        at = int(wrong[0])
        raise BenchmarkError(
            f"{wrong.size} trials' labels contradict their speakers, the first, at index {at}, is of '{first[at]}' and "
            f"'{second[at]}' with label {int(is_target[at])}"
        )

    def sorted_by_score(of: NDArray[np.bool_]) -> Ints:
        chosen = np.flatnonzero(of)
        return chosen[np.argsort(-score[chosen], kind="stable")]

    targets, nontargets = sorted_by_score(is_target), sorted_by_score(~is_target)
    target, left, right = one[targets], one[nontargets], other[nontargets]
    # numbers accepted at each threshold; between corners of the curve it is straight, whatever the trials weigh
    accepted = np.rint(np.stack([(1 - curve.p_miss) * target.size, curve.p_fa * left.size])).astype(np.int64)
    steps = np.diff(accepted) > 0
    straight = np.any(~steps[:, :-1] & ~steps[:, 1:], axis=0)
    n_target, n_nontarget = accepted[:, np.concatenate([[True], ~straight, [True]])]
    priors = np.asarray(p_targets, dtype=np.float64)

    def compute(counts: Floats) -> Floats:
        counts = np.asarray(counts, dtype=np.float64)
        hits, alarms = _running(counts[:, target]), _running(counts[:, left] * counts[:, right])
        p_miss = 1 - _ratio(hits[:, n_target], hits[:, -1:])
        p_fa = _ratio(alarms[:, n_nontarget], alarms[:, -1:])
        values = np.empty((len(counts), 1 + priors.size))
        gap = p_miss - p_fa  # falls from 1 to -1 along the corners
        after = np.clip((gap > 0).sum(axis=1), 1, gap.shape[1] - 1)
        rows = np.arange(len(counts))
        before = after - 1
        weight = gap[rows, before] / (gap[rows, before] - gap[rows, after])
        values[:, 0] = 100 * (p_fa[rows, before] + weight * (p_fa[rows, after] - p_fa[rows, before]))
        for index, prior in enumerate(priors, 1):
            values[:, index] = (prior * p_miss + (1 - prior) * p_fa).min(axis=1) / min(prior, 1 - prior)
        return values

    def errors() -> dict[str, Errors]:
        sides = (
            Side(score[targets][::-1], [target[::-1]], count),
            Side(-score[nontargets], [left, right], count),
        )
        value, *costs = compute(np.ones((1, count)))[0].tolist()
        of: dict[str, Errors] = {"eer": EqualErrorRate(*sides, value / 100)}
        return of | {
            name: MinimumCost(*sides, cost, prior)
            for name, cost, prior in zip(names[1:], costs, p_targets, strict=True)
        }

    names = ("eer", *(f"min_dcf_p{round(100 * prior):02d}" for prior in p_targets))
    digest = _digest(is_target, one, other)
    return Statistic(
        names, (False,) * len(names), count, compute, max(count, score.size), digest, found, "speaker", errors
    )


def identification(
    references: ArrayLike,
    predictions: ArrayLike,
    clusters: Sequence[str],
    llrs: ArrayLike | None = None,
    p_target: float = 0.5,
) -> Statistic:
    """``accuracy``, ``macro_accuracy``, ``macro_f1`` (percent) and, with ``llrs``, ``cavg``, of a classifier.

    Each is what :mod:`benchmark.metrics` gives for the drawn utterances: averages are over the classes that occur in
    them, so that a class whose clusters were not drawn drops out of that replicate.

    Args:
        references: (utterance,) classes, whole numbers from 0.
        predictions: (utterance,) classes.
        clusters: (utterance,) speakers, or utterance ids where there is no speaker.
        llrs: (utterance, class), see :func:`benchmark.metrics.detection_llrs`.
        p_target: prior of each target in Cavg.

    Raises:
        BenchmarkError: sizes differ; fewer than 2 clusters; Cavg of fewer than 2 languages, or of LLRs that are not
            finite or lack a language.
    """
    from scipy.sparse import csr_array

    of, found = _clusters(clusters)
    count = len(found)
    spoken, predicted = np.asarray(references), np.asarray(predictions)
    if not spoken.shape == predicted.shape == of.shape:
        raise BenchmarkError(
            f"references {spoken.shape}, predictions {predicted.shape} and clusters {of.shape} must have one size"
        )
    present, language = np.unique(spoken, return_inverse=True)

    def table(weights: ArrayLike, classes: Ints = language) -> csr_array:
        """Sums over utterances as (cluster, class)."""
        weight = np.asarray(weights, dtype=np.float64)
        kept = weight != 0
        cells = (weight[kept], (of[kept], classes[kept]))
        return csr_array(cells, shape=(count, present.size))

    known = np.isin(predicted, present)
    all_of, correct = table(np.ones(of.size)), table(spoken == predicted)
    answers = table(known, np.where(known, np.searchsorted(present, predicted), 0))
    names = ["accuracy", "macro_accuracy", "macro_f1"]
    if llrs is not None:
        scores = np.asarray(llrs, dtype=np.float64)
        if present.size < 2 or not 0 < p_target < 1:
            raise BenchmarkError(
                f"Cavg needs at least 2 languages and 0 < p_target < 1, got {present.size} and {p_target}"
            )
        if scores.shape[:1] != of.shape or scores.ndim != 2 or scores.shape[1] <= present.max():
            raise BenchmarkError(
                f"LLRs must be ({of.size} utterances, at least {present.max() + 1} classes), got {scores.shape}"
            )
        if not np.isfinite(scores).all():
            raise BenchmarkError("LLRs must be finite")
        accepted = scores[:, present] >= math.log((1 - p_target) / p_target)
        own = language[:, None] == np.arange(present.size)
        misses, alarms = table((~accepted & own).sum(axis=1)), table((accepted & ~own).sum(axis=1))
        alarms_for = [table(column) for column in (accepted & ~own).T]
        names.append("cavg")

    def compute(counts: Floats) -> Floats:
        total, hits = counts @ all_of, counts @ correct  # (replicate, class)
        there = total > 0
        values = [
            _ratio(hits.sum(axis=1), total.sum(axis=1)),
            _ratio(_quotient(hits, total).sum(axis=1), there.sum(axis=1)),
            _ratio((_quotient(2 * hits, total + counts @ answers) * there).sum(axis=1), there.sum(axis=1)),
        ]
        values = [100 * value for value in values]
        if llrs is not None:
            miss = _quotient(counts @ misses, total).sum(axis=1)
            alarm = _quotient(counts @ alarms, total).sum(axis=1)
            for absent in np.flatnonzero(~there.all(axis=0)):  # no detector of this language in these replicates
                rows = ~there[:, absent]
                alarm[rows] -= _quotient(counts[rows] @ alarms_for[absent], total[rows]).sum(axis=1)
            languages = there.sum(axis=1)
            values.append(_ratio(p_target * miss + (1 - p_target) * _ratio(alarm, languages - 1.0), languages))
        return np.stack(values, axis=1)

    def errors() -> dict[str, Errors]:
        size = np.bincount(language).astype(np.float64)
        of_all = dict(zip(names, compute(np.ones((1, count)))[0].tolist(), strict=True))
        wrong = (spoken != predicted).astype(np.float64)
        every = np.stack([np.bincount(of, part, count) for part in (wrong, np.ones(of.size))])
        here: dict[str, Errors] = {"accuracy": rate_of_sums(*every, ceiling=1.0)}

        def mean(name: str, losses: Floats, **more: float) -> Errors:
            value = of_all[name] if name == "cavg" else 1 - of_all[name] / 100
            return rate_of_losses(value, losses / present.size, language, of, count, **more)

        here["macro_accuracy"] = mean("macro_accuracy", wrong / size[language])
        answer = np.where(known, np.searchsorted(present, predicted), 0)
        answers = np.bincount(answer[known], minlength=present.size)
        both = size + answers
        f1 = 2 * np.bincount(language, 1 - wrong) / both
        losses = f1[language] / both[language] + known * (f1 / both)[answer] - 2 * (1 - wrong) / both[language]
        here["macro_f1"] = mean("macro_f1", losses)
        if llrs is not None:
            cost = p_target * (~accepted & own).sum(axis=1)
            cost = cost + (1 - p_target) * (accepted & ~own).sum(axis=1) / (present.size - 1)
            here["cavg"] = mean("cavg", cost / size[language], share=p_target**2, scale=1.0)
        return here

    directions = tuple(name != "cavg" for name in names)
    width = max(count, 8 * present.size)
    return Statistic(tuple(names), directions, count, compute, width, _digest(of, spoken), found, build=errors)


def _clusters(names: Sequence[str] | NDArray[np.str_]) -> tuple[Ints, list[str]]:
    """(item,) index of the cluster of each item, and the clusters."""
    found, index = np.unique(np.asarray(names, dtype=str), return_inverse=True)
    if found.size < 2:
        raise BenchmarkError(f"an interval needs at least 2 clusters (speakers, or utterances), got {found.size}")
    return index, found.tolist()


def _digest(*arrays: NDArray[np.generic]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _running(weights: Floats) -> Floats:
    """(replicate, item) -> (replicate, item + 1): sums of the first 0, 1, 2, … items."""
    sums = np.zeros((len(weights), weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums


def _ratio(numerator: Floats, denominator: ArrayLike) -> Floats:
    """The quotient, NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = np.divide(numerator, denominator)
    return np.where(np.asarray(denominator) == 0, np.nan, quotient)


def _quotient(numerator: Floats, denominator: Floats) -> Floats:
    """The quotient, 0 where the denominator is 0."""
    return np.nan_to_num(_ratio(numerator, denominator), nan=0.0)
