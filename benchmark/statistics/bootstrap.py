"""Uncertainty of results and curves over label budgets: pure functions on arrays.

Two kinds of spread are kept apart everywhere. The *test set* is a sample of speakers: its spread comes from a bootstrap
that draws clusters (speakers; utterances where there are none) with replacement. *Seeds* (of the training, of the
budget's order) are runs: their spread is a standard deviation and a t-interval over runs. Neither contains the other,
and they are never added up.

**Bootstrap.** A :class:`Statistic` is the metrics of one system on one test set as functions of how often each cluster
was drawn; :func:`verification`, :func:`identification` and :func:`error_rates` make one, :func:`summarise` gives
intervals, :func:`compare` those of the difference of two systems on the same draws.

A target trial counts as often as its speaker was drawn, a nontarget trial as often as the product of its two speakers'
draws: the vertex bootstrap of networks, for the pairs of which Fogliato, Patil & Perona (arXiv:2306.01198) review it;
their code (awslabs/cis-matching-tasks 654483a) draws a speaker once or not at all, where this rule and "the product for
every trial" are one. With draws of 0, 1, 2, … they are not: squaring the draws for targets made EER intervals 20-45 %
wider than these (400 simulations). What is the pair's or the trial's own is counted up to threefold in the variance of
a product of draws, so that intervals err on the wide side with few trials a speaker.

Intervals are BCa (Efron, JASA 1987), the acceleration from a jackknife over clusters, at levels widened for few
clusters as Hesterberg's expanded percentile interval is (arXiv:1411.5279): the normal quantile is replaced by
``t(clusters - 1) * sqrt(clusters / (clusters - 1))``.

Measured coverage of 95 % intervals, in percent (1000 simulations of 400 replicates, for 40 x 470 trials 300).
"Effects" are normal scores with effects of speaker and pair and an EER of 4.9 % by formula; "vectors" are cosines of
speaker vectors with noise of a size of each speaker's own, of 4.0 % EER (40 x 470: 1.6 %) over 4000 speakers; there are
as many nontargets as targets; "by trial" is a percentile interval that draws trials (100 and 20 simulations):

========  ========  ==================  ======  =========  ===========  ===========
model     speakers  targets a speaker   EER     by trial   minDCF .01   minDCF .05
========  ========  ==================  ======  =========  ===========  ===========
effects   20        40                  96.6    78         54           91
effects   40        100                 95.3    61         90           97
vectors   10        40                  94.1    48         60           81
vectors   40        20                  97.0    70         62           92
vectors   40        100                 93.7    49         94           97
vectors   100       50                  94.6    58         94           98
vectors   40        470                 90.3    40         95           95
========  ========  ==================  ======  =========  ===========  ===========

The last line is covered least: its EER is that of a few difficult speakers, and among 40 there are too few of them.
Where the noise spreads widely over speakers (log-normal, log sd 0.35, 40 dimensions; EER 1.6 % at 40 x 470, else 4.0 %)
coverage was 83 % at 40 x 470, 90 % at 40 x 100, 87 % at 10 x 40 and 95 % at 100 x 50; neither degrees of freedom from
the kurtosis of the influences (85 % at 40 x 470) nor a probit scale (83 %, both 89 %) mended it: more speakers do. The
difference of two EERs (effects, 40 x 60) was covered 97.5 %. The minimum in minDCF is taken on the sample, so that the
value itself is too low where only a few nontargets score above the best threshold (at a prior of 0.01, with fewer than
about 5000 nontargets), and no resampling mends that; ``Interval.biased`` marks most such intervals: do not read them as
95 %. Cavg of rare errors (2 %) was covered 91 % with 10 speakers a language, 92 % with 25; WER and accuracy 93-96 %. A
metric that no draw changes (no error at all) gets an interval without width.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmark.errors import BenchmarkError
from benchmark.metrics import det_curve

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

REPLICATES = 2000
LEVEL = 0.95
MOST_LEFT_OUT = 500
"""The jackknife leaves clusters out in at most this many groups."""
BLOCK = 2**18
"""Numbers (8 bytes each) that an array over trials and replicates may hold."""


# --- Statistics: metrics as functions of the draws --------------------------------------------------------------------


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

    def values(self) -> dict[str, float]:
        """The metrics on the test set as it is."""
        return dict(zip(self.names, map(float, self.compute(np.ones((1, self.clusters)))[0]), strict=True))


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
    of, count = _clusters(clusters)
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

    names = tuple(rates)
    return Statistic(names, (higher_is_better,) * len(names), count, compute, count, _digest(*digests))


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
    both, count = _clusters([*first, *second])
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

    names = ("eer", *(f"min_dcf_p{round(100 * prior):02d}" for prior in p_targets))
    digest = _digest(is_target, one, other)
    return Statistic(names, (False,) * len(names), count, compute, max(count, score.size), digest)


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

    of, count = _clusters(clusters)
    spoken, predicted = np.asarray(references), np.asarray(predictions)
    if not spoken.shape == predicted.shape == of.shape:
        raise BenchmarkError(
            f"references {spoken.shape}, predictions {predicted.shape} and clusters {of.shape} must be of one size"
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

    directions = tuple(name != "cavg" for name in names)
    width = max(count, 8 * present.size)
    return Statistic(tuple(names), directions, count, compute, width, _digest(of, spoken))


def _clusters(names: Sequence[str]) -> tuple[Ints, int]:
    """(item,) index of the cluster of each item, and how many clusters there are."""
    found, index = np.unique(np.asarray(names, dtype=str), return_inverse=True)
    if found.size < 2:
        raise BenchmarkError(f"a bootstrap needs at least 2 clusters (speakers, or utterances), got {found.size}")
    return index, int(found.size)


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


# --- The bootstrap ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """A value on a test set with the interval that a bootstrap over its clusters gives."""

    value: float
    low: float
    high: float
    level: float
    se: float
    """Standard deviation over replicates."""
    bias: float
    """Mean over replicates - value: about how far the value itself lies from the truth."""
    replicates: int
    """How many determined the metric; those in which a class of trials was not drawn are left out."""
    clusters: int
    method: str = "BCa, expanded"

    @property
    def biased(self) -> bool:
        """The bias is above half the standard error: the interval fails more often than it says.

        In simulations a bias of 0.3 did no harm; coverage was 90-94 % at 0.5 to 0.6 and about 60 % at 0.7 to 0.8.
        """
        return abs(self.bias) > 0.5 * self.se


@dataclass(frozen=True)
class SeedSpread:
    """Mean of a value over runs with different seeds, and the spread between the runs. One run has no spread."""

    mean: float
    sd: float | None
    """With n - 1 in the denominator."""
    low: float | None
    """t-interval of the mean."""
    high: float | None
    n: int
    level: float


@dataclass(frozen=True)
class Summary:
    """One metric of one system: the test set's uncertainty (seeds as they are) beside that over seeds."""

    test_set: Interval
    """Of the mean over the seeds, when other speakers are drawn."""
    seeds: SeedSpread
    """Of the values on the test set as it is, when other seeds are drawn."""


