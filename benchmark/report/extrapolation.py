"""What a task's results at small label budgets say of larger ones: forecasts, crossings, and a panel for the page.

Everything here is an extrapolation and looks like one: dashed, on a shaded ground, with bands, and labelled. What was
measured is drawn solid. See :mod:`benchmark.statistics.extrapolate`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from benchmark import plots
from benchmark.metrics import Metric
from benchmark.report.compare import Bootstrap, Series, TaskView
from benchmark.report.parts import Picture, Sheet, identifier, rounded, sources, span
from benchmark.report.sentences import duration_text
from benchmark.statistics import Interval
from benchmark.statistics.extrapolate import (
    FEWEST,
    FURTHEST,
    LEVEL,
    Crossing,
    Declined,
    Extrapolation,
    Forecast,
    crossing,
    fit,
)
from benchmark.tables import Table, Value, number_text

TIMES = 10.0
"""How far the page's panel goes beyond the largest budget, unless told."""


@dataclass(eq=False)
class Outlook:
    """One series at budgets that were not run."""

    series: Series
    fitted: Extrapolation | None
    why: str
    """Why there is none."""
    forecasts: dict[float, Forecast] = field(default_factory=dict)
    """Budget in seconds -> as errors (lower is better)."""
    declined: dict[float, str] = field(default_factory=dict)
    """Budget in seconds -> why nothing is said there."""


@dataclass(frozen=True)
class Meeting:
    """Where the curves of two series cross; or why that cannot be told."""

    first: Series
    second: Series
    to: float
    """Largest budget that was looked at, in seconds."""
    found: Crossing | None
    why: str


@dataclass(frozen=True)
class Panel:
    """For a page: sentences, a figure unless every series was declined, and a table."""

    sentences: list[str]
    picture: Picture | None
    sheet: Sheet


def pilot(view: TaskView, series: Series) -> dict[float, list[float]]:
    """Seconds of labels -> errors of the runs.

    Raises:
        Declined: the metric has no error: higher is better, without a ceiling.
    """
    if view.metric.higher_is_better and view.metric.ceiling is None:
        raise Declined(f"{view.metric.label} has no known best value, so that there is no error to extrapolate")
    points: dict[float, list[float]] = {}
    for budget, runs in series.points.items():
        points.setdefault(view.seconds[budget], []).extend(view.metric.error(run.value) for run in runs.values())
    return points


def outlooks(view: TaskView, to: Sequence[float], bootstrap: Bootstrap, level: float = LEVEL) -> list[Outlook]:
    """Every series of a task at some budgets, in seconds. Bands hold for other test sets where runs give intervals."""
    found = []
    for series in view.series:
        try:
            points = pilot(view, series)
            largest = list(series.points[series.largest].values())
            share = _relative(bootstrap.summary(largest)[0], float(np.mean(points[view.seconds[series.largest]])))
            outlook = Outlook(series, fit(points, test_set=share, text=duration_text), "")
        except Declined as why:
            outlook = Outlook(series, None, str(why))
        for budget in to:
            try:
                if outlook.fitted is not None:
                    outlook.forecasts[budget] = outlook.fitted.at(budget, level)
            except Declined as why:
                outlook.declined[budget] = str(why)
        found.append(outlook)
    return found


def _relative(interval: Interval | None, error: float) -> float:
    """Standard error of an interval over the error; 0 without an interval."""
    return 0.0 if interval is None or error <= 0 else interval.se / error


def meetings(
    view: TaskView, found: Sequence[Outlook], to: float, bootstrap: Bootstrap, level: float = LEVEL
) -> list[Meeting]:
    """Pairs of series of one upstream and one kind of budgets, up to a budget in seconds or as far as both reach."""
    pairs = []
    for one, other in combinations(found, 2):
        same = (one.series.upstream, one.series.kind) == (other.series.upstream, other.series.kind)
        if not same or one.fitted is None or other.fitted is None:
            continue
        end = min(to, one.fitted.furthest, other.fitted.furthest)
        common = [budget for budget in one.series.points if budget in other.series.points]
        share = 0.0
        if common:
            first, second = (of.series.points[common[-1]] for of in (one, other))
            difference = bootstrap.difference(common[-1], first, second)
            errors = [view.metric.error(run.value) for run in (*first.values(), *second.values())]
            share = _relative(difference.test_set if difference else None, float(np.mean(errors)))
        try:
            crossed = crossing(one.fitted, other.fitted, end, difference=share, level=level)
            pairs.append(Meeting(one.series, other.series, end, crossed, ""))
        except Declined as why:
            pairs.append(Meeting(one.series, other.series, end, None, str(why)))
    return pairs


