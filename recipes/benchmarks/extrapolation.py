"""Do the bands of extrapolated learning curves hold? Pilots are fitted, and compared with held-out larger budgets.

    python recipes/benchmarks/extrapolation.py                       made-up curves: of the fitted families, of others
    python recipes/benchmarks/extrapolation.py --quick               a tenth of them
    python recipes/benchmarks/extrapolation.py --results FOLDER …    and results of studies with budgets to hold out
    python recipes/benchmarks/extrapolation.py --csv FILE …          and measured curves: see of_csv
    python recipes/benchmarks/extrapolation.py --lcdb FOLDER         and LCDB (Mohr et al., ECML 2022): where its
                                                                     database-accuracy.csv is (PyPI: lcdb 0.1.0)

Printed for each source and distance from the pilot: the share of held-out errors within the 90 % bands, the share
below them, the median ratio of a band's ends, and the share of held-out budgets for which nothing was said. Made-up
curves are measured with noise, half of it common to all budgets of a seed, as nested subsets have it.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from benchmark.statistics.extrapolate import FEWEST, FURTHEST, LEAST_SPAN, Declined, crossing, fit
from benchmark.tables import Table, Value

Floats = NDArray[np.float64]
Curve = Callable[[Floats], Floats]
DISTANCES = (2.0, 4.0, 10.0, 30.0)
"""Ends of the ranges in which held-out budgets are put, in largest budgets of the pilot."""


@dataclass(frozen=True)
class Case:
    """A pilot and what was held out."""

    source: str
    pilot: Mapping[float, list[float]]
    held_out: Mapping[float, float]
    """Budget -> mean error of as many runs."""
    test_set: float = 0.0
    """See :func:`benchmark.statistics.extrapolate.fit`."""


# --- Made-up curves ---------------------------------------------------------------------------------------------------
# Of a budget in smallest budgets of the pilot, which reaches 8 to 250 of them.


def fitted(random: np.random.Generator) -> tuple[str, Curve]:
    """A curve of a family that is fitted, its parameters not on the grid."""
    floor, c, d = random.uniform(0, 0.8), random.uniform(0.2, 1.2), 10 ** random.uniform(-0.5, 2)
    kind = random.integers(6)
    curves: list[Curve] = [
        lambda n: n**-c,
        lambda n: (1 + n / d) ** -c,
        lambda n: np.exp(-n / (8 * d)),
        lambda n: np.exp(-((n / (4 * d)) ** (0.6 * c))),
        lambda n: 1 / (1 + (n / d) ** c),
        lambda n: 1 / np.log(math.e + n / d),
    ]
    return "fitted families", lambda n: 40 * (floor / 5 + (1 - floor / 5) * curves[kind](n))


def other(random: np.random.Generator) -> tuple[str, Curve]:
    """A curve of a family that is not fitted; half of them end in errors that no label removes (wrong labels, say)."""
    c, rest = random.uniform(0.2, 0.8), random.choice([0.0, random.uniform(0.2, 4)])
    name, curve = list(OTHERS.items())[int(random.integers(len(OTHERS)))]
    values = curve(random, c)
    return name, lambda n: rest + (1 - rest / 100) * values(n)


def _broken(random: np.random.Generator, c: float) -> Curve:
    at, sharp, more = 10 ** random.uniform(0.5, 2.5), random.uniform(0.2, 1), random.uniform(-0.5, 0.6) * c
    return lambda n: 40 * n**-c * (1 + (n / at) ** (1 / sharp)) ** (-more * sharp)


def _two(random: np.random.Generator, c: float) -> Curve:
    share, slow = random.uniform(0.1, 0.6), random.uniform(0.02, 0.15)
    return lambda n: 40 * ((1 - share) * n**-c + share * n**-slow)


def _unseen(random: np.random.Generator, c: float) -> Curve:
    p = np.arange(1, 3001) ** -(1.1 + c)
    p, each = p / p.sum(), 10 ** random.uniform(0.5, 2)
    return lambda n: 60 * np.array([(p * np.exp(-p * each * x)).sum() for x in n])


def _normal(random: np.random.Generator, c: float) -> Curve:
    begin = random.uniform(0.2, 0.8)
    return lambda n: 100 * ndtr(-(begin + 0.3 * c * np.log(n)))


def _wavy(random: np.random.Generator, c: float) -> Curve:
    waves = list(zip(random.normal(size=4) * 0.02, random.uniform(0.5, 1.5, 4), random.uniform(0, 6.3, 4), strict=True))
    return lambda n: 40 * n**-c * np.exp(np.sum([a * np.sin(w * np.log(n) + at) for a, w, at in waves], axis=0))


OTHERS: dict[str, Callable[[np.random.Generator, float], Curve]] = {
    "broken power law": _broken,  # Caballero et al., Broken Neural Scaling Laws, ICLR 2023
    "two power laws": _two,
    "unseen kinds": _unseen,  # the share of Zipf-distributed kinds not seen: Hutter, Learning Curve Theory, 2021
    "normal scores": _normal,  # EER of normal scores whose distance grows with the logarithm of the labels
    "wavy power law": _wavy,
}
"""Name -> generator of curves with about the exponent that it is given."""


def made_up(number: int, make: Callable[[np.random.Generator], tuple[str, Curve]], seed: int) -> Iterator[Case]:
    """Pilots of 4 to 6 budgets, each 2 or 3 times the one before, with 1 to 3 runs."""
    for index in range(number):
        random = np.random.default_rng([seed, index])
        name, curve = make(random)
        budgets = random.choice([2.0, 3.0]) ** np.arange(random.integers(4, 7))
        runs, noise = int(random.integers(1, 4)), random.choice([0.01, 0.03, 0.06])
        wanted = budgets[-1] * np.array(DISTANCES)
        errors = curve(np.array([*budgets, *wanted]))[:, None]
        of_seed, of_run = random.normal(size=(1, runs)), random.normal(size=(len(errors), runs))
        measured = errors * np.exp(noise * math.sqrt(0.5) * (of_seed + of_run))
        test_set = float(index % 4 == 0) * 0.1  # a quarter is compared with the errors on another test set
        elsewhere = math.exp(test_set * random.normal())
        pilot = dict(zip(budgets.tolist(), (measured[: len(budgets)] * elsewhere).tolist(), strict=True))
        later = measured[len(budgets) :].mean(1)
        yield Case(name, pilot, dict(zip(wanted.tolist(), later.tolist(), strict=True)), test_set)


def made_up_pairs(number: int, seed: int) -> Iterator[tuple[Case, Case, Curve]]:
    """Two pilots of 3 runs, and the true ratio of their errors over budgets."""
    for index in range(number):
        random = np.random.default_rng([seed, 1, index])
        (_, one), (_, two) = ((fitted, other)[int(random.integers(2))](random) for _ in range(2))
        budgets = random.choice([2.0, 3.0]) ** np.arange(random.integers(4, 7))
        shift = math.exp(0.5 * random.normal()) * float((one(budgets) / two(budgets)).mean())
        noise, cases = random.choice([0.01, 0.03]), []
        for curve, scale in ((one, 1.0), (two, shift)):
            errors = scale * curve(budgets)[:, None] * np.exp(noise * random.normal(size=(len(budgets), 3)))
            cases.append(Case("crossings", dict(zip(budgets.tolist(), errors.tolist(), strict=True)), {}))
        yield cases[0], cases[1], lambda n, one=one, two=two, shift=shift: one(n) / two(n) / shift  # type: ignore[misc]


# --- Measured curves --------------------------------------------------------------------------------------------------


def of_lcdb(folder: Path, number: int, half: int = 1) -> Iterator[Case]:
    """Curves of a public database of scikit-learn's learners on OpenML's data sets, at most ``number``.

    Pilots have 4 to 6 budgets, each twice the one before, and 3 runs on one test set; held out are larger budgets.
    ``half``: of the data sets by their numbers; constants were chosen on half 0.
    """
    found: dict[tuple[str, str], dict[float, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    with open(folder / "database-accuracy.csv", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["outer_seed"] == "0" and int(row["openmlid"]) % 2 == half and int(row["size_test"]) >= 500:
                error = 100 * (1 - float(row["score_test"]))
                found[row["openmlid"], row["learner"]][float(row["size_train"])][int(row["inner_seed"])] = error
    random = np.random.default_rng(0)
    keys = sorted(key for key, curve in found.items() if len(curve) >= 12)
    for key in [keys[index] for index in random.permutation(len(keys))][:number]:
        curve = {size: list(runs.values())[:3] for size, runs in sorted(found[key].items()) if len(runs) >= 3}
        sizes = list(curve)[:-1:2]  # powers of 2; the last one is whatever the data set has
        points = int(random.integers(4, 7))
        if len(sizes) <= points:
            continue
        start = int(random.integers(0, len(sizes) - points))
        chosen, rest = sizes[start : start + points], sizes[start + points :]
        held_out = {size: float(np.mean(curve[size])) for size in rest if size <= FURTHEST * chosen[-1]}
        yield Case("LCDB", {size: curve[size] for size in chosen}, held_out)


def held_out(source: str, errors: Mapping[float, list[float]]) -> Iterator[Case]:
    """Every stretch of budgets that can be a pilot, with all larger ones held out."""
    sizes = sorted(errors)
    for first in range(len(sizes)):
        for last in range(first + FEWEST, len(sizes)):
            chosen = sizes[first:last]
            rest = {size: float(np.mean(errors[size])) for size in sizes[last:] if size <= FURTHEST * chosen[-1]}
            if rest and chosen[-1] >= LEAST_SPAN * chosen[0]:
                yield Case(source, {size: errors[size] for size in chosen}, rest)


def of_csv(path: Path) -> Iterator[Case]:
    """A file with the columns ``curve``, ``budget`` and ``error``, a row a run."""
    curves: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    with open(path, encoding="utf-8") as file:
        for row in csv.DictReader(file):
            curves[row["curve"]][float(row["budget"])].append(float(row["error"]))
    for errors in curves.values():
        yield from held_out(path.stem, errors)


def of_results(folders: list[Path]) -> Iterator[Case]:
    """Every series of studies with more budgets than a pilot needs."""
    from benchmark.report.collect import gather
    from benchmark.report.compare import task_view
    from benchmark.report.extrapolation import pilot

    gathered = gather(folders)
    for task in dict.fromkeys(cell.task for cell in gathered.runs):
        view = task_view(gathered, task)
        for series in view.series:
            yield from held_out(f"results: {task}", pilot(view, series))


# --- The table --------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """Of one source and range of distances."""

    held_out: int = 0
    said: int = 0
    inside: int = 0
    below: int = 0
    ratios: list[float] | None = None


def evaluate(cases: Iterator[Case]) -> tuple[dict[tuple[str, float], Tally], dict[str, int]]:
    """(source, distance) -> tally; and how often nothing was said, by reason."""
    tallies: dict[tuple[str, float], Tally] = {}
    reasons: dict[str, int] = defaultdict(int)
    for case in cases:
        largest = max(case.pilot)
        try:
            fitted_to = fit(case.pilot, test_set=case.test_set)
        except Declined as why:
            fitted_to = None
            reasons[_kind(why)] += 1
        for budget, error in case.held_out.items():
            distance = next(end for end in DISTANCES if budget <= end * largest * 1.001)
            tally = tallies.setdefault((case.source, distance), Tally(ratios=[]))
            tally.held_out += 1
            if fitted_to is None:
                continue
            try:
                forecast = fitted_to.at(budget)
            except Declined as why:
                reasons[_kind(why)] += 1
                continue
            assert tally.ratios is not None
            tally.said += 1
            tally.inside += forecast.low <= error <= forecast.high
            tally.below += error < forecast.low
            tally.ratios.append(forecast.high / forecast.low)
    return tallies, dict(reasons)


def _kind(why: Declined) -> str:
    """The reason without its numbers."""
    return re.sub(r"[-−+]?\d\S*", "…", str(why).partition(", ")[0].partition(":")[0])


def table(tallies: Mapping[tuple[str, float], Tally]) -> Table:
    """One row a source and distance, and one for all distances of a source."""
    rows: list[list[Value]] = []
    for source in dict.fromkeys(source for source, _ in tallies):
        of_source = {distance: tally for (name, distance), tally in sorted(tallies.items()) if name == source}
        everything = Tally(ratios=[])
        for tally in of_source.values():
            for field in ("held_out", "said", "inside", "below"):
                setattr(everything, field, getattr(everything, field) + getattr(tally, field))
            everything.ratios = [*(everything.ratios or []), *(tally.ratios or [])]
        for name, tally in [*((f"to {end:g}x", tally) for end, tally in of_source.items()), ("all", everything)]:
            said = tally.said or None
            rows.append(
                [
                    source, name, tally.held_out, round(100 * (1 - tally.said / tally.held_out)),
                    said and round(100 * tally.inside / said, 1), said and round(100 * tally.below / said, 1),
                    said and float(np.median(tally.ratios or [0])),
                ]
            )  # fmt: skip
    columns = ["source", "distance", "held out", "declined %", "in 90 % band", "below it", "upper/lower"]
    return Table(columns, rows)


def crossings(pairs: Iterator[tuple[Case, Case, Curve]], furthest: float) -> str:
    """How often the interval of a crossing, up to so many times the largest budget, holds the true one."""
    said = inside = number = within = bounded = 0
    for one, two, ratio in pairs:
        number += 1
        largest = max(one.pilot)
        try:
            found = crossing(fit(one.pilot), fit(two.pilot), furthest * largest)
        except Declined:
            continue
        grid = np.geomspace(min(one.pilot), furthest * largest, 20_000)
        ahead = (ratio(grid) > 1) == found.second_gets_ahead
        truth = 0.0 if ahead[0] else float(grid[ahead.argmax()]) if ahead.any() else math.inf
        said += 1
        inside += found.low * 0.999 <= truth <= found.high * 1.001
        within += 0 < truth < math.inf
        bounded += found.low > 0 and found.high < math.inf
    return (
        f"crossings up to {furthest:g}x: {number} pairs, {number - said} declined; {within} curves cross; the 90 % "
        f"interval holds the truth for {100 * inside / said:.1f} %, and has two ends within the range for {bounded}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the curves")
    parser.add_argument("--results", nargs="+", type=Path, default=[], metavar="FOLDER")
    parser.add_argument("--csv", nargs="+", type=Path, default=[], metavar="FILE")
    parser.add_argument("--lcdb", type=Path, metavar="FOLDER")
    parser.add_argument("--lcdb-half", type=int, default=1, choices=(0, 1), help="default: 1, which chose no constant")
    parser.add_argument("--seed", type=int, default=1, help="of the made-up curves; constants were chosen with 0")
    options = parser.parse_args()
    number = 150 if options.quick else 1500
    sources = [made_up(number // 2, fitted, options.seed), made_up(number, other, options.seed)]
    if options.lcdb:
        sources.append(of_lcdb(options.lcdb, number, options.lcdb_half))
    sources += map(of_csv, options.csv)
    if options.results:
        sources.append(of_results(options.results))
    for source in sources:
        tallies, reasons = evaluate(source)
        print(table(tallies).text() if tallies else "no curve with budgets to hold out")
        print("".join(f"declined {number} x: {why}\n" for why, number in reasons.items()), flush=True)
    for furthest in (3.0, 10.0, FURTHEST):
        print(crossings(made_up_pairs(number // 5, options.seed), furthest))


if __name__ == "__main__":
    main()