@dataclass(frozen=True)
class Comparison:
    """One metric of two systems on one test set; differences are second - first."""

    test_set: Interval
    """Of the mean over the seeds of the difference."""
    seeds: SeedSpread
    """Of the difference of runs with one seed."""
    probability_of_improvement: float
    """Share of replicates in which the second system is better, ties counted half (Bisani & Ney, ICASSP 2004)."""


def seed_spread(values: Sequence[float], level: float = LEVEL) -> SeedSpread:
    """Mean, standard deviation and t-interval over runs.

    Raises:
        BenchmarkError: no run, a value that is not finite, or a level out of range.
    """
    _check_level(level)
    value = np.asarray(values, dtype=np.float64)
    if value.ndim != 1 or not value.size or not np.isfinite(value).all():
        raise BenchmarkError(f"a spread over seeds needs finite values, one a seed, got {list(values)}")
    mean = float(value.mean())
    if value.size == 1:
        return SeedSpread(mean, None, None, None, 1, level)
    from scipy.stats import t

    sd = float(value.std(ddof=1))
    half = float(t.ppf((1 + level) / 2, value.size - 1)) * sd / math.sqrt(value.size)
    return SeedSpread(mean, sd, mean - half, mean + half, int(value.size), level)


def summarise(
    systems: Sequence[Statistic], *, replicates: int = REPLICATES, seed: int = 0, level: float = LEVEL
) -> dict[str, Summary]:
    """Metrics of one system with both spreads, by metric.

    Args:
        systems: one a seed (of the training), all on one test set.
        replicates: of the bootstrap.
        seed: of its draws; the same draws for all systems with as many clusters.
        level: of all intervals.

    Raises:
        BenchmarkError: no system; different test sets; options out of range; more than half of the replicates do not
            determine a metric.
    """
    points, draws, jackknife = _resample(systems, replicates, seed, level)
    means, left_out, clusters = draws.mean(axis=0), jackknife.mean(axis=0), systems[0].clusters
    return {
        name: Summary(
            _interval(points[:, m].mean(), means[:, m], left_out[:, m], clusters, level),
            seed_spread(points[:, m].tolist(), level),
        )
        for m, name in enumerate(systems[0].names)
    }


