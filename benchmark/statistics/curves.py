"""Curves over label budgets: areas, labels to a target, label multipliers, crossovers; pure functions on arrays.

Errors (lower is better) over budgets (seconds, utterances, speakers: any unit, the same for all curves that are
compared), straight in ``log(budget)`` between the points, and never extrapolated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmark.errors import BenchmarkError
from benchmark.statistics.intervals import LEVEL, SeedSpread, seed_spread

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Errors (lower is better) over label budgets; straight in ``log(budget)`` between the points, undefined beyond."""

    budgets: tuple[float, ...]
    """(point,) increasing."""
    errors: tuple[float, ...]
    """(point,) means over seeds."""
    seeds: tuple[SeedSpread, ...]
    """(point,) of the band."""

    def at(self, budgets: ArrayLike) -> Floats:
        """The mean errors at some budgets within the curve's; :class:`BenchmarkError` beyond."""
        wanted = np.asarray(budgets, dtype=np.float64)
        if np.any((wanted < self.budgets[0]) | (wanted > self.budgets[-1])):
            raise BenchmarkError(
                f"the curve is known from {self.budgets[0]:g} to {self.budgets[-1]:g}, not at "
                f"{wanted.min():g} to {wanted.max():g}; nothing is extrapolated"
            )
        return np.interp(np.log(wanted), np.log(self.budgets), self.errors)


def learning_curve(points: Mapping[float, Sequence[float]], level: float = LEVEL) -> Curve:
    """The mean curve and its band over seeds.

    Args:
        points: budget (positive; seconds, labels, …) -> error of each seed's run.
        level: of the band's t-intervals.

    Raises:
        BenchmarkError: no point, a budget that is not positive and finite, or what :func:`seed_spread` refuses.
    """
    budgets = sorted(points)
    if not budgets or not all(0 < budget < math.inf for budget in budgets):
        raise BenchmarkError(f"a learning curve needs budgets that are positive and finite, got {budgets}")
    spreads = tuple(seed_spread(points[budget], level) for budget in budgets)
    return Curve(tuple(map(float, budgets)), tuple(spread.mean for spread in spreads), spreads)


@dataclass(frozen=True)
class Area:
    """Normalised area under a learning curve; comparable only between curves that share both ranges."""

    value: float
    """0: no error at any budget; 1: the error of the ceiling at all of them."""
    budgets: tuple[float, float]
    errors: tuple[float, float]
    """What counts as 0 and 1."""


def area(
    curve: Curve, *, errors: tuple[float, float] = (0.0, 100.0), budgets: tuple[float, float] | None = None
) -> Area:
    """Area under the error curve over ``log(budget)``: its mean height there, as a share of a range of errors.

    ``integral of (e(n) - floor) d log(n) / (log(last / first) * (ceiling - floor))``. It lies in [0, 1] where all
    errors lie within the range; a WER above 100 % can bring it above 1, it is not clipped.

    Args:
        curve: errors over budgets.
        errors: floor and ceiling, in the unit of the errors.
        budgets: the first and last budget, within the curve's; its own if not given.

    Raises:
        BenchmarkError: a range that is empty or beyond the curve.
    """
    first, last = budgets or (curve.budgets[0], curve.budgets[-1])
    if not first < last or not errors[0] < errors[1]:
        raise BenchmarkError(
            f"an area needs two budgets and a range of errors, got {first:g} to {last:g} and {errors[0]:g} to "
            f"{errors[1]:g}"
        )
    inner = [budget for budget in curve.budgets if first < budget < last]
    grid = np.array([first, *inner, last])
    mean = float(np.trapezoid(curve.at(grid), np.log(grid))) / math.log(last / first)
    return Area((mean - errors[0]) / (errors[1] - errors[0]), (first, last), errors)


@dataclass(frozen=True)
class Target:
    """The labels needed to reach an error."""

    error: float
    reached: bool
    budget: float | None
    """Where the curve first reaches the error; ``None``: nowhere."""
    at_smallest: bool = False
    """Reached at the smallest budget already: ``budget`` is an upper bound."""


