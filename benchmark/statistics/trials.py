"""Equal error rate and minimum detection cost of trials that share speakers, as functions of a hypothesis.

A hypothesis is that all target scores are lower (or higher) by a constant: the trials in error are then those that
would be. docs/statistics.md gives the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from benchmark.statistics.limits import Errors, Shares, worth
from benchmark.statistics.rates import leverage

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NODES = 64
"""Shifts of a speaker's scores over which smoothed errors are averaged."""


class Side:
    """The targets, or the nontargets, of a list: the first ones are in error."""

    def __init__(self, scores: Floats, speakers: Sequence[Ints], count: int) -> None:
        """
        Args:
            scores: (trial,) ascending; of nontargets, negated.
            speakers: (trial,) of each side of the trials: one array for targets, two for nontargets.
            count: of speakers in the list.
        """
        self.scores, self.speakers, self.count = scores, [speaker.astype(np.int32) for speaker in speakers], count
        self.size = scores.size

    @cached_property
    def trials(self) -> Floats:
        """(speaker,) number of trials with the speaker on either side."""
        return self._of_speakers(self.size)

    @cached_property
    def present(self) -> int:
        """Speakers with a trial."""
        return int(np.count_nonzero(self.trials))

    def errors(self, rate: float) -> Floats:
        """(speaker,) errors at a rate; the last trial counts by its fraction, those of one score by equal fractions."""
        before, after, share = self._cut(rate)
        if not share:
            return self._of_speakers(before)
        return (1 - share) * self._of_speakers(before) + share * self._of_speakers(after)

    @cached_property
    def pair_of(self) -> tuple[Ints, int]:
        """(trial,) pair of speakers, the same number for one pair in all systems; and how many pairs there are."""
        one, other = self.speakers
        key = np.minimum(one, other) * np.int64(self.count) + np.maximum(one, other)
        found, index = np.unique(key, return_inverse=True)
        return index.astype(np.int32), found.size

    @cached_property
    def pair_trials(self) -> Floats:
        """(pair,) number of trials."""
        index, pairs = self.pair_of
        return np.bincount(index, minlength=pairs).astype(np.float64)

    def pair_errors(self, rate: float) -> Floats:
        """(pair,) as :meth:`errors`."""
        before, after, share = self._cut(rate)
        index, pairs = self.pair_of
        sums = np.bincount(index[:before], minlength=pairs).astype(np.float64)
        return sums + share * np.bincount(index[before:after], minlength=pairs)

    def score(self, rate: float) -> float:
        """The quantile."""
        at = min(max(rate * self.size - 0.5, 0.0), self.size - 1.0)
        low = int(at)
        high = min(low + 1, self.size - 1)
        return float(self.scores[low] + (at - low) * (self.scores[high] - self.scores[low]))

    def _of_speakers(self, first: int) -> Floats:
        """(speaker,) of the first trials."""
        sums = np.zeros(self.count)
        for speaker in self.speakers:
            sums += np.bincount(speaker[:first], minlength=self.count)
        return sums

    def _cut(self, rate: float) -> tuple[int, int, float]:
        """Trials surely in error, trials possibly in error, and the share of those between that are."""
        errors = min(max(rate, 0.0), 1.0) * self.size
        last = math.ceil(errors - 1e-9) - 1
        if last < 0:
            return 0, 0, 0.0
        before, after = (int(np.searchsorted(self.scores, self.scores[last], side)) for side in ("left", "right"))
        return before, after, (errors - before) / (after - before)

    def smoothed(self, rate: float) -> float:
        """Sum over speakers of the expected squared distance of their errors from ``rate`` times their trials, when
        each speaker's scores are shifted at random, at the threshold where the expected errors are ``rate``."""
        if self._table is None:
            return 0.0
        rates, squares, products = self._table
        square, product = (float(np.interp(rate, rates, sums)) for sums in (squares, products))
        return square - 2 * rate * product + rate**2 * float(self.trials @ self.trials)

    @cached_property
    def _table(self) -> tuple[Floats, Floats, Floats] | None:
        """Expected error rate, sum over speakers of squared errors and of errors times trials, by threshold."""
        from scipy.stats import t

        sides = len(self.speakers)
        here = self.trials > 0
        entries = np.stack(self.speakers, axis=1).ravel()  # a nontarget counts once for each of its speakers
        scores = np.repeat(self.scores, sides)
        number = self.trials[here]
        mean = np.bincount(entries, scores, self.count)[here] / number
        within = np.bincount(entries, scores**2, self.count)[here] / number - mean**2
        several = number > 1
        if not several.any() or self.present < 2:
            return None
        noise = (within[several] * number[several] / (number[several] - 1)).mean() * (1 / number).mean()
        spread = math.sqrt(max(float(mean.var(ddof=1)) - float(noise), 0.0))
        width = spread * min(self.present / 30, 1.5 * self.present**-0.2)
        if width == 0:
            return None
        order = np.argsort(entries, kind="stable")
        starts = np.cumsum(self.trials) - self.trials
        rank = np.empty(entries.size)
        rank[order] = np.arange(entries.size) - np.repeat(starts, self.trials.astype(np.int64))
        squares = np.append(0.0, np.cumsum(2 * rank + 1))
        products = np.append(0.0, np.cumsum(self.trials[entries]))
        shifts = t.ppf((np.arange(NODES) + 0.5) / NODES, 4)
        shifts *= width / math.sqrt(float((shifts**2).mean()))
        levels = np.concatenate([np.geomspace(1 / self.size, 0.5, 128), np.linspace(0.5, 1, 32)])
        at = np.sort(
            np.concatenate(
                [
                    self.scores[np.minimum((levels * self.size).astype(np.int64), self.size - 1)],
                    np.linspace(self.scores[0] + shifts[0], self.scores[-1] + shifts[-1], 256),
                ]
            )
        )
        index = sides * np.searchsorted(self.scores, at[:, None] + shifts, "right")
        rates = index.mean(axis=1) / (sides * self.size)
        return rates, squares[index].mean(axis=1), products[index].mean(axis=1)


