"""Limits of an error by inversion: what each cluster adds to an error, at the estimate and at other hypotheses.

A test set is a sample of clusters (speakers, or utterances where no speaker is known). Whether a hypothesised error is
compatible with the measured one is judged with the variance that the test set would have *there*, not at the estimate:
the two fall together in samples that happen to lack difficult speakers. docs/statistics.md gives the method, its
constants and its measured coverage.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Floats = NDArray[np.float64]

STEP, LONGEST = 1.06, 0.02
"""The search for the upper limit goes up by 6 %, or by 2 points where that is less."""
HALVINGS = 8
HIGHEST = 10.0
"""An error without a ceiling (WER) is not looked for above 1,000 %, or ten times the one that was measured."""


@dataclass(frozen=True)
class Shares:
    """What each cluster adds to the distance of an error from a hypothesis, in units of the error."""

    clusters: Floats
    """(cluster,) scaled so that the sum of squares estimates a variance."""
    pairs: Floats = field(default_factory=lambda: np.zeros(0))
    """(pair of clusters,) of trials of two clusters, which ``clusters`` counts on both sides."""
    floor: float = 0.0
    """The variance if trials were independent."""
    extra: float = 0.0
    """Variance between clusters that differ more than those at hand."""

    @property
    def variance(self) -> float:
        """Of the error over test sets (Aronow, Samii & Assenova, Political Analysis 2015)."""
        total = float(self.clusters @ self.clusters)
        return max(total - float(self.pairs @ self.pairs), total / 2, self.floor) + self.extra


class Errors(ABC):
    """One error (a share, lower is better) of one system on one test set."""

    value: float
    """On the test set."""
    start: float
    """Where the search for the upper limit starts; above ``value`` where that is biased downwards."""
    ceiling: float
    """The largest possible error."""
    unit: float
    """About the smallest error above 0 that this test set can show."""
    clusters: int
    """Those that have trials or utterances of every kind that the error needs."""
    worth: float
    """How many clusters of one size weigh as much as these: :func:`worth` of their sizes."""
    raised: float = 0.0
    """How far towards the upper limit, in the logarithm, a difference takes its variance."""
    fewest: int = 2
    """Clusters that its variance needs."""
    scale: float
    """Of the metric: 100 for percent."""
    method: str
    """In a report."""
    remark: str = ""
    """What the limits cannot contain, as a sentence; ``{0}`` stands for the word for a cluster."""

    @abstractmethod
    def at(self, rate: float, upper: bool = False) -> Shares:
        """The shares if the error were ``rate``; ``at(start)`` are those of the test set as it is.

        Args:
            rate: between 0 and the ceiling.
            upper: as an upper limit, or a difference, takes them: with extra variance.
        """

    def around(self, rate: float, half: float) -> tuple[float, float]:
        """``rate`` - and + ``half`` on the scale of the logit (of the logarithm, where errors have no ceiling)."""
        if not math.isfinite(self.ceiling):
            width = min(half / rate, 700.0)  # beyond that the exponential overflows
            return rate * math.exp(-width), rate * math.exp(width)
        logit, width = math.log(rate / (1 - rate)), half / (rate * (1 - rate))
        return float(expit(logit - width)), float(expit(logit + width))


@dataclass(frozen=True)
class Limits:
    """Limits of the mean error of some runs."""

    low: float
    high: float
    shares: Shares
    """At the estimate."""


def worth(sizes: Floats) -> float:
    """1 / sum of squared shares: the number of clusters where all are of one size, less where a few are most of it."""
    shares = sizes / sizes.sum()
    return float(1 / (shares @ shares))


def mean_shares(runs: Sequence[Errors], rate: float, upper: bool = False) -> Shares:
    """The shares in the mean error of some runs on one test set if that were ``rate``: the runs keep their ratios."""
    small = runs[0].unit
    mean = float(np.mean([run.start for run in runs]))
    rates = [min(rate * (run.start + small) / (mean + small), run.ceiling) for run in runs]
    return _mean([run.at(each, upper) for run, each in zip(runs, rates, strict=True)])


def limits(runs: Sequence[Errors], reach: float) -> Limits:
    """Limits of the mean error of runs with different seeds on one test set.

    Args:
        runs: at least one.
        reach: quantile of Student's t.
    """
    value, start = (float(np.mean([getattr(run, name) for run in runs])) for name in ("value", "start"))
    ceiling = min(runs[0].ceiling, HIGHEST * max(1.0, start))
    shares = _mean([run.at(run.start) for run in runs])

    def compatible(rate: float) -> bool:
        return abs(rate - start) <= reach * math.sqrt(mean_shares(runs, rate, upper=rate > start).variance)

    low, high = 0.0, _outermost(compatible, start, runs[0].unit, ceiling)
    if 0 < value < ceiling:
        low, top = runs[0].around(value, reach * math.sqrt(shares.variance))
        high = max(high, min(top, ceiling))
    if value > runs[0].ceiling / 2:
        low = max(value - start - _outermost(lambda down: compatible(-down), -start, runs[0].unit, 0.0), 0.0)
    return Limits(min(low, value), max(high, value), shares)


def difference(first: Sequence[Errors], second: Sequence[Errors], reach: float) -> Shares:
    """The shares in the difference second - first of two systems' mean errors, paired by cluster.

    Both systems are taken at their errors and, where :attr:`Errors.raised` says so, at errors nearer to their upper
    limits; the larger variance counts. It is at least that of independent utterances of which one more had been decided
    each way (Bonett & Price, Journal of Educational and Behavioral Statistics 37, 2012): where all clusters differ by
    the same amount, their influences say nothing. A system with errors against itself has
    none.

    Args:
        first: runs of one system.
        second: runs of another on the same test set.
        reach: quantile of Student's t for the upper limits.
    """
    before, after = (float(np.mean([run.value for run in runs])) for runs in (first, second))
    same = before == after and after > 0  # two systems without any error are not known to be equal
    floor = 0.0 if same else _independent(abs(after - before), first[0].unit)
    plain = [_mean([run.at(run.start, upper=True) for run in runs]) for runs in (first, second)]
    found, share = _less(plain, floor), first[0].raised
    if not share:
        return found
    raised = []
    for runs in (first, second):
        start = max(float(np.mean([run.start for run in runs])), runs[0].unit)
        high = max(limits(runs, reach).high, start)
        raised.append(mean_shares(runs, start ** (1 - share) * high**share, upper=True))
    return max(found, _less(raised, floor), key=lambda shares: shares.variance)


def _less(shares: Sequence[Shares], floor: float) -> Shares:
    before, after = shares
    return Shares(after.clusters - before.clusters, after.pairs - before.pairs, floor)


def _independent(change: float, unit: float) -> float:
    """Variance of a difference of ``change`` that one of the systems has in every utterance where they differ."""
    size = 1 / unit
    one, other = (size * change + 1) / (size + 2), 1 / (size + 2)
    return max(one + other - (one - other) ** 2, other) / (size + 2)


def _mean(shares: Sequence[Shares]) -> Shares:
    if len(shares) == 1:
        return shares[0]
    return Shares(
        np.mean([each.clusters for each in shares], axis=0),
        np.mean([each.pairs for each in shares], axis=0),
        float(np.mean([each.floor for each in shares])),
        float(np.mean([each.extra for each in shares])),
    )


def _outermost(compatible: Callable[[float], bool], start: float, unit: float, ceiling: float) -> float:
    """The first rate above ``start`` that is not compatible with the test set; the ceiling where there is none."""
    inside, outside = start, start
    while outside < ceiling:
        inside = outside
        outside = min(inside + max(min((STEP - 1) * abs(inside), LONGEST), unit), ceiling)
        if not compatible(outside):
            break
    else:
        return ceiling
    for _ in range(HALVINGS):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if compatible(middle) else (inside, middle)
    return outside