def labels_to_target(curve: Curve, error: float) -> Target:
    """The smallest budget at which the curve is at or below an error.

    The first crossing counts: a curve that rises again afterwards has still reached the error. Nothing is extrapolated:
    "not reached" is an answer, and so is "reached at the smallest budget already".

    Raises:
        BenchmarkError: the error is not finite.
    """
    if not math.isfinite(error):
        raise BenchmarkError(f"a target error must be finite, got {error}")
    if curve.errors[0] <= error:
        return Target(error, True, curve.budgets[0], at_smallest=True)
    for index in range(1, len(curve.budgets)):
        before, after = curve.errors[index - 1 : index + 1]
        if after <= error:
            return Target(error, True, _between(curve.budgets[index - 1 : index + 1], before - error, before - after))
    return Target(error, False, None)


def _between(budgets: Sequence[float], part: float, whole: float) -> float:
    """The budget at a share of the way from one to the next, in logarithms."""
    low, high = budgets
    return min(max(math.exp(math.log(low) + part / whole * math.log(high / low)), low), high)


@dataclass(frozen=True)
class Multiplier:
    """How many times the labels of one curve another curve needs, over the errors that both reach."""

    errors: tuple[float, ...]
    """Decreasing, evenly spaced; empty where the curves have no error in common (see :func:`label_multiplier`)."""
    ratios: tuple[float, ...]
    """n_first(e) / n_second(e), e in ``errors``; above 1 where the second curve needs fewer labels."""
    mean: float | None
    """Geometric mean over the range of errors."""


def label_multiplier(first: Curve, second: Curve, points: int = 101) -> Multiplier:
    """n_first(e) / n_second(e), such as frozen / fine-tuned, where both are known.

    Errors run from the larger of the two curves' minima up to the smaller of their errors at the smallest budget: above
    it one of them needs fewer labels than were tried, below the former one of them never gets there. Each n is that of
    :func:`labels_to_target`, the first crossing.

    Raises:
        BenchmarkError: fewer than 2 points.
    """
    if points < 2:
        raise BenchmarkError(f"a label multiplier needs at least 2 points, got {points}")
    lowest = max(min(first.errors), min(second.errors))
    highest = min(first.errors[0], second.errors[0])
    if lowest > highest:
        return Multiplier((), (), None)
    errors = np.unique(np.linspace(highest, lowest, points))[::-1].tolist()
    needed = [[labels_to_target(curve, error).budget for error in errors] for curve in (first, second)]
    ratios = [n / m for n, m in zip(*needed, strict=True) if n is not None and m is not None]
    logs = np.log(ratios)
    mean = float(np.trapezoid(logs) / (logs.size - 1)) if logs.size > 1 else float(logs[0])
    return Multiplier(tuple(errors), tuple(ratios), math.exp(mean))


@dataclass(frozen=True)
class Crossover:
    """A budget at which two curves change places."""

    budget: float
    second_better_after: bool


def crossovers(first: Curve, second: Curve) -> tuple[Crossover, ...]:
    """The budgets at which the difference of two curves changes sign, increasing; empty where it does not.

    Within the budgets that both curves span. Curves that touch and separate again do not cross; where they coincide for
    a while and separate on the other side, the crossover is the (geometric) middle of that stretch.
    """
    start, stop = max(first.budgets[0], second.budgets[0]), min(first.budgets[-1], second.budgets[-1])
    if start > stop:
        return ()
    grid = sorted({start, stop, *(n for n in (*first.budgets, *second.budgets) if start < n < stop)})
    gaps = (first.at(grid) - second.at(grid)).tolist()  # positive where the second is better
    apart = [index for index, gap in enumerate(gaps) if gap != 0]
    found = []
    for one, other in pairwise(apart):
        if (gaps[one] > 0) == (gaps[other] > 0):
            continue
        if other == one + 1:
            budget = _between(grid[one : other + 1], gaps[one], gaps[one] - gaps[other])
        else:
            budget = math.sqrt(grid[one + 1] * grid[other - 1])
        found.append(Crossover(budget, gaps[other] > 0))
    return tuple(found)