class _TrialErrors(Errors):
    ceiling = 1.0
    raised = 0.25
    fewest = 3

    def __init__(self, targets: Side, nontargets: Side, value: float) -> None:
        self.targets, self.nontargets, self.value, self.start = targets, nontargets, value, value
        self.clusters = min(targets.present, nontargets.present)
        self.worth = min(worth(targets.trials), worth(nontargets.trials))
        self.unit = 0.5 / max(targets.size, nontargets.size)

    def _shares(self, target: tuple[float, float], nontarget: tuple[float, float], floor: float, upper: bool,
                smooth: bool = True) -> Shares:  # fmt: skip
        """Of (weight of all targets, rate) and (weight of all nontargets, rate)."""
        n = self.targets.present
        of_targets = n / max(n - 1, 1)
        n = self.nontargets.present
        of_nontargets = (n * n - 2) / max(n - 2, 1) ** 2
        pull = leverage(self.targets.trials / self.targets.size)
        pull_of_both = leverage(self.nontargets.trials / self.nontargets.size)  # sqrt(n / (n - 2)) for equal ones
        pull_of_both *= math.sqrt(of_nontargets * max(n - 2, 1) / n)
        (one, miss), (other, alarm) = target, nontarget
        one, other = one / self.targets.size, other / self.nontargets.size
        u = one * (self.targets.errors(miss) - miss * self.targets.trials)
        v = other * (self.nontargets.errors(alarm) - alarm * self.nontargets.trials)
        pairs = other * (self.nontargets.pair_errors(alarm) - alarm * self.nontargets.pair_trials)
        extra = 0.0
        if upper:
            extra = of_targets * max(0.0, one**2 * self.targets.smoothed(miss) - float(u @ u))
            if smooth:
                extra += of_nontargets * max(0.0, other**2 * self.nontargets.smoothed(alarm) - float(v @ v))
        clusters = pull * u + pull_of_both * v
        return Shares(clusters, pairs, floor, extra)


