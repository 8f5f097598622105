"""Ranks of several systems on one test set, with ties where the test set cannot tell; docs/statistics.md explains them.

All pairs are tested at once by Holm's procedure (Scandinavian Journal of Statistics 6, 1979) with the multipliers of
Shaffer (JASA 81, 1986, S1), which use that systems equal to a third one equal each other. The probability that any two
equal systems are given an order is at most 1 - level, whatever the correlation between the pairs, as long as each
pair's own p-value holds.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from benchmark.errors import BenchmarkError
from benchmark.statistics.intervals import LEVEL

POWER = 0.8
"""The probability with which a minimal detectable difference is found."""


@dataclass(frozen=True)
class Pair:
    """The difference between two systems on one test set, second - first, tested by itself."""

    first: str
    second: str
    value: float
    se: float
    clusters: int
    """Of the test set."""
    p_value: float
    """Two-sided, of no difference."""
    df: float | None = None
    """Of the t distribution that the difference over its standard error has; ``None``: ``clusters - 1``."""

    @property
    def freedom(self) -> float:
        """:attr:`df`, or what it stands for."""
        return self.clusters - 1 if self.df is None else self.df


@dataclass(frozen=True)
class Tested:
    """A pair as one of all pairs."""

    pair: Pair
    adjusted_p: float
    """The smallest 1 - level at which the procedure separates the pair."""
    low: float
    high: float
    """Of the difference; the intervals of all pairs hold together (Bonferroni). Step by step the procedure finds more
    than they show: it may separate a pair whose interval has 0 near one end."""
    better: str | None
    """The better system; ``None``: the test set does not separate them."""
    clusters_needed: int | None
    """See :func:`clusters_to_separate`, at the level that the first step of the procedure asks for."""


@dataclass(frozen=True)
class Place:
    """One system in the order of the values."""

    name: str
    value: float
    best: int
    """1 + the number of systems that are significantly better."""
    worst: int
    """Systems - the number of those that are significantly worse. All ranges hold together at the level."""
    groups: str
    """Letters of its groups; the test set separates two systems exactly where they share no letter."""

    @property
    def rank(self) -> str:
        """``2``, or ``2–4`` where the test set leaves it open."""
        return str(self.best) if self.best == self.worst else f"{self.best}–{self.worst}"


@dataclass(frozen=True)
class Ranks:
    """Several systems in order, best first, as far as one test set can tell."""

    places: tuple[Place, ...]
    pairs: tuple[Tested, ...]
    """All pairs, in the order of the places."""
    groups: tuple[tuple[str, ...], ...]
    """The largest sets of systems of which the test set separates no two; systems that are alone are left out."""
    detectable: float | None
    """:func:`detectable_difference` between two systems of the median standard error; ``None``: no pair has one."""
    detectable_among_all: float | None
    """The same where the two are not known beforehand, at the level that the first step of the procedure asks for."""
    level: float
    power: float = POWER


def rank(
    values: Mapping[str, float], pairs: Iterable[Pair], *, higher_is_better: bool = False, level: float = LEVEL
) -> Ranks:
    """Order systems and say which of them the test set separates.

    Args:
        values: system -> its value on the test set.
        pairs: every pair of systems once, in either direction.
        higher_is_better: whether high values are good.
        level: 1 - the probability that any two equal systems are given an order.

    Raises:
        BenchmarkError: fewer than two systems, a pair that is missing or given twice, a number that is not finite, a
            p-value outside of [0, 1], fewer than two clusters, a level out of range.
    """
    if not 0 < level < 1:
        raise BenchmarkError(f"the level of ranks must be between 0 and 1, got {level}")
    if len(values) < 2 or not np.isfinite(list(values.values())).all():
        raise BenchmarkError(f"ranks need at least two systems with finite values, got {dict(values)}")
    order = sorted(values, key=values.__getitem__, reverse=higher_is_better)
    position = {name: index for index, name in enumerate(order)}
    given = list(pairs)
    if sorted(sorted((pair.first, pair.second)) for pair in given) != sorted(map(sorted, combinations(order, 2))):
        raise BenchmarkError(f"ranks of {len(values)} systems need every pair of them once, got {len(given)} pairs")
    for pair in given:
        if not (math.isfinite(pair.value) and 0 <= pair.se < math.inf and 0 <= pair.p_value <= 1 and pair.clusters > 1):
            raise BenchmarkError(f"the difference between {pair.first} and {pair.second} has no test: {pair}")
    given.sort(key=lambda pair: sorted((position[pair.first], position[pair.second])))
    first_step = 1 - (1 - level) / len(given)
    tested = []
    for pair, adjusted in zip(given, adjust([pair.p_value for pair in given], len(order)), strict=True):
        half = _quantile(pair.freedom, first_step) * pair.se
        second_is_better = (pair.value > 0) == higher_is_better
        better = None
        if adjusted <= 1 - level and pair.value:
            better = pair.second if second_is_better else pair.first
        needed = clusters_to_separate(pair.value, pair.se, pair.clusters, df=pair.df, level=first_step)
        tested.append(Tested(pair, adjusted, pair.value - half, pair.value + half, better, needed))
    separated = [{one.pair.first, one.pair.second} for one in tested if one.better is not None]
    groups = letter_groups(order, separated)
    places = []
    for name in order:
        own = [one.better for one in tested if name in (one.pair.first, one.pair.second) and one.better is not None]
        letters = "".join(_letter(number) for number, group in enumerate(groups) if name in group)
        wins = own.count(name)
        places.append(Place(name, float(values[name]), 1 + len(own) - wins, len(order) - wins, letters))
    typical = [pair for pair in sorted(given, key=lambda pair: pair.se) if pair.se > 0]
    detectable = detectable_among_all = None
    if typical:
        se, df = float(np.median([pair.se for pair in typical])), min(pair.freedom for pair in typical)
        detectable = detectable_difference(se, df, level=level)
        detectable_among_all = detectable_difference(se, df, level=first_step)
    several = tuple(group for group in groups if len(group) > 1)
    return Ranks(tuple(places), tuple(tested), several, detectable, detectable_among_all, level)


def adjust(p_values: Sequence[float], systems: int) -> list[float]:
    """Adjusted p-values of all pairs of systems, by Holm's procedure with Shaffer's multipliers.

    After some pairs have been separated, the next p-value is multiplied by the largest number of pairs that can still
    be equal: with 4 systems by 6, 3, 3, 3, 2, 1 (Holm: 6, 5, 4, 3, 2, 1).

    Args:
        p_values: (pair,), all ``systems * (systems - 1) / 2``, in any order.
        systems: how many there are.
    """
    count = len(p_values)
    if count != math.comb(systems, 2):
        raise BenchmarkError(f"{systems} systems have {math.comb(systems, 2)} pairs, got {count} p-values")
    possible = _equal_pairs(systems)
    adjusted, highest = [0.0] * count, 0.0
    for step, index in enumerate(np.argsort(p_values, kind="stable").tolist()):
        multiplier = max(number for number in possible if number <= count - step)
        highest = max(highest, min(1.0, multiplier * p_values[index]))
        adjusted[index] = highest
    return adjusted


@functools.cache
def _equal_pairs(systems: int) -> frozenset[int]:
    """How many pairs can be equal: systems fall into classes of equals, and pairs within a class are equal."""
    if systems < 2:
        return frozenset({0})
    return frozenset(
        math.comb(size, 2) + rest for size in range(1, systems + 1) for rest in _equal_pairs(systems - size)
    )


def letter_groups(names: Sequence[str], separated: Iterable[set[str]]) -> list[tuple[str, ...]]:
    """The largest sets of which no two are separated: the letters of a compact letter display.

    By insertion and absorption (Piepho, Journal of Computational and Graphical Statistics 13, 2004). Names keep their
    order, groups have that of their names.
    """
    groups = [set(names)]
    for pair in separated:
        split = [group - {name} if pair <= group else group for group in groups for name in sorted(pair)]
        unique = [set(group) for group in {frozenset(group) for group in split}]
        groups = [group for group in unique if not any(group < other for other in unique)]
    return sorted((tuple(name for name in names if name in group) for group in groups),
                  key=lambda group: [names.index(name) for name in group])  # fmt: skip


def _letter(number: int) -> str:
    """a, …, z, then (27), (28), …: letters stand side by side."""
    return chr(ord("a") + number) if number < 26 else f"({number + 1})"


def detectable_difference(se: float, df: float, *, level: float = LEVEL, power: float = POWER) -> float:
    """The minimal detectable difference: the true one that a two-sided t-test finds with a probability of ``power``.

    Args:
        se: standard error of the difference, in its unit.
        df: degrees of freedom of the standard error.
        level: 1 - the probability of finding a difference between equals.
        power: the probability of finding it.
    """
    from scipy.special import chdtri, nctdtrinc

    reach = _quantile(df, level)
    if reach > 100:  # only the standard error matters then, and the noncentral t takes for ever
        return reach * math.sqrt(float(chdtri(df, 1 - power)) / df) * se
    return float(nctdtrinc(df, 1 - power, reach)) * se


def clusters_to_separate(
    value: float, se: float, clusters: int, *, df: float | None = None, level: float = LEVEL, power: float = POWER
) -> int | None:
    """How many clusters (speakers, utterances) separate two systems with a probability of ``power``.

    This holds if the true difference is ``value``, and if new clusters are as large and as varied as those at hand, so
    that the standard error shrinks with the square root of their number. A difference that was picked because it is
    large is likely to be smaller in truth, and then takes more.

    Args:
        value: of the difference.
        se: its standard error.
        clusters: of the test set.
        df: of the standard error, less than ``clusters - 1`` where clusters differ in size; default: that.
        level: 1 - the probability of finding a difference between equals.
        power: the probability of finding it.

    Returns:
        At least 3; ``None`` where there is no difference, or where it takes more than a thousand million.
    """
    if value == 0:
        return None
    if se == 0:
        return 3
    scale = se * math.sqrt(clusters) / abs(value)
    least = detectable_difference(scale, math.inf, level=level, power=power) ** 2  # t needs a few more than normal
    if not least < 1e9:
        return None
    each = 1.0 if df is None else (df + 1) / clusters  # of what clusters of one size would be worth
    number = max(3, math.ceil(least), math.floor(1 / each) + 1)
    while detectable_difference(scale / math.sqrt(number), number * each - 1, level=level, power=power) > 1:
        number += 1
    return number


def _quantile(df: float, level: float) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + level) / 2, df))
