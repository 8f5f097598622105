"""What each speaker (language, class) does to a metric: its value with all data minus its value without them.

Nothing is approximated. Without a speaker, every utterance of theirs is gone and every trial in which they occur, on
either side, and the metric is computed again from what is left. A positive influence says that the speaker raises the
value: of an error rate, that they are harder than the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmark.errors import BenchmarkError
from benchmark.evaluation import Classes, Items, Trials
from benchmark.metrics import DetCurve, Metric, det_curve, eer_of
from benchmark.metrics import compute as compute_metric
from benchmark.statistics import statistic

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_BLOCK = 2**21
"""Numbers that are held at a time, about: more than the caches hold is slower."""


@dataclass(frozen=True, eq=False)
class Influence:
    """A metric, and what it is without each group of items."""

    names: tuple[str, ...]
    """Of the groups: speakers, languages, classes … ; sorted."""
    items: Ints
    """(group,) utterances of a group, or trials in which it occurs."""
    value: float
    """The metric of all items."""
    without: Floats
    """(group,) the metric of the items that do not belong to the group; NaN where they do not determine it."""

    @property
    def influence(self) -> Floats:
        """(group,) the value minus the value without the group."""
        return self.value - self.without

    def order(self) -> Ints:
        """Indices of the groups, the largest influence of either sign first; those without one last."""
        size = np.abs(np.where(np.isnan(self.without), 0.0, self.influence))
        return np.lexsort((np.arange(size.size), -size, np.isnan(self.without)))


def influence(items: Items, metric: Metric, groups: Sequence[str] | None = None) -> Influence:
    """The exact influence of each group of items on a metric.

    Takes a second or two for 580,000 trials of 1,251 speakers where the metric is EER or minDCF, or for any number of
    utterances that a corpus has where it is computed from counts (:func:`benchmark.statistics.of`). Any other metric
    is computed once for each group.

    Args:
        items: of the test set.
        metric: defined on items of this kind.
        groups: (utterance,) of ``items.ids``; default: their clusters.

    Raises:
        BenchmarkError: the metric is not defined on items of this kind, or not determined by these; fewer than 2
            groups.
    """
    if items.kind not in metric.compute:
        raise BenchmarkError(f"metric '{metric.name}' is not defined on {items.kind}")
    of = np.asarray(items.clusters if groups is None else groups, dtype=str)
    if of.size != len(items.ids):
        raise BenchmarkError(f"{of.size} groups for {len(items.ids)} utterances; give one for each")
    names, index = np.unique(of, return_inverse=True)
    if names.size < 2:
        raise BenchmarkError(f"an influence needs at least 2 groups, there is {names.size}")
    parts = members(items, index, names.size)
    counts = np.array([part.size for part in parts], dtype=np.int64)
    curve = _curve_metric(metric) if isinstance(items, Trials) else None
    if curve is not None:
        assert isinstance(items, Trials)
        value, without = _of_curves(items, curve, parts)
    elif isinstance(items, Trials):
        value, without = _one_by_one(items, metric, parts)
    else:
        made = statistic.of(replace(items, clusters=of.tolist()), {metric.name: metric})
        value, without = _of_counts(made, metric)
    if not np.isfinite(value):
        raise BenchmarkError(f"the {items.kind} do not determine the metric '{metric.name}'")
    return Influence(tuple(names.tolist()), counts, value, without)


def quick(items: Items, metric: Metric) -> bool:
    """Whether :func:`influence` does without computing the metric anew for each group."""
    if isinstance(items, Trials):
        return _curve_metric(metric) is not None
    return metric.name in statistic._FAST[items.kind]


def mean(influences: Sequence[Influence]) -> Influence:
    """On the mean of a metric over runs with the same groups, such as training seeds."""
    first = influences[0]
    value = float(np.mean([one.value for one in influences]))
    return replace(first, value=value, without=np.mean([one.without for one in influences], axis=0))


def difference(first: Influence, second: Influence) -> Influence:
    """On the difference of a metric between two systems on one test set, ``second - first``."""
    if first.names != second.names:
        raise BenchmarkError("the two systems were not scored on the same groups")
    return replace(first, value=second.value - first.value, without=second.without - first.without)


def members(items: Items, index: Ints, count: int) -> list[Ints]:
    """The items of each group: its utterances, or the trials in which it occurs on either side.

    Args:
        items: of the test set.
        index: (utterance,) group of each of ``items.ids``, from 0.
        count: how many groups there are.
    """
    if isinstance(items, Trials):
        one, other = index[items.enrolment], index[items.test]
        again = np.flatnonzero(other != one)
        group, item = np.concatenate([one, other[again]]), np.concatenate([np.arange(one.size), again])
    else:
        group, item = index, np.arange(index.size)
    ends = np.cumsum(np.bincount(group, minlength=count))
    return np.split(item[np.argsort(group, kind="stable")], ends[:-1])


def _curve_metric(metric: Metric) -> Callable[[DetCurve], float] | None:
    """The metric as a function of the trials' error rates at every threshold, where it is one."""
    prior = {"min_dcf_p01": 0.01, "min_dcf_p05": 0.05}.get(metric.name)
    if metric.name == "eer":
        return eer_of
    if prior is None:
        return None
    return lambda curve: float(np.min(prior * curve.p_miss + (1 - prior) * curve.p_fa) / min(prior, 1 - prior))