class EqualErrorRate(_TrialErrors):
    """The rate at which as many targets are missed as nontargets are accepted."""

    scale = 100.0
    method = "inversion, targets shifted"

    def at(self, rate: float, upper: bool = False) -> Shares:
        """See :class:`~benchmark.statistics.limits.Errors`."""
        weight = self._weight(rate)
        floor = rate * (1 - rate) * (weight**2 / self.targets.size + (1 - weight) ** 2 / self.nontargets.size)
        return self._shares((weight, rate), (1 - weight, rate), floor, upper)

    def _weight(self, rate: float) -> float:
        """How much a miss moves the equal error rate, of 1: by the densities of both kinds of scores around it."""
        low = 0.5 * rate
        high = min(max(1.5 * rate, rate + 1.5 / min(self.targets.size, self.nontargets.size)), 1.0)
        target, nontarget = (side.score(high) - side.score(low) for side in (self.targets, self.nontargets))
        return min(max(target / (target + nontarget), 0.02), 0.98) if target + nontarget > 0 else 0.5


class MinimumCost(_TrialErrors):
    """The smallest detection cost over all thresholds, normalised by that of the better blind decision."""

    scale = 1.0
    method = "inversion, targets shifted"

    def __init__(self, targets: Side, nontargets: Side, value: float, prior: float) -> None:
        super().__init__(targets, nontargets, value)
        self.miss, self.alarm = (part / min(prior, 1 - prior) for part in (prior, 1 - prior))
        self.unit = min(self.miss / targets.size, self.alarm / nontargets.size) / 2
        accepted = np.arange(min(200, nontargets.size))
        if nontargets.size > accepted.size:
            accepted = np.append(accepted, np.geomspace(200, nontargets.size - 1, 400).astype(np.int64))
        # above the first of equal scores
        self._accepted = np.unique(np.searchsorted(nontargets.scores, nontargets.scores[accepted], "left"))
        self._thresholds = -nontargets.scores[self._accepted]
        self._expected = self.alarm * (self._accepted + 1) / (nontargets.size + 1)
        shares = np.concatenate([np.geomspace(1 / targets.size, 1, 100), np.linspace(0, 1, 51)])
        at = targets.scores[np.minimum((shares * targets.size).astype(np.int64), targets.size - 1)]
        above = float(at.max() - at.min() + 1.0) * 1e-9
        # from all targets above all nontargets to all below the highest
        shifts = [at[:1] - above, at + above]
        self._shifts = np.unique(np.append(np.concatenate(shifts) - self._thresholds[0], 0.0))
        misses = np.searchsorted(targets.scores, self._thresholds + self._shifts[:, None], "right")
        costs = (self.miss * misses / targets.size + self._expected).min(axis=1)
        self._costs = np.minimum(np.maximum.accumulate(costs), 1.0)
        self.start = max(float(self._costs[np.searchsorted(self._shifts, 0.0)]), value)

    def at(self, rate: float, upper: bool = False) -> Shares:
        """See :class:`~benchmark.statistics.limits.Errors`. A rate is a cost with one false alarm more than counted,
        since the minimum over thresholds is too low where few nontargets score above the best one. So does ``upper``
        count them: which nontarget comes next is chance, but it could not make the cost lower."""
        shift = 0.0 if rate == self.start else float(np.interp(rate, self._costs, self._shifts))
        misses = np.searchsorted(self.targets.scores, self._thresholds + shift, "right")
        best = int((self.miss * misses / self.targets.size + self._expected).argmin())
        miss, alarm = misses[best] / self.targets.size, (self._accepted[best] + upper) / self.nontargets.size
        floor = self.miss**2 * miss * (1 - miss) / self.targets.size
        floor += self.alarm**2 * alarm * (1 - alarm) / self.nontargets.size
        return self._shares((self.miss, miss), (self.alarm, alarm), floor, upper, smooth=False)