def compare(
    first: Sequence[Statistic],
    second: Sequence[Statistic],
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, Comparison]:
    """Differences second - first of two systems on one test set, by metric, paired by cluster and by seed.

    Args:
        first: one a seed.
        second: one a seed, the seeds in the same order.
        replicates: of the bootstrap, the same draws for both.
        seed: of its draws.
        level: of all intervals.

    Raises:
        BenchmarkError: as :func:`summarise`; different numbers of seeds.
    """
    if len(first) != len(second):
        raise BenchmarkError(f"a comparison is paired by seed, got {len(first)} and {len(second)} runs")
    points, draws, jackknife = (
        values[len(first) :] - values[: len(first)] for values in _resample([*first, *second], replicates, seed, level)
    )
    found = {}
    for m, (name, higher_is_better) in enumerate(zip(first[0].names, first[0].higher_is_better, strict=True)):
        differences = draws[..., m].mean(0)
        gains = differences if higher_is_better else -differences
        found[name] = Comparison(
            _interval(points[:, m].mean(), differences, jackknife[..., m].mean(0), first[0].clusters, level),
            seed_spread(points[:, m].tolist(), level),
            float(np.mean((gains > 0) + 0.5 * (gains == 0))),
        )
    return found


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise BenchmarkError(f"the level of an interval must be between 0 and 1, got {level}")


def _resample(systems: Sequence[Statistic], replicates: int, seed: int, level: float) -> tuple[Floats, Floats, Floats]:
    """Values (system, metric), bootstrap replicates and jackknife values (system, replicate, metric)."""
    _check_level(level)
    if not systems or replicates < 100:
        raise BenchmarkError(f"a bootstrap needs runs and at least 100 replicates, got {len(systems)} and {replicates}")
    for system in systems[1:]:
        if (system.names, system.test_set) != (systems[0].names, systems[0].test_set):
            raise BenchmarkError(
                "the runs are of different test sets or metrics: bring utterances or trials into one order, with the "
                f"same references and speakers ({', '.join(systems[0].names)} against {', '.join(system.names)})"
            )
    clusters = systems[0].clusters
    points = np.stack([system.compute(np.ones((1, clusters)))[0] for system in systems])
    rows = max(1, BLOCK // max(system.width for system in systems))
    drawn, left_out = [], []
    for counts in _draws(clusters, replicates, rows, np.random.default_rng(seed)):
        drawn.append(np.stack([system.compute(counts) for system in systems]))
    for counts in _all_but_some(clusters, rows):
        left_out.append(np.stack([system.compute(counts) for system in systems]))
    draws, jackknife = (_determined(np.concatenate(parts, axis=1)) for parts in (drawn, left_out))
    if draws.shape[1] < replicates / 2 or jackknife.shape[1] < 2:
        raise BenchmarkError(
            f"{replicates - draws.shape[1]} of {replicates} draws of {clusters} clusters do not determine "
            f"{', '.join(systems[0].names)}: the test set has too few speakers for an interval"
        )
    return points, draws, jackknife


def _draws(clusters: int, replicates: int, rows: int, random: np.random.Generator) -> Iterator[Floats]:
    """Blocks (replicate, cluster) of how often each cluster was drawn, the same for every size of the blocks."""
    for start in range(0, replicates, rows):
        block = min(rows, replicates - start)
        drawn = random.integers(clusters, size=(block, clusters)) + clusters * np.arange(block)[:, None]
        yield np.bincount(drawn.ravel(), minlength=block * clusters).reshape(block, clusters).astype(np.float64)


def _all_but_some(clusters: int, rows: int) -> Iterator[Floats]:
    """Blocks (group, cluster) of ones, but for the clusters that are left out."""
    groups = min(clusters, MOST_LEFT_OUT)
    group = np.arange(clusters) % groups
    for start in range(0, groups, rows):
        yield (group != np.arange(start, min(start + rows, groups))[:, None]).astype(np.float64)


def _determined(values: Floats) -> Floats:
    return values[:, np.isfinite(values).all(axis=(0, 2))]


def _interval(point: float, draws: Floats, jackknife: Floats, clusters: int, level: float) -> Interval:
    """BCa at the expanded level; see the module's description."""
    from scipy.stats import norm, t

    reach = t.ppf((1 + level) / 2, clusters - 1) * math.sqrt(clusters / (clusters - 1))
    below = float(np.mean((draws < point) + 0.5 * (draws == point)))
    least = 1 / (draws.size + 1)
    shift = float(norm.ppf(min(max(below, least), 1 - least)))
    influence = jackknife.mean() - jackknife
    scale = float((influence**2).sum() ** 1.5)
    acceleration = float((influence**3).sum()) / (6 * scale) if scale > 0 else 0.0
    ends = []
    for sign in (-1, 1):
        at = shift + sign * reach
        bent = 1 - acceleration * at
        ends.append(float(norm.cdf(shift + at / bent)) if bent > 0 else float(sign > 0))
    low, high = np.quantile(draws, ends)
    return Interval(
        value=float(point),
        low=float(low),
        high=float(high),
        level=level,
        se=float(draws.std(ddof=1)),
        bias=float(draws.mean() - point),
        replicates=draws.size,
        clusters=clusters,
    )
