"""Learning curves beyond the budgets that were run: the error to expect at a larger one, with a band, or a refusal.

A pilot (at least :data:`FEWEST` budgets, a few seeds each) is fitted by several families of decreasing curves
(:data:`FAMILIES`; Viering & Loog, arXiv:2103.10948; Domhan et al., IJCAI 2015). Each curve is
``level * (floor + (1 - floor) * shape(n))``, its shape and floor from a grid. Curves are weighted by how well they fit
the logarithms of the errors, over a grid of noise levels, and drawn by these weights. The draws, whose quantiles are
the band, hence differ in family, shape, floor and level, and in a drift that grows with the distance from the pilot:
real curves follow no family. The constants of noise and drift were chosen once, on made-up and public curves; the
coverage on others is measured by ``recipes/benchmarks/extrapolation.py`` and listed in docs/extrapolation.md.

:func:`fit`, :meth:`Extrapolation.at` and :func:`crossing` raise :class:`Declined` where a pilot cannot tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmark.errors import BenchmarkError
from benchmark.tables import plural

Floats = NDArray[np.float64]

FEWEST = 4
"""Budgets of a pilot."""
LEAST_SPAN = 4.0
"""Largest over smallest budget of a pilot."""
FURTHEST = 30.0
"""Budgets up to this many times the pilot's largest are extrapolated to."""
WIDEST = 4.0
"""Upper over lower end of a band that still says something."""
LEVEL = 0.9
DRAWS = 4000

_NOISE = 0.04, 2.0
"""What is assumed of the spread over runs (standard deviation of log errors), and the runs that this is worth."""
_MISFIT = (0.003, 0.01, 0.02)
"""Distances of a pilot's points from their curve other than by noise (standard deviations of log errors), equally
likely: real curves follow no family."""
_BEND = 0.015
"""The same, per unit of the log budget below the pilot's largest: those next to it count most."""
_DRIFT = 0.05
"""Standard deviation of what a curve's slope (log error over log budget) may change by beyond the pilot."""


class Declined(BenchmarkError):
    """A pilot does not support an extrapolation; says why."""


@dataclass(frozen=True)
class Forecast:
    """The error to expect at one budget: the mean over as many runs as the pilot has at each of its budgets."""

    budget: float
    error: float
    """Median over the draws."""
    low: float
    high: float
    level: float


@dataclass(frozen=True)
class Crossing:
    """The budget at which the curve that is behind at the smallest budget gets ahead of the other one."""

    second_gets_ahead: bool
    """Which one: the first curve is ahead at the smallest budget (else the second)."""
    budget: float
    """Median over the draws; 0: ahead at the smallest budget already, ``inf``: not within the range. So are the ends of
    the interval."""
    low: float
    high: float
    ahead: float
    """Probability that it is ahead at the end of the range."""
    level: float


Shape = Callable[[Floats, Floats], Floats]
"""(1, budget), each over the pilot's largest; (curve, parameter) -> (curve, budget), decreasing."""


@dataclass(frozen=True)
class Family:
    """Curves of one formula over a grid of parameters."""

    shape: Shape
    grids: Callable[[float], Sequence[Floats]]
    """Smallest over largest budget of the pilot -> values of each parameter, equally likely."""
    floors: Floats
    """Shares of the error at the pilot's largest budget that no budget takes away."""


def _scales(smallest: float, more: float = 4.0) -> Floats:
    """Budgets at which something happens: from below the pilot to beyond it."""
    return np.geomspace(smallest / more, more, 8)


_LATE = np.geomspace(0.05, 8.0, 10)
_EXPONENTS = np.geomspace(0.1, 2.0, 12)
_FLOORS = 0.95 * np.linspace(0, 1, 11) ** 2
_NO_FLOOR = np.zeros(1)

FAMILIES: Mapping[str, Family] = {
    "power law": Family(lambda n, p: n ** -p[:, :1], lambda _: [_EXPONENTS], _FLOORS),
    "shifted power law": Family(
        lambda n, p: (1 + n / p[:, 1:]) ** -p[:, :1], lambda least: [_EXPONENTS[2::2], _scales(least)[::2]], _FLOORS
    ),
    "exponential": Family(lambda n, p: np.exp(-n / p), lambda _: [_LATE], _FLOORS),
    "stretched exponential": Family(
        lambda n, p: np.exp(-((n / p[:, 1:]) ** p[:, :1])),
        lambda _: [np.array([0.25, 0.5, 0.75]), _LATE],
        _FLOORS,
    ),
    "log power": Family(
        lambda n, p: 1 / (1 + (n / p[:, 1:]) ** p[:, :1]), lambda least: [_EXPONENTS[3::2], _scales(least)], _FLOORS
    ),
    "inverse logarithm": Family(
        lambda n, p: 1 / np.log(math.e + n / p), lambda least: [_scales(least, 100.0)], _FLOORS
    ),
    "vapour pressure": Family(
        lambda n, p: n ** -p[:, :1] * np.exp(p[:, 1:] / n),
        lambda least: [_EXPONENTS[:-3], least * np.array([-0.1, 0.25, 0.5, 1.0, 2.0])],
        _NO_FLOOR,
    ),
    "logarithm": Family(
        lambda n, p: np.maximum(1 - p * np.log(n), 0.05), lambda _: [np.geomspace(0.02, 1.0, 16)], _NO_FLOOR
    ),
}
"""By name, equally likely. The level needs no grid: it is a shift of the log errors, and integrated out."""