def _of_curves(trials: Trials, metric: Callable[[DetCurve], float], parts: Sequence[Ints]) -> tuple[float, Floats]:
    """A function of the DET curve, of all trials and without each group.

    The curve of all trials is kept at its corners, between which only targets or only nontargets are accepted: without
    any of the trials it is still straight there. A group takes its own trials away from the counts at the corners.
    """
    is_target = trials.labels == 1
    whole = det_curve(trials.labels, trials.scores)
    targets = int(is_target.sum())
    accepted = np.rint(np.stack([(1 - whole.p_miss) * targets, whole.p_fa * (is_target.size - targets)]))
    steps = np.diff(accepted) > 0
    straight = np.any(~steps[:, :-1] & ~steps[:, 1:], axis=0)
    corner = np.concatenate([[True], ~straight, [True]])
    accepted, lowest = accepted[:, corner], -whole.thresholds[corner]
    first = np.searchsorted(lowest, -np.asarray(trials.scores, dtype=np.float64))  # corner that accepts the trial

    def without(gone: Ints) -> float:
        left = [
            counts - np.cumsum(np.bincount(first[gone[is_target[gone] == kind]], minlength=counts.size))
            for kind, counts in zip((True, False), accepted, strict=True)
        ]
        hits, alarms = left
        if not hits[-1] or not alarms[-1]:
            return np.nan
        return metric(DetCurve(-lowest, (hits[-1] - hits) / hits[-1], alarms / alarms[-1]))

    return without(np.empty(0, np.int64)), np.array([without(gone) for gone in parts])


def _one_by_one(items: Items, metric: Metric, parts: Sequence[Ints]) -> tuple[float, Floats]:
    """Any metric, computed again without each group."""

    def of(kept: NDArray[np.bool_]) -> float:
        try:
            value = compute_metric(metric, items.take(np.flatnonzero(kept))) if kept.any() else None
        except BenchmarkError:  # these items do not determine it
            value = None
        return np.nan if value is None else value

    def without() -> Iterator[float]:
        for gone in parts:
            kept = np.ones(len(items), dtype=bool)
            kept[gone] = False
            yield of(kept)

    return of(np.ones(len(items), dtype=bool)), np.array(list(without()))