# --- Words ------------------------------------------------------------------------------------------------------------


def _values(metric: Metric, forecast: Forecast) -> tuple[float, float, float]:
    """Expected value, low and high end, in the metric's own direction."""
    low, high = sorted((metric.error(forecast.low), metric.error(forecast.high)))
    return metric.error(forecast.error), low, high


def sentences(view: TaskView, found: Sequence[Outlook], pairs: Sequence[Meeting]) -> list[str]:
    """What is expected, where curves cross, and what the results cannot tell."""
    texts = []
    for outlook in found:
        name = outlook.series.title or outlook.series.name
        for budget, forecast in outlook.forecasts.items():
            value, low, high = _values(view.metric, forecast)
            unit = f" {view.metric.unit}" if view.metric.unit else ""
            texts.append(
                f"{name} with {duration_text(budget)} of labels: {view.metric.label} {rounded(value, (high - low) / 2)}"
                f"{unit} expected, {100 * forecast.level:.0f} % band {span(low, high)}."
            )
        for budget, why in outlook.declined.items():
            texts.append(f"{name} with {duration_text(budget)} of labels: no forecast, because {why}.")
        if outlook.fitted is None:
            texts.append(f"{name}: no forecast, because {outlook.why}.")
    return texts + [_meeting(pair) for pair in pairs]


def _meeting(pair: Meeting) -> str:
    names = [series.title or series.name for series in (pair.first, pair.second)]
    if pair.found is None:
        return f"{names[0]} and {names[1]}: where their curves cross is open, because {pair.why}."
    of = pair.found
    behind, ahead = names if of.second_gets_ahead else names[::-1]
    end, chance, level = duration_text(pair.to), _percent(of.ahead), f"{100 * of.level:.0f} %"
    below = "below the smallest budget" if of.low == 0 else duration_text(of.low)
    beyond = f"beyond {end}" if math.isinf(of.high) else duration_text(of.high)
    if math.isinf(of.low):
        return f"{behind} stays ahead of {ahead} up to {end} (probability that it is behind there: {chance})."
    if math.isinf(of.budget):
        return (
            f"{behind} is expected to stay ahead of {ahead} up to {end}; the {level} interval of the budget at which "
            f"{ahead} gets ahead begins at {below} (probability that it is ahead at {end}: {chance})."
        )
    if of.low == 0 and math.isinf(of.high):
        return f"Where the curves of {behind} and {ahead} cross cannot be told from these budgets."
    return (
        f"{ahead} is better than {behind} above {duration_text(of.budget)}; {level} interval: {below} to {beyond} "
        f"(probability that it is better at {end}: {chance})."
    )


def _percent(share: float) -> str:
    return "below 1 %" if share < 0.01 else "above 99 %" if share > 0.99 else f"{100 * share:.0f} %"


def table(view: TaskView, found: Sequence[Outlook], level: float = LEVEL) -> Table:
    """A row a series and budget, with why nothing is said where it is so."""
    unit = f" ({view.metric.unit})" if view.metric.unit else ""
    rows: list[list[Value]] = []
    for outlook in found:
        runs = outlook.series.points
        name = outlook.series.title or outlook.series.name
        measured = outlook.series.mean(outlook.series.largest)
        start: list[Value] = [name, len(runs), view.seconds[outlook.series.largest] / 3600, measured]
        for budget, forecast in outlook.forecasts.items():
            rows.append([*start, budget / 3600, *_values(view.metric, forecast), ""])
        for budget, why in outlook.declined.items():
            rows.append([*start, budget / 3600, None, None, None, why])
        if outlook.fitted is None:
            rows.append([*start, None, None, None, None, outlook.why])
    columns = [
        "regime", "budgets", "largest (h)", f"{view.metric.label} there{unit}", "labels (h)",
        f"expected {view.metric.label}{unit}", f"{100 * level:.0f} % from", "to", "no forecast, because",
    ]  # fmt: skip
    runs_shown = [run for outlook in found for of in outlook.series.points.values() for run in of.values()]
    title = f"{view.name}: extrapolated to budgets that were not run."
    return Table(columns, rows, title, f"{CAPTION} {sources(runs_shown)}", f"{identifier(view.name)}_extrapolated")


CAPTION = (
    "Expected: the mean over as many runs as there are at a budget. Bands are quantiles over curves of eight families, "
    "weighted by how well they fit the measured budgets; they allow for seeds, subsets, the choice of the family, its "
    "failure further out and, where runs give intervals, the test set. docs/extrapolation.md has their measured "
    f"coverage. Nothing is said of fewer than {FEWEST} budgets or beyond {FURTHEST:g} times the largest."
)