@dataclass(frozen=True, eq=False)
class _Curves:
    """Members of one family."""

    family: Family
    parameters: Floats
    """(curve, parameter)."""
    floors: Floats
    """(curve, 1)."""

    def logs(self, n: Floats) -> Floats:
        """(curve, budget) logarithms of the curves, 0 at the pilot's largest budget (``n`` = 1)."""
        shape = self.family.shape(n[None], self.parameters) / self.family.shape(np.ones((1, 1)), self.parameters)
        return np.log(self.floors + (1 - self.floors) * shape)

    def take(self, index: NDArray[np.int64]) -> _Curves:
        """The members with these numbers, as often as they occur."""
        return _Curves(self.family, self.parameters[index], self.floors[index])


def _members(family: Family, smallest: float) -> _Curves:
    axes = [*family.grids(smallest), family.floors]
    *parameters, floors = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
    return _Curves(family, np.stack(parameters, axis=1), floors[:, None])


@dataclass(frozen=True, eq=False)
class Extrapolation:
    """Draws of the curve that a pilot is a sample of."""

    budgets: tuple[float, ...]
    """Of the pilot, increasing."""
    weights: Mapping[str, float]
    """Family -> its share of the draws."""
    spread: float
    """Over runs: standard deviation of log errors, pooled over the budgets."""
    test_set: float
    """Relative standard error by the test set that the bands allow for."""
    _curves: tuple[_Curves, ...]
    _levels: Floats
    """(draw,) logarithm of the error at the pilot's largest budget, in the order of the curves."""
    _drifts: Floats
    """(draw,) change of the slope beyond the pilot."""
    _noise: Floats
    """(draw,) of the mean over new runs, and of the test set."""

    @property
    def furthest(self) -> float:
        """The largest budget that :meth:`at` answers for, unless the band becomes too wide before."""
        return FURTHEST * self.budgets[-1]

    def curves(self, budgets: ArrayLike) -> Floats:
        """(draw, budget) errors that the draws expect: without the noise of new runs and of the test set."""
        wanted = np.asarray(budgets, dtype=np.float64) / self.budgets[-1]
        logs = np.concatenate([curves.logs(wanted) for curves in self._curves])
        beyond = np.log(np.maximum(wanted, 1.0))
        return np.exp(logs + self._levels[:, None] + self._drifts[:, None] * beyond)

    def band(self, budgets: ArrayLike, level: float = LEVEL) -> list[Forecast]:
        """Medians and bands, however wide and far; :meth:`at` refuses what says too little."""
        wanted = np.asarray(budgets, dtype=np.float64)
        errors = self.curves(wanted) * np.exp(self._noise)[:, None]
        low, middle, high = np.quantile(errors, [(1 - level) / 2, 0.5, (1 + level) / 2], axis=0)
        rows = np.stack([wanted, middle, low, high], axis=1).tolist()
        return [Forecast(budget, error, lower, upper, level) for budget, error, lower, upper in rows]

    def at(self, budget: float, level: float = LEVEL) -> Forecast:
        """The error to expect at a budget.

        Raises:
            Declined: the budget is within the pilot, or further from it than :data:`FURTHEST`, or the band is wider
                than :data:`WIDEST`.
        """
        times = budget / self.budgets[-1]
        if not times > 1:
            raise Declined("this lies within the budgets that were run, whose results say more")
        if times > FURTHEST * (1 + 1e-9):
            raise Declined(
                f"this is {times:,.3g} times the largest budget that was run; nothing is said beyond {FURTHEST:g} times"
            )
        forecast = self.band([budget], level)[0]
        if forecast.high > WIDEST * forecast.low:
            ratio = forecast.high / forecast.low
            normal = NormalDist().inv_cdf((1 + level) / 2)
            mostly = self.test_set > math.sqrt(0.5) * math.log(ratio) / (2 * normal)
            raise Declined(
                f"the {100 * level:.0f} % band is too wide to say anything: its ends are a factor {ratio:.2g} apart "
                f"(at most {WIDEST:g}{'; most of that is due to the small test set' if mostly else ''})"
            )
        return forecast


