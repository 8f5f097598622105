"""Uncertainty of results: intervals over the test set by a clustered bootstrap, and the spread over seeds.

The *test set* is a sample of speakers: its spread comes from a bootstrap that draws clusters (speakers; utterances
where there are none) with replacement. *Seeds* are runs: their spread is a standard deviation and a t-interval. Neither
contains the other, and they are never added up.

:func:`summarise` gives intervals of a system's :class:`~benchmark.statistics.statistic.Statistic`, :func:`compare`
those of the difference between two systems on the same draws. Intervals are BCa (Efron, JASA 1987) at levels widened
for few clusters (Hesterberg, arXiv:1411.5279).

Sources, measured coverage and known limits: docs/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import BenchmarkError
from benchmark.statistics.statistic import Statistic

Floats = NDArray[np.float64]

REPLICATES = 2000
LEVEL = 0.95
MOST_LEFT_OUT = 500
"""The jackknife leaves clusters out in at most this many groups."""
BLOCK = 2**18
"""Numbers (8 bytes each) that an array over trials and replicates may hold."""


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
    """Mean over replicates - value: approximately the distance of the value itself from the truth."""
    replicates: int
    """Those that determine the metric; others, such as those without target trials, are left out."""
    clusters: int
    method: str = "BCa, expanded"

    @property
    def biased(self) -> bool:
        """The bias exceeds half the standard error: the interval covers less often than its level says."""
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
                "the runs have different test sets or metrics: sort utterances or trials into one order, with the same "
                f"references and speakers ({', '.join(systems[0].names)} against {', '.join(system.names)})"
            )
    replicates = min([replicates, *(system.replicates for system in systems if system.replicates)])
    clusters = systems[0].clusters
    points = np.stack([system.compute(np.ones((1, clusters)))[0] for system in systems])
    rows = max(1, BLOCK // max(system.width for system in systems))

    def values(blocks: Iterator[Floats]) -> Floats:
        """Of the rows that determine all metrics of all systems."""
        parts = [np.stack([system.compute(counts) for system in systems]) for counts in blocks]
        computed = np.concatenate(parts, axis=1)
        return computed[:, np.isfinite(computed).all(axis=(0, 2))]

    draws = values(_draws(clusters, replicates, rows, np.random.default_rng(seed)))
    jackknife = values(_all_but_some(clusters, rows))
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


def _interval(point: float, draws: Floats, jackknife: Floats, clusters: int, level: float) -> Interval:
    """BCa at the expanded level; the acceleration is the jackknife's."""
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