# --- The page ---------------------------------------------------------------------------------------------------------


def panel(view: TaskView, bootstrap: Bootstrap, to: float | None = None) -> Panel | None:
    """What the page shows of a task beyond its budgets; ``None`` where no series has enough budgets to try.

    Args:
        view: the task.
        bootstrap: intervals over the test set.
        to: largest budget, in seconds; default: :data:`TIMES` the largest that was run.
    """
    if not any(len(series.points) >= FEWEST for series in view.series):
        return None
    end = to or TIMES * max(view.seconds[series.largest] for series in view.series)
    found = outlooks(view, [end], bootstrap)
    pairs = meetings(view, found, end, bootstrap)
    whole = table(view, found)
    shown: list[list[Value]] = []
    for outlook in found:
        value: Value = "no forecast"
        for forecast in outlook.forecasts.values():
            expected, low, high = _values(view.metric, forecast)
            value = f"{rounded(expected, (high - low) / 2)} {span(low, high)}"
        measured = number_text(outlook.series.mean(outlook.series.largest))
        amount = duration_text(view.seconds[outlook.series.largest])
        shown.append([outlook.series.title or outlook.series.name, f"{measured} ({amount})", value])
    unit = f" ({view.metric.unit})" if view.metric.unit else ""
    narrow = Table(
        ["regime", "measured, largest budget", f"extrapolated to {duration_text(end)}"],
        shown,
        f"Extrapolated: {view.metric.label}{unit} with {100 * LEVEL:.0f} % bands",
    )
    picture = None
    if any(outlook.forecasts for outlook in found):
        alt = f"Extrapolated learning curves: {view.metric.axis}. {' '.join(sentences(view, found, pairs))}"
        slug = f"{identifier(view.name)}_extrapolated"
        picture = Picture(slug, plots.png(figure(view, found)), whole.caption, alt)
    return Panel(sentences(view, found, pairs), picture, Sheet(whole, narrow))


def figure(view: TaskView, found: Sequence[Outlook]) -> plots.Figure:
    """Measured points and lines, and beyond them, on a shaded ground, dashed medians and their bands.

    Series without a forecast show what was measured. Bands end where they are too wide to say anything.
    """
    drawn = plots.Figure(4.4, 3.5 + 0.2 * len(found))
    axes = drawn.subplots()
    seconds = sorted({view.seconds[budget] for outlook in found for budget in outlook.series.points})
    end = max(budget for outlook in found for budget in outlook.forecasts)
    for index, outlook in enumerate(found):
        colour = plots.COLOURS[index % len(plots.COLOURS)]
        style: dict[str, Any] = {"color": colour, "linewidth": 1.6}
        x = [view.seconds[budget] for budget in outlook.series.points]
        y = [outlook.series.mean(budget) for budget in outlook.series.points]
        name = plots.legend_entry(outlook.series.title or outlook.series.name)
        axes.plot(x, y, "os^Dv"[index % 5] + "-", markersize=5, label=name, **style)
        if outlook.fitted is None or not outlook.forecasts:
            continue
        grid = np.geomspace(x[-1], max(outlook.forecasts), 40)
        values = np.array([_values(view.metric, forecast) for forecast in outlook.fitted.band(grid)])
        axes.plot(grid, values[:, 0], "--", **style)
        axes.fill_between(grid, values[:, 1], values[:, 2], color=colour, alpha=0.15, linewidth=0, hatch="///")
    axes.set_xscale("log")
    axes.axvspan(seconds[-1], end * 1.2, color="#f0ece2", zorder=-1)
    axes.axvline(seconds[-1], color="dimgrey", linewidth=0.8, linestyle=":")
    above: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "fontsize": 8, "color": "dimgrey", "va": "bottom"}
    axes.text(seconds[-1], 1.01, "measured ", ha="right", **above)
    axes.text(seconds[-1], 1.01, " extrapolated", ha="left", **above)
    ticks = [seconds[0], seconds[-1], end]
    axes.set_xticks(ticks, [duration_text(tick).replace(" ", "\u00a0") for tick in ticks])
    axes.xaxis.minorticks_off()
    axes.set_xlim(seconds[0] / 1.2, end * 1.2)
    axes.set_xlabel("labelled training audio (log scale)", fontsize=9)
    axes.set_ylabel(view.metric.axis, fontsize=9)
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    drawn.legend(frameon=False, fontsize=9, loc="outside lower center")
    return drawn