def fit(
    points: Mapping[float, Sequence[float]],
    *,
    test_set: float = 0.0,
    text: Callable[[float], str] = "{:g}".format,
    seed: int = 0,
) -> Extrapolation:
    """Fit the families to a pilot.

    Args:
        points: budget -> errors (lower is better) of its runs, which may differ in seed and in the subset of the data;
            any unit of budgets.
        test_set: relative standard error of the errors by the test set, where a band is to hold for other test sets.
        text: writes a budget, in reasons for declining.
        seed: of the draws.

    Raises:
        Declined: fewer than :data:`FEWEST` budgets, a span below :data:`LEAST_SPAN`, errors of 0, errors that rise
            by more than their noise or fall by less.
        BenchmarkError: budgets that are not positive and finite, errors that are negative or not finite.
    """
    pilot = _read(points)
    _check_trend(list(map(text, pilot.budgets)), pilot)
    members = [_members(family, pilot.n[0]) for family in FAMILIES.values()]
    sizes = [len(of.floors) for of in members]
    prior = np.repeat([1 / (len(sizes) * size) for size in sizes], sizes)
    fits = [_weigh(pilot, np.concatenate([of.logs(pilot.n) for of in members]), *noise) for noise in pilot.noises()]
    likely, levels = np.array([of[0] for of in fits]), np.array([of[1] for of in fits])  # (noise, curve)
    spreads, errors = np.array([(noise[0], of[2]) for noise, of in zip(pilot.noises(), fits, strict=True)]).T

    random = np.random.default_rng(seed)
    ends = np.cumsum(np.exp(likely - likely.max()).T * prior[:, None])  # systematic draws: as often as the weight says
    drawn = np.searchsorted(ends, (np.arange(DRAWS) + random.uniform()) / DRAWS * ends[-1])
    curve, noise = np.divmod(np.minimum(drawn, ends.size - 1), len(fits))
    first = np.cumsum([0, *sizes])
    chosen = [of.take(curve[(curve >= k) & (curve < k + size)] - k)
              for k, size, of in zip(first, sizes, members, strict=False)]  # fmt: skip
    runs = math.sqrt(1 / np.mean(1 / pilot.counts))
    return Extrapolation(
        tuple(pilot.budgets),
        {name: len(of.floors) / DRAWS for name, of in zip(FAMILIES, chosen, strict=True)},
        pilot.spread,
        test_set,
        tuple(chosen),
        levels[noise, curve] + errors[noise] * random.standard_normal(DRAWS),
        _DRIFT * random.standard_normal(DRAWS),
        np.hypot(spreads[noise] / runs, test_set) * random.standard_normal(DRAWS),
    )


@dataclass(frozen=True, eq=False)
class _Pilot:
    budgets: list[float]
    """Increasing."""
    means: Floats
    """(budget,) of the runs' log errors."""
    counts: Floats
    """(budget,) runs."""
    within: float
    """Sum of the squared distances of log errors from their budget's mean, with what is assumed of them."""
    freedom: float
    """Of that sum, likewise."""

    @property
    def n(self) -> Floats:
        """(budget,) over the largest."""
        return np.array(self.budgets) / self.budgets[-1]

    @property
    def spread(self) -> float:
        """Over runs: standard deviation of log errors."""
        return math.sqrt(self.within / self.freedom)

    def noises(self) -> list[tuple[float, float]]:
        """The grid of spreads over runs and misfits."""
        return list(product((self.spread * np.geomspace(0.4, 2.5, 9)).tolist(), _MISFIT))


def _read(points: Mapping[float, Sequence[float]]) -> _Pilot:
    budgets = sorted(points)
    runs = [np.asarray(points[budget], dtype=np.float64) for budget in budgets]
    sound = all(of.size and np.isfinite(of).all() and (of >= 0).all() for of in runs)
    if not sound or not all(0 < budget < math.inf for budget in budgets):
        raise BenchmarkError("an extrapolation needs budgets and errors that are positive and finite")
    if len(budgets) < FEWEST:
        raise Declined(f"there are results at {plural(len(budgets), 'budget')}, and a forecast needs at least {FEWEST}")
    if budgets[-1] < LEAST_SPAN * budgets[0]:
        raise Declined(
            f"the largest budget that was run is {budgets[-1] / budgets[0]:.2g} times the smallest, and a forecast "
            f"needs at least {LEAST_SPAN:g} times"
        )
    if not all(of.min() > 0 for of in runs):
        raise Declined("some runs make no error on this test set, which hence cannot show a decrease")
    logs = [np.log(of) for of in runs]
    assumed, worth = _NOISE
    within = sum(float(((of - of.mean()) ** 2).sum()) for of in logs) + worth * assumed**2
    freedom = sum(of.size - 1 for of in logs) + worth
    means, counts = [of.mean() for of in logs], [float(of.size) for of in logs]
    return _Pilot(list(map(float, budgets)), np.array(means), np.array(counts), within, freedom)


