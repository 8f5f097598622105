"""Intervals over the test set, differences between systems, and the spread over seeds.

The *test set* is a sample of clusters (speakers; utterances where no speaker is known). *Seeds* are runs: their spread
is a standard deviation and a t-interval. Neither contains the other, and they are never added up.

:func:`summarise` gives intervals of a system's :class:`~benchmark.statistics.statistic.Statistic`, :func:`compare`
those of the difference between two systems on the same test set. EER, minDCF, WER, CER, accuracy, macro accuracy,
macro F1 and Cavg have intervals without resampling (:mod:`benchmark.statistics.limits`); any other metric has those of
a bootstrap over clusters (:mod:`benchmark.statistics.bootstrap`).

Method, measured coverage and known limits: docs/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from benchmark.errors import BenchmarkError
from benchmark.statistics import bootstrap, limits
from benchmark.statistics.limits import Errors
from benchmark.statistics.statistic import Statistic

Floats = NDArray[np.float64]

LEVEL = 0.95
REPLICATES = 500
"""Of the bootstrap of metrics that have no formula."""
WIDE = 3.0
"""An upper limit this many times the error says that there are too few clusters."""


@dataclass(frozen=True)
class Interval:
    """A value on a test set, and where it may lie for other clusters of the same kind."""

    value: float
    low: float
    high: float
    level: float
    se: float
    """Standard error at the value (of a difference: the one that its interval is made of)."""
    clusters: int
    """Those that the value rests on."""
    df: float | None = None
    """Of Student's t: 1 less than the number of clusters of one size that weigh as much as these (``clusters - 1``
    where all are of one size); ``None``: ``clusters - 1``."""
    effective_clusters: float | None = None
    """1 / sum of squared shares, a cluster's share being that of its squared influence; ``None`` where no cluster has
    any, or where there are too many to leave each out (metrics without a formula)."""
    top_cluster: str | None = None
    """The one with the largest share."""
    top_share: float | None = None
    """Its share, of 1."""
    method: str = ""
    too_few: bool = False
    """The upper limit of the error is more than three times the error."""
    notes: tuple[str, ...] = ()
    """What this test set cannot show, in plain sentences."""


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
    """Of the mean over the seeds, when other clusters are drawn."""
    seeds: SeedSpread
    """Of the values on the test set as it is, when other seeds are drawn."""


@dataclass(frozen=True)
class Comparison:
    """One metric of two systems on one test set; differences are second - first."""

    test_set: Interval
    """Of the mean over the seeds of the difference: ``value ± t se`` at every level."""
    seeds: SeedSpread
    """Of the difference of runs with one seed."""
    probability_of_improvement: float
    """That the second system is better, as the t-distribution of the difference has it; 0.5 where they are equal."""
    p_value: float
    """Two-sided, of no difference: below 1 - level exactly where the interval excludes 0, at any level."""


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
    sd = float(value.std(ddof=1))
    half = _reach(level, int(value.size) - 1) * sd / math.sqrt(value.size)
    return SeedSpread(mean, sd, mean - half, mean + half, int(value.size), level)


def summarise(
    systems: Sequence[Statistic], *, level: float = LEVEL, replicates: int = REPLICATES
) -> dict[str, Summary]:
    """Metrics of one system with both spreads, by metric.

    Args:
        systems: one a seed (of the training), all on one test set.
        level: of all intervals.
        replicates: of the bootstrap, for metrics that have no formula.

    Raises:
        BenchmarkError: no system; different test sets; options out of range; a test set that does not determine a
            metric or its spread.
    """
    points = _points(systems, level, replicates)
    without = [m for m, name in enumerate(systems[0].names) if name not in systems[0].errors]
    drawn = bootstrap.resample(systems, replicates) if without else None
    found = {}
    for m, name in enumerate(systems[0].names):
        value = float(points[:, m].mean())
        if drawn is not None and m in without:
            interval = _bootstrapped(systems[0], value, drawn, m, level)
        else:
            interval = _single(systems, name, value, level)
        found[name] = Summary(interval, seed_spread(points[:, m].tolist(), level))
    return found


def compare(
    first: Sequence[Statistic], second: Sequence[Statistic], *, level: float = LEVEL, replicates: int = REPLICATES
) -> dict[str, Comparison]:
    """Differences second - first of two systems on one test set, by metric, paired by cluster and by seed.

    Args:
        first: one a seed.
        second: one a seed, the seeds in the same order.
        level: of all intervals.
        replicates: of the bootstrap, for metrics that have no formula; the same draws for both.

    Raises:
        BenchmarkError: as :func:`summarise`; different numbers of seeds.
    """
    if len(first) != len(second):
        raise BenchmarkError(f"a comparison is paired by seed, got {len(first)} and {len(second)} runs")
    runs = [*first, *second]
    points = _points(runs, level, replicates)
    gains = points[len(first) :] - points[: len(first)]
    names = first[0].names
    shared = [name for name in names if all(name in run.errors for run in runs)]
    drawn = bootstrap.resample(runs, replicates) if len(shared) < len(names) else None
    found = {}
    for m, (name, higher_is_better) in enumerate(zip(names, first[0].higher_is_better, strict=True)):
        value = float(gains[:, m].mean())
        if drawn is not None and name not in shared:
            interval = _bootstrapped(first[0], value, drawn.difference(len(first)), m, level, difference=True)
        else:
            interval = _difference(first, second, name, value, level)
        worse, better = _below(-value, interval), _below(value, interval)
        improvement = worse if higher_is_better else better
        p_value = 2 * min(worse, better)
        found[name] = Comparison(interval, seed_spread(gains[:, m].tolist(), level), improvement, p_value)
    return found


def _single(systems: Sequence[Statistic], name: str, value: float, level: float) -> Interval:
    runs = [system.errors[name] for system in systems]
    df = runs[0].worth - 1
    found = limits.limits(runs, _reach(level, df))
    scale = runs[0].scale
    low, high = scale * found.low, scale * found.high
    if systems[0].higher_is_better[systems[0].names.index(name)]:
        low, high = scale - high, scale - low
    error = float(np.mean([run.value for run in runs]))
    too_few = found.high > WIDE * error
    return Interval(
        value,
        min(low, value),
        max(high, value),
        level,
        scale * math.sqrt(found.shares.variance),
        runs[0].clusters,
        df,
        *_influential(found.shares.clusters, systems[0]),
        method=runs[0].method,
        too_few=too_few,
        notes=_notes(runs[0], systems[0], too_few),
    )


def _difference(
    first: Sequence[Statistic], second: Sequence[Statistic], name: str, value: float, level: float
) -> Interval:
    runs = [[system.errors[name] for system in systems] for systems in (first, second)]
    clusters, df = runs[0][0].clusters, runs[0][0].worth - 1
    one, other = runs
    shares = limits.difference(one, other, _reach(LEVEL, df))  # whatever the level: the p-value has one error
    se = runs[0][0].scale * math.sqrt(shares.variance)
    half = _reach(level, df) * se
    influential = _influential(shares.clusters, first[0])
    method = f"{runs[0][0].method}, paired"
    return Interval(
        value, value - half, value + half, level, se, clusters, df, *influential, method=method,
        notes=_notes(runs[0][0], first[0], too_few=False),
    )  # fmt: skip


def _bootstrapped(
    system: Statistic, value: float, drawn: bootstrap.Resampled, m: int, level: float, difference: bool = False
) -> Interval:
    """Value and standard error of a bootstrap over clusters: on a logit scale where the metric has a ceiling."""
    clusters, draws = system.clusters, drawn.draws[:, m]
    se = float(draws.std(ddof=1)) * math.sqrt(clusters / (clusters - 1))
    half, ceiling = _reach(level, clusters - 1) * se, system.ceilings.get(system.names[m])
    low, high = value - half, value + half
    if not difference and ceiling and 0 < value < ceiling:
        share = value / ceiling
        at, width = math.log(share / (1 - share)), half / (ceiling * share * (1 - share))
        low, high = (ceiling * float(expit(end)) for end in (at - width, at + width))
    influential: tuple[float | None, str | None, float | None] = (None, None, None)
    if drawn.jackknife.shape[0] == clusters:
        influential = _influential(drawn.jackknife[:, m] - drawn.jackknife[:, m].mean(), system)
    notes = [_absent(clusters, system.cluster)]
    if se == 0 and not difference:
        notes.insert(0, f"No draw of {system.cluster}s changes the value: the interval has no width and says nothing.")
    return Interval(
        value, low, high, level, se, clusters, None, *influential, method="bootstrap over clusters", notes=tuple(notes)
    )


def _influential(influence: Floats, system: Statistic) -> tuple[float | None, str | None, float | None]:
    """Effective number of clusters, the most influential one and its share."""
    squares = influence**2
    if not squares.sum() > 0:
        return None, None, None
    shares = squares / squares.sum()
    top = int(shares.argmax())
    return float(1 / (shares @ shares)), system.cluster_names[top], float(shares[top])


def _notes(run: Errors, system: Statistic, too_few: bool) -> tuple[str, ...]:
    noun = system.cluster
    notes = []
    if too_few:
        notes.append(f"Too few {noun}s: the error could be more than {WIDE:.0f} times what was measured.")
    if run.remark:
        notes.append(run.remark.format(noun))
    return (*notes, _absent(run.clusters, noun))


def _absent(clusters: int, noun: str) -> str:
    rare = 1 - 0.025 ** (1 / clusters)
    return (
        f"Kinds of {noun}s rarer than {100 * rare:.2g} % may be absent from these {clusters} {noun}s; no interval "
        "shows what they would change."
    )


def _below(value: float, interval: Interval) -> float:
    """Probability of a t-distributed difference around ``value`` below 0."""
    if interval.se == 0:
        return 0.5 * (1 - float(np.sign(value)))
    from scipy.stats import t

    return float(t.cdf(-value / interval.se, interval.clusters - 1 if interval.df is None else interval.df))


def _reach(level: float, df: float) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + level) / 2, df))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise BenchmarkError(f"the level of an interval must be between 0 and 1, got {level}")


def _points(systems: Sequence[Statistic], level: float, replicates: int) -> Floats:
    """Values (system, metric) of systems on one test set."""
    _check_level(level)
    if not systems or replicates < 100:
        raise BenchmarkError(f"an interval needs runs and at least 100 replicates, got {len(systems)} and {replicates}")
    for system in systems[1:]:
        if (system.names, system.test_set) != (systems[0].names, systems[0].test_set):
            raise BenchmarkError(
                "the runs have different test sets or metrics: sort utterances or trials into one order, with the same "
                f"references and speakers ({', '.join(systems[0].names)} against {', '.join(system.names)})"
            )
    points = np.stack([system.compute(np.ones((1, system.clusters)))[0] for system in systems])
    if not np.isfinite(points).all():
        raise BenchmarkError(f"the test set does not determine {', '.join(systems[0].names)}")
    for run in systems[0].errors.values():
        if run.clusters < run.fewest:
            noun = systems[0].cluster
            raise BenchmarkError(
                f"the test set has too few {noun}s for an interval: {run.clusters}; at least {run.fewest} {noun}s are "
                "needed"
            )
    return points