def _of_counts(made: statistic.Statistic, metric: Metric) -> tuple[float, Floats]:
    """A metric as a function of how often each group counts: once, or not at all."""
    column = made.names.index(metric.name)
    without = np.empty(made.clusters)
    rows = max(1, _BLOCK // max(made.width, made.clusters))
    for begin in range(0, made.clusters, rows):
        part = np.arange(begin, min(begin + rows, made.clusters))
        counts = np.ones((part.size, made.clusters))
        counts[np.arange(part.size), part] = 0
        without[part] = made.compute(counts)[:, column]
    return float(made.compute(np.ones((1, made.clusters)))[0, column]), without


# --- How a metric varies over groups ----------------------------------------------------------------------------------

WORST = 15
"""Languages whose mean ML-SUPERB 2.0 reports beside the mean over all."""


@dataclass(frozen=True)
class Spread:
    """How a rate varies over languages (or classes, or speakers), each counting once.

    What ML-SUPERB 2.0 reports: the mean over languages, the standard deviation over languages, the worst language
    (Shi et al., arXiv:2406.08641) and the mean of the 15 worst (its 2025 challenge; espnet 1d486d52,
    ``egs2/ml_superb2/asr1/local/score.py``). There a language's CER is the mean over its utterances; here it is edits
    over characters, as everywhere in this library.
    """

    groups: int
    mean: float
    sd: float
    """With n - 1 in the denominator, as in that script; NaN of one group."""
    worst: int
    """Index of the worst group."""
    worst_value: float
    worst_groups: int
    """How many the next mean is over: 15 of at least 30 groups, else a tenth of them, rounded up."""
    worst_mean: float


def spread(rates: ArrayLike, *, higher_is_better: bool = False) -> Spread:
    """The spread of rates (group,); those that are NaN are left out.

    Raises:
        BenchmarkError: there is none.
    """
    rate = np.asarray(rates, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(rate))
    if not known.size:
        raise BenchmarkError("a spread needs at least one group")
    order = known[np.argsort(rate[known] if higher_is_better else -rate[known], kind="stable")]
    worst = WORST if known.size >= 2 * WORST else -(-known.size // 10)
    return Spread(
        groups=int(known.size),
        mean=float(rate[known].mean()),
        sd=float(rate[known].std(ddof=1)) if known.size > 1 else float("nan"),
        worst=int(order[0]),
        worst_value=float(rate[order[0]]),
        worst_groups=worst,
        worst_mean=float(rate[order[:worst]].mean()),
    )


# --- Errors of single items and of groups -----------------------------------------------------------------------------


def equal_error_threshold(trials: Trials) -> float:
    """The score from which on a trial is accepted, where the two error rates are closest to each other."""
    curve = det_curve(trials.labels, trials.scores)
    return float(curve.thresholds[1:][np.argmin(np.abs(curve.p_miss - curve.p_fa)[1:])])


def item_errors(items: Items, *, characters: bool = False) -> tuple[Floats, Floats]:
    """Errors of each item, and how many it could have.

    Args:
        items: trials, of which those are wrong that are decided wrongly at :func:`equal_error_threshold`; classified
            utterances; or recognised ones, whose errors are edits and whose number is the reference's length.
        characters: edits are of characters, not of words.

    Returns:
        (item,) errors and (item,) numbers.
    """
    if isinstance(items, Trials):
        wrong = (items.scores >= equal_error_threshold(items)) != (items.labels == 1)
        return wrong.astype(np.float64), np.ones(len(items))
    if isinstance(items, Classes):
        return (items.references != items.predictions).astype(np.float64), np.ones(len(items))
    edits = items.characters if characters else items.words
    counts = np.array([(sum(edit[:3]), edit.length) for edit in edits], dtype=np.float64).reshape(-1, 2)
    return counts[:, 0], counts[:, 1]


def group_rates(items: Items, groups: Sequence[str], *, characters: bool = False) -> Floats:
    """The error rate within each group, in percent: :func:`item_errors` summed over its items.

    Args:
        items: as in :func:`item_errors`.
        groups: (utterance,) of ``items.ids``.
        characters: as in :func:`item_errors`.

    Returns:
        (group,) in the order of the sorted names; NaN where a group's references are empty.
    """
    names, index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    errors, numbers = item_errors(items, characters=characters)
    sums = np.array([(errors[of].sum(), numbers[of].sum()) for of in members(items, index, names.size)])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums[:, 1] > 0, 100 * sums[:, 0] / sums[:, 1], np.nan)