def _weigh(pilot: _Pilot, logs: Floats, spread: float, misfit: float) -> tuple[Floats, Floats, float]:
    """Log likelihood of curves, (curve, budget), at one noise level; their levels, and the standard error of these."""
    precision = 1 / (spread**2 / pilot.counts + misfit**2 + (_BEND * np.log(pilot.n)) ** 2)
    whole = float(precision.sum())
    residuals = pilot.means - logs
    level = residuals @ precision / whole
    squares = ((residuals - level[:, None]) ** 2) @ precision
    of_spread = -pilot.freedom * math.log(spread) - pilot.within / (2 * spread**2)
    return of_spread + 0.5 * (np.log(precision).sum() - math.log(whole) - squares), level, 1 / math.sqrt(whole)


def _check_trend(names: Sequence[str], pilot: _Pilot) -> None:
    """Refuse pilots, whose budgets have these names, whose errors rise, or fall no further than their noise."""
    n, means, noise = pilot.n, pilot.means, pilot.spread / np.sqrt(pilot.counts)
    for later in range(1, len(n)):
        earlier = int(np.argmin(means[:later]))
        rise = means[later] - means[earlier]
        if rise > 2.5 * math.hypot(noise[earlier], noise[later]):
            raise Declined(
                f"the error rises by {100 * math.expm1(rise):.0f} % from {names[earlier]} to {names[later]}, which is "
                f"more than noise, and every curve that could be fitted falls"
            )
    x = np.log(n)
    precision = 1 / noise**2
    centred = x - precision @ x / precision.sum()
    slope = float(precision @ (centred * means) / (precision @ centred**2))
    residuals = means - precision @ means / precision.sum() - slope * centred
    scale = max(1.0, math.sqrt(float(precision @ residuals**2) / (len(n) - 2)))
    if slope > -2.0 * scale / math.sqrt(float(precision @ centred**2)):
        change = 100 * math.expm1(slope * float(x[-1] - x[0]))
        raise Declined(
            f"from {names[0]} to {names[-1]} the error changes by {change:+.0f} %, which is no more than noise: there "
            f"is no trend to follow"
        )


def crossing(
    first: Extrapolation, second: Extrapolation, largest: float, *, difference: float = 0.0, level: float = LEVEL
) -> Crossing:
    """At which budget one curve gets ahead (below the other): from the smallest budget of the pilots up to ``largest``.

    Args:
        first: one curve.
        second: another one, in the same unit.
        largest: budget; at most the ``furthest`` of both.
        difference: standard error by the test set of the difference of their errors, relative to the errors.
        level: of the interval.

    Raises:
        Declined: ``largest`` is within one of the pilots, or further than :data:`FURTHEST` from one.
    """
    if largest <= max(first.budgets[-1], second.budgets[-1]):
        raise Declined("this lies within the budgets that were run, whose results say more")
    if largest > min(first.furthest, second.furthest) * (1 + 1e-9):
        raise Declined(f"this is more than {FURTHEST:g} times the largest budget of a pilot")
    grid = np.geomspace(max(first.budgets[0], second.budgets[0]), largest, 100)
    random = np.random.default_rng(0)
    one, other = (np.log(of.curves(grid)[random.permutation(DRAWS)]) for of in (first, second))
    gaps = one - other + difference * random.standard_normal(DRAWS)[:, None]  # positive: the second is ahead
    second_behind = bool((gaps[:, 0] <= 0).mean() >= 0.5)
    gaps = gaps if second_behind else -gaps
    reached = gaps > 0
    index = reached.argmax(axis=1)
    before, after = gaps[np.arange(DRAWS), index - 1], gaps[np.arange(DRAWS), index]
    with np.errstate(divide="ignore", invalid="ignore"):
        back = np.clip(after / (after - before), 0, 1)  # straight between grid points
    crossed = grid[index] * (grid[0] / grid[1]) ** back
    budgets = np.where(index > 0, crossed, np.where(reached[:, 0], 0.0, math.inf))
    low, middle, high = np.quantile(budgets, [(1 - level) / 2, 0.5, (1 + level) / 2], method="inverted_cdf")
    return Crossing(second_behind, float(middle), float(low), float(high), float(reached[:, -1].mean()), level)
