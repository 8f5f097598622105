"""Draws of clusters with replacement, for metrics that have no formula: those that plug-ins declare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import BenchmarkError
from benchmark.statistics.statistic import Statistic

Floats = NDArray[np.float64]

MOST_LEFT_OUT = 500
"""Each cluster is left out once where there are at most this many."""
BLOCK = 2**18
"""Numbers (8 bytes each) that an array over items and replicates may hold."""


@dataclass(frozen=True)
class Resampled:
    """The metrics of some systems, mean over the systems, when clusters are drawn or left out."""

    systems_draws: Floats
    """(system, replicate, metric)."""
    systems_jackknife: Floats
    """(system, cluster, metric) without that cluster; no row where there are too many clusters, or where one of them
    alone determines a metric."""

    @property
    def draws(self) -> Floats:
        """(replicate, metric)."""
        return np.asarray(self.systems_draws.mean(axis=0))

    @property
    def jackknife(self) -> Floats:
        """(cluster, metric)."""
        return np.asarray(self.systems_jackknife.mean(axis=0))

    def difference(self, first: int) -> Resampled:
        """The other systems less the first ones, which are as many."""
        draws, left_out = self.systems_draws, self.systems_jackknife
        return Resampled(draws[first:] - draws[:first], left_out[first:] - left_out[:first])


def resample(systems: Sequence[Statistic], replicates: int) -> Resampled:
    """All metrics of systems on one test set, on the same draws.

    Raises:
        BenchmarkError: more than half of the draws do not determine a metric.
    """
    clusters = systems[0].clusters
    rows = max(1, BLOCK // max(system.width for system in systems))

    def values(blocks: Iterator[Floats]) -> Floats:
        parts = [np.stack([system.compute(counts) for system in systems]) for counts in blocks]
        return np.concatenate(parts, axis=1)

    drawn = values(draws(clusters, replicates, rows, np.random.default_rng(0)))
    drawn = drawn[:, np.isfinite(drawn).all(axis=(0, 2))]
    if drawn.shape[1] < replicates / 2:
        raise BenchmarkError(
            f"{replicates - drawn.shape[1]} of {replicates} draws of {clusters} clusters do not determine "
            f"{', '.join(systems[0].names)}: the test set has too few {systems[0].cluster}s for an interval"
        )
    left_out = drawn[:, :0]
    if clusters <= MOST_LEFT_OUT:
        left_out = values(1 - block for block in _single(clusters, rows))
        left_out = left_out if np.isfinite(left_out).all() else left_out[:, :0]
    return Resampled(drawn, left_out)


def draws(clusters: int, replicates: int, rows: int, random: np.random.Generator) -> Iterator[Floats]:
    """Blocks (replicate, cluster) of how often each cluster was drawn, the same for every size of the blocks."""
    for start in range(0, replicates, rows):
        block = min(rows, replicates - start)
        drawn = random.integers(clusters, size=(block, clusters)) + clusters * np.arange(block)[:, None]
        yield np.bincount(drawn.ravel(), minlength=block * clusters).reshape(block, clusters).astype(np.float64)


def _single(clusters: int, rows: int) -> Iterator[Floats]:
    """Blocks (cluster, cluster) of the identity."""
    for start in range(0, clusters, rows):
        yield (np.arange(clusters) == np.arange(start, min(start + rows, clusters))[:, None]).astype(np.float64)
