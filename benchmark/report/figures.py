"""Figures of a report: several runs in one. They are as wide as a phone, so that their text is as large as that around
them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmark.errors import BenchmarkError
from benchmark.plots import COLOURS, LINES, Figure, legend_entry

_FONT = 9
"""Points."""
_WIDTH = 4.4
"""Inches."""
_MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
_MORE_COLOURS = [*COLOURS, "#56b4e9", "#e69f00", "#000000"]


@dataclass(frozen=True)
class Points:
    """A line of a figure: means over seeds and their uncertainty."""

    x: Sequence[float]
    y: Sequence[float]
    sd: Sequence[float | None] = ()
    """(point,) standard deviation over seeds: half the band; ``None``: one seed."""
    bars: Sequence[tuple[float, float] | None] = ()
    """(point,) ends of the test set's interval."""
    runs: Sequence[Sequence[float]] = ()
    """(point,) the values of the single seeds."""


def _style(index: int) -> dict[str, Any]:
    """Colour, marker and line style of a line; no two of the first 28 share colour and line style."""
    return {
        "color": _MORE_COLOURS[index % len(_MORE_COLOURS)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "linestyle": LINES[index % len(LINES)],
        "linewidth": 1.6,
        "markersize": 6,
    }


def _plain(axes: Any) -> None:
    axes.tick_params(labelsize=_FONT)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_fontsize(_FONT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _legend(figure: Figure, names: Sequence[str]) -> None:
    if names:
        columns = min(len(names), 2) if max(map(len, names)) <= 20 else 1
        figure.legend(frameon=False, fontsize=_FONT, ncols=columns, loc="outside lower center")


def _entitle(axes: Any, title: str) -> None:
    if title:
        axes.set_title(title, fontsize=10)


def _band(axes: Any, of: Points, style: Mapping[str, Any], x: Sequence[float]) -> None:
    """The band over seeds, single runs as small dots, and the test set's interval as bars with caps."""
    known = [(at, y, sd) for at, y, sd in zip(x, of.y, of.sd, strict=False) if sd is not None]
    if len(known) > 1:
        at, middle, half = map(np.array, zip(*known, strict=True))
        axes.fill_between(at, middle - half, middle + half, color=style["color"], alpha=0.18, linewidth=0)
    for where, values in zip(x, of.runs, strict=False):
        if len(values) > 1:
            axes.plot([where] * len(values), values, ".", color=style["color"], markersize=3.5, alpha=0.8)
    for where, y, bar in zip(x, of.y, of.bars, strict=False):
        if bar is not None:
            ends = [[max(0.0, y - bar[0])], [max(0.0, bar[1] - y)]]
            axes.errorbar([where], [y], yerr=ends, fmt="none", ecolor=style["color"], elinewidth=1, capsize=4)


def learning_curves(curves: Mapping[str, Points], ticks: Mapping[float, str], ylabel: str, title: str = "") -> Figure:
    """A metric over label budgets, on a logarithmic axis and only between budgets that were run.

    Lines are shifted slightly against each other (by up to 3 % of the axis) to keep their bars distinguishable.

    Args:
        curves: by name; ``x`` in the unit of ``ticks``.
        ticks: budget -> its label.
        ylabel: metric, unit and direction.
        title: above the axes.

    Raises:
        BenchmarkError: no curve, or a budget that is not positive.
    """
    if not curves or not ticks or min(ticks) <= 0:
        raise BenchmarkError("learning curves need at least one curve and budgets above 0")
    figure = Figure(_WIDTH, 3.3 + 0.2 * len(curves))
    axes = figure.subplots()
    span = max(ticks) / min(ticks) if len(ticks) > 1 else 10.0
    step = span ** (0.03 / max(1, len(curves) - 1))
    for index, (name, curve) in enumerate(curves.items()):
        style = _style(index)
        x = [at * step ** (index - (len(curves) - 1) / 2) for at in curve.x]
        _band(axes, curve, style, x)
        axes.plot(x, curve.y, label=legend_entry(name), **style)
    axes.set_xscale("log")
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.tick_params(axis="x", rotation=30 if len(ticks) > 5 else 0)
    axes.xaxis.minorticks_off()
    axes.set_xlim(min(ticks) / span**0.06, max(ticks) * span**0.06)
    axes.set_xlabel("labelled training audio (log scale)")
    axes.set_ylabel(ylabel)
    _entitle(axes, title)
    _plain(axes)
    _legend(figure, list(curves))
    return figure


def systems(points: Mapping[str, Points], xlabel: str, title: str = "") -> Figure:
    """The metric of several systems at one label budget, the first system on top.

    Args:
        points: by name; one point each.
        xlabel: metric, unit and direction.
        title: above the axes.

    Raises:
        BenchmarkError: no system.
    """
    if not points:
        raise BenchmarkError("a figure of systems needs at least one")
    figure = Figure(_WIDTH, 1.0 + 0.42 * len(points))
    axes = figure.subplots()
    for index, of in enumerate(points.values()):
        style = {key: value for key, value in _style(index).items() if key != "linestyle"}
        for x, bar in zip(of.y, of.bars, strict=False):
            if bar is not None:
                ends = [[max(0.0, x - bar[0])], [max(0.0, bar[1] - x)]]
                axes.errorbar([x], [index], xerr=ends, fmt="none", ecolor=style["color"], elinewidth=1.2, capsize=4)
        for values in of.runs:
            if len(values) > 1:
                axes.plot(values, [index] * len(values), ".", color=style["color"], markersize=4, alpha=0.8)
        axes.plot(of.y, [index] * len(of.y), linestyle="none", **style)
    axes.set_yticks(range(len(points)), list(points))
    axes.set_ylim(len(points) - 0.5, -0.5)
    axes.set_xlabel(xlabel)
    _entitle(axes, title)
    _plain(axes)
    return figure


def layer_curves(
    curves: Mapping[str, Points], ylabel: str, title: str = "", levels: Mapping[str, float] | None = None
) -> Figure:
    """A metric over the layers of an upstream, each used alone.

    Args:
        curves: by name; ``x`` are layers.
        ylabel: metric, unit and direction.
        title: above the axes.
        levels: name -> value of horizontal lines (the weighted sum of all layers, fine-tuning).

    Raises:
        BenchmarkError: no curve.
    """
    if not curves:
        raise BenchmarkError("layer curves need at least one curve")
    figure = Figure(_WIDTH, 3.3 + 0.2 * (len(curves) + len(levels or {})))
    axes = figure.subplots()
    for index, (name, curve) in enumerate(curves.items()):
        style = _style(index)
        _band(axes, curve, style, curve.x)
        axes.plot(curve.x, curve.y, label=legend_entry(name), **style)
    for index, (name, level) in enumerate((levels or {}).items()):
        axes.axhline(
            level, color="dimgrey", linewidth=1.2, linestyle=LINES[(index + 1) % len(LINES)], label=legend_entry(name)
        )
    states = sorted({int(state) for curve in curves.values() for state in curve.x})
    axes.set_xticks(states[:: max(1, -(-len(states) // 13))])
    axes.set_xlabel("layer (0: before the first block)")
    axes.set_ylabel(ylabel)
    _entitle(axes, title)
    _plain(axes)
    _legend(figure, [*curves, *(levels or {})])
    return figure


def heat_map(rows: Mapping[str, Sequence[float]], title: str, unit: str) -> Figure:
    """Shares of the layers, one row per run: each adds up to 1. Cells show percentages for up to 14 layers.

    Args:
        rows: name -> (layer,) shares; all of one length.
        title: above the axes.
        unit: label of the colour bar, which there is for more layers.

    Raises:
        BenchmarkError: no row, or rows of different lengths.
    """
    if not rows or len({len(row) for row in rows.values()}) != 1:
        raise BenchmarkError(f"a heat map needs rows of one length, got {sorted({len(r) for r in rows.values()})}")
    shares = np.array(list(rows.values()), dtype=np.float64)
    states = shares.shape[1]
    longest = max(map(len, rows))
    width = max(_WIDTH, min(0.3 * states, 5) + 0.07 * longest + 0.9)
    figure = Figure(width, max(1.3 + 0.26 * len(rows), 2.8 if states > 14 else 0.0))
    axes = figure.subplots()
    top = max(float(shares.max()), 2 / states)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=top, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(rows)), list(rows), fontsize=_FONT)
    axes.set_xticks(range(0, states, max(1, -(-states // 13))))
    axes.tick_params(axis="x", labelsize=_FONT)
    if states <= 14:
        for (row, state), share in np.ndenumerate(shares):
            colour = "white" if share > 0.6 * top else "black"
            axes.text(state, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xlabel("layer (0: before the first block)", fontsize=_FONT)
    figure.suptitle(title, fontsize=10)
    if states > 14:
        figure.colorbar(image, ax=axes, pad=0.02, format=lambda share, _: f"{100 * share:.0f} %").set_label(unit)
    return figure


def costs(points: Mapping[str, Mapping[str, Points]], ylabel: str, title: str = "") -> Figure:
    """A metric against several kinds of cost, each on a logarithmic axis of its own; costs of 0 are omitted.

    Args:
        points: kind of cost, with its unit -> line -> points.
        ylabel: metric, unit and direction.
        title: above the axes.

    Raises:
        BenchmarkError: no kind of cost.
    """
    if not points:
        raise BenchmarkError("a figure of costs needs at least one kind of cost")
    rows = -(-len(points) // 2)
    figure = Figure(5.6, 2.5 * rows + 0.9)
    grid = figure.subplots(rows, min(2, len(points)), sharey=True, squeeze=False)
    for index, (axes, (cost, lines)) in enumerate(zip(grid.flat, points.items(), strict=False)):
        for line, (name, of) in enumerate(lines.items()):
            drawn = [(x, y) for x, y in zip(of.x, of.y, strict=True) if x > 0]
            if drawn:
                x, y = zip(*drawn, strict=True)
                axes.plot(x, y, label=None if index else legend_entry(name), **_style(line))
        axes.set_xscale("log")
        _few_ticks(axes, [x for of in lines.values() for x in of.x if x > 0])
        axes.set_xlabel(f"{cost}, log scale")
        _plain(axes)
    for axes in grid.flat[len(points) :]:
        axes.set_visible(False)
    figure.supylabel(ylabel, fontsize=_FONT)
    if title:
        figure.suptitle(title, fontsize=10)
    _legend(figure, list(next(iter(points.values()))))
    return figure


def _few_ticks(axes: Any, values: Sequence[float]) -> None:
    """Up to three ticks in plain numbers: within a decade, logarithmic axes have none by default, or too many."""
    axes.xaxis.minorticks_off()
    if values:
        ticks = sorted({float(f"{tick:.2g}") for tick in np.geomspace(min(values), max(values), 3)})
        axes.set_xticks(ticks, [f"{tick:,g}" if tick < 1e6 else f"{tick:.2g}" for tick in ticks])
        axes.set_xlim(min(values) / 1.3, max(values) * 1.3)
