"""Error rates of utterances: WER, CER, accuracy, and averages over classes."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from benchmark.statistics.limits import Errors, Shares, worth

Floats = NDArray[np.float64]

POWER = 1.5
"""Of the growth of the variance with the error: 1 for independent errors, 2 for clusters that keep their ratios."""


class Rate(Errors):
    """An error rate with the influence of each cluster on it."""

    method = "inversion, variance scaled"

    def __init__(
        self, value: float, influence: Floats, sizes: Floats, *, unit: float, ceiling: float = 1.0,
        scale: float = 100.0, remark: str = "",
    ) -> None:  # fmt: skip
        """
        Args:
            value: of the error, a share.
            influence: (cluster,) whose sum of squares estimates the variance of the error.
            sizes: (cluster,) how much each weighs in the error, in any unit.
            unit: what one more error adds.
            ceiling: infinite where insertions count.
            scale: of the metric.
            remark: what the interval cannot contain.
        """
        self.value = self.start = value
        self.influence, self.unit = influence, unit
        self.clusters, self.worth = int(np.count_nonzero(sizes)), worth(sizes)
        self.ceiling, self.scale, self.remark = ceiling, scale, remark

    def at(self, rate: float, upper: bool = False) -> Shares:
        """See :class:`~benchmark.statistics.limits.Errors`."""
        here = self._size(min(max(self.value, self.unit), self.ceiling - self.unit))
        there = self._size(min(rate, self.ceiling))
        growth = (there / here) ** POWER
        # of independent errors; of a single one, where there is none
        floor = max(there * self.unit, growth * self.unit**2)
        return Shares(math.sqrt(growth) * self.influence, floor=floor)

    def _size(self, rate: float) -> float:
        return rate * (1 - rate) if math.isfinite(self.ceiling) else rate


def leverage(shares: Floats) -> Floats:
    """By how much a cluster of a share of the data pulls the error towards its own: ``sqrt(n / (n - 1))`` for each of
    ``n`` equal ones (HC2; MacKinnon & White, Journal of Econometrics 29, 1985); 1 where it is alone."""
    return 1 / np.sqrt(np.where(shares < 1 - 1e-9, 1 - shares, 1.0))


def rate_of_sums(errors: Floats, lengths: Floats, *, ceiling: float) -> Rate:
    """Sum of errors over sum of lengths, both (cluster,)."""
    total = float(lengths.sum())
    value = float(errors.sum()) / total
    influence = leverage(lengths / total) * (errors - value * lengths) / total
    return Rate(value, influence, lengths, unit=1 / total, ceiling=ceiling)


def rate_of_losses(
    value: float, losses: Floats, classes: NDArray[np.int64], clusters: NDArray[np.int64], count: int, *,
    share: float = 1.0, scale: float = 100.0,
) -> Rate:  # fmt: skip
    """A mean over classes, whose test sets have a fixed number of utterances of each class.

    Args:
        value: of the error.
        losses: (utterance,) influence of each on the error, not centred.
        classes: (utterance,) from 0, all present.
        clusters: (utterance,) from 0.
        count: of clusters.
        share: of one error in the loss of an utterance.
        scale: of the metric.
    """
    size = np.bincount(classes).astype(np.float64)
    centred = losses - (np.bincount(classes, losses) / size)[classes]
    cells, cell, of_cell = np.unique(classes * np.int64(count) + clusters, return_inverse=True, return_counts=True)
    speakers = np.bincount(cells // count, minlength=size.size)  # (class,)
    alone = int((speakers < 2).sum())
    correction = leverage(of_cell / size[cells // count])[cell]
    number = np.bincount(clusters, minlength=count)
    influence = np.bincount(clusters, centred, count) * np.bincount(clusters, correction, count) / np.maximum(number, 1)
    sizes = np.bincount(clusters, (1 / size)[classes], count)
    remark = ""
    if alone:
        remark = (
            f"{alone} of {size.size} classes have utterances of one {{0}} only: what other {{0}}s of these classes "
            "would change is not in the interval."
        )
    unit = share * float((1 / size).sum()) / size.size**2
    return Rate(value, influence, sizes.astype(np.float64), unit=unit, scale=scale, remark=remark)
