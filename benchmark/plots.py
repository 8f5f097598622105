"""Figures. Each function returns a matplotlib figure that belongs to no window and no backend, so that they work in
notebooks and in any thread; :func:`png` renders one."""

from __future__ import annotations

import functools
import io
import logging
import os
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

try:
    import matplotlib.figure
except ValueError:  # $MPLBACKEND names one that is not installed here: a notebook's, inherited by a command it started
    os.environ.pop("MPLBACKEND", None)
    for module in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        del sys.modules[module]  # half imported
    import matplotlib.figure
import numpy as np
from matplotlib import font_manager
from matplotlib.colors import PowerNorm
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter
from numpy.typing import ArrayLike, NDArray

from benchmark.errors import BenchmarkError, shorten
from benchmark.metrics import DetCurve, eer_of

log = logging.getLogger("wavbench")

_LONGEST = 60
"""Characters of a label that a confusion matrix shows."""


class Figure(matplotlib.figure.Figure):
    """A figure that notebooks show."""

    def __init__(self, width: float, height: float) -> None:
        super().__init__(figsize=(width, height), layout="constrained")

    def _repr_png_(self) -> bytes:
        return png(self)


def png(figure: matplotlib.figure.Figure) -> bytes:
    """The figure as a PNG file: the same bytes for the same data.

    All text is drawn as it stands (``$`` begins no formula), in whatever installed fonts have its characters.
    """
    formulas = {
        id(label)
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for formatter, ticks in (
            (axis.get_major_formatter(), axis.get_major_ticks()),
            (axis.get_minor_formatter(), axis.get_minor_ticks()),
        )
        if isinstance(formatter, LogFormatter)
        for tick in ticks
        for label in (tick.label1, tick.label2)
    }
    texts = [text for text in figure.findobj(Text) if id(text) not in formulas]
    families, absent = fonts(text.get_text() for text in texts)
    for text in texts:
        text.set_parse_math(False)
        if families and not text.get_text().isascii():
            text.set_fontfamily(families)
    if absent:
        log.warning("no installed font has the characters %s of a figure; %s", shorten(sorted(absent)), _INSTALL)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=150, format="png", metadata={"Software": None})  # without matplotlib's version
    return buffer.getvalue()


_INSTALL = "install one that does (Noto Sans, Noto Sans CJK) and delete matplotlib's font cache to see them"


def fonts(texts: Iterable[str]) -> tuple[list[str], set[str]]:
    """Font families that have the characters of texts between them, the default first; and characters that none has.

    No families: the default suffices.
    """
    absent = {c for text in texts if not text.isascii() for c in text if unicodedata.category(c)[0] not in "CZ"}
    absent -= _characters(font_manager.findfont(font_manager.FontProperties()))
    if not absent:
        return [], set()
    families = list(matplotlib.rcParams["font.family"])
    installed = sorted({(f.name, f.fname) for f in font_manager.fontManager.ttflist if "Last Resort" not in f.name})
    while absent and installed:
        name, path = max(installed, key=lambda font: len(absent & _characters(font[1])))
        if not absent & _characters(path):
            break
        families.append(name)
        absent -= _characters(path)
    return families, absent


@functools.cache
def _characters(font: str) -> frozenset[str]:
    """What a font file can draw."""
    try:
        return frozenset(map(chr, FT2Font(font).get_charmap()))
    except (OSError, RuntimeError):  # bitmaps, and formats that matplotlib does not draw
        return frozenset()


def layer_weights(result: Mapping[str, Any]) -> Figure:
    """Softmax weights of the layers beside their shares of the summed feature's norm.

    Args:
        result: of a run, as in ``result.json``; see ``StateStatistics`` in :mod:`benchmark.engine.featurizer`.

    Raises:
        BenchmarkError: the run used a single layer, or convolutions over them, and has no weights.
    """
    if not result["layer_weights"]:
        raise BenchmarkError("a run on a single layer, or with featurizer.name=hconv, has no layer weights to plot")
    weights: Sequence[float] = result["layer_weights"]
    shares: Sequence[float] = result["layer_shares"]
    norms: Sequence[float] = result["layer_norms"]
    states = range(len(weights))
    figure = Figure(max(6.4, 0.42 * len(weights) + 2), 5.6)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1.3])
    bars = [("softmax weight", weights, "#4c72b0"), ("share of the summed feature's norm", shares, "#dd8452")]
    if keys := result.get("layer_key_weights"):
        bars.insert(0, ("softmax weight of the keys", keys, "#8172b3"))
    width = 0.8 / len(bars)
    for i, (label, heights, colour) in enumerate(bars):
        places = [k + (i - (len(bars) - 1) / 2) * width for k in states]
        top.bar(places, heights, width, label=label, color=colour)
    top.axhline(1 / len(weights), color="grey", linewidth=0.8, linestyle="--", label="uniform")
    top.axhline(0, color="black", linewidth=0.8)
    top.set_ylabel("share")
    figure.legend(frameon=False, fontsize=9, ncols=len(bars) + 1, loc="outside lower center")
    metrics = result["metrics"].get("test", {})
    shown = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    figure.suptitle(
        f"{result['upstream']['name']} × {result['downstream']['name']}, {result['regime']}, seed {result['seed']}\n"
        + textwrap.fill(f"test: {shown}", 95),
        fontsize=10,
    )
    bottom.bar(states, norms, 0.8, color="#8c8c8c")
    bottom.set_ylabel("mean L2 norm")
    bottom.set_xlabel("layer (0: input of the first block; last: output of the encoder)")
    bottom.set_xticks(list(states))
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


_TICKS = np.array([0.01, 0.1, 0.5, 1, 2, 5, 10, 20, 40, 60, 80, 90, 95, 99, 99.9]) / 100
LINES = ["-", "--", "-.", ":"]
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"]
"""Four of Okabe and Ito's, which colour-blind readers can distinguish."""


def legend_entry(name: str) -> str:
    """A name for the legend, which leaves out those that begin with an underscore."""
    return f" {name}" if name.startswith("_") else name


def det(curves: Mapping[str, DetCurve], title: str, p_target: float = 0.01) -> Figure:
    """Detection error trade-off: miss over false-alarm rate on normal-deviate axes.

    Martin et al., The DET curve in assessment of detection task performance, Eurospeech 1997. The axes are equal and
    reach from the first tick below what the trials can resolve (but not below 0.01 %) to beyond each curve's marked
    points. A rate of zero lies on the lower or left edge. No minDCF is marked where rejecting or accepting all is best.

    Args:
        curves: by name, from :func:`benchmark.metrics.det_curve`; at most four are easy to distinguish.
        title: above the axes.
        p_target: prior of the minDCF that is marked and named in the legend; both costs are 1.

    Raises:
        BenchmarkError: no curve.
    """
    if not curves:
        raise BenchmarkError("a DET plot needs at least one curve, got none")
    marks = {name: _marks(curve, p_target) for name, curve in curves.items()}
    rates = np.concatenate([rate for curve in curves.values() for rate in (curve.p_miss, curve.p_fa)])
    resolved = min(0.05, float(rates[rates > 0].min()))
    low = float(_TICKS[max(0, int(np.searchsorted(_TICKS, resolved, "right")) - 1)])
    most = max([0.3, *(rate for equal, _, *costs in marks.values() for rate in (equal, *costs) if rate < 1)])
    high = float(_TICKS[min(len(_TICKS) - 1, int(np.searchsorted(_TICKS, most + 0.03, "right")))])
    zero = low if resolved >= low else 1e-9  # on the edge, unless the axes are cut off above it

    def deviate(rate: ArrayLike) -> NDArray[np.float64]:
        clipped = np.clip(np.where(np.asarray(rate) > 0, rate, zero), 1e-9, 1 - 1e-9)
        values, inverse = np.unique(clipped, return_inverse=True)
        return np.array([NormalDist().inv_cdf(value) for value in values])[inverse]

    figure = Figure(5.2, 5.8 + 0.2 * len(curves))
    axes = figure.subplots()
    ends = deviate([low, high])
    axes.plot(ends, ends, color="grey", linewidth=0.7, linestyle=":")
    for index, (name, curve) in enumerate(curves.items()):
        colour, style = COLOURS[index % len(COLOURS)], LINES[index % len(LINES)]
        equal, cost, miss, alarm = marks[name]
        label = f"{name}: EER {100 * equal:.3g} %, minDCF {cost:.3g}"
        p_miss, p_fa = _path(curve)
        axes.plot(deviate(p_fa), deviate(p_miss), style, color=colour, linewidth=1.6, label=legend_entry(label))
        point: dict[str, Any] = {"color": colour, "linestyle": "none", "clip_on": False, "zorder": 5}
        at = np.clip(deviate([equal, alarm, miss]), *ends)
        axes.plot(at[0], at[0], marker="o", markersize=6, **point)
        if max(miss, alarm) < 1:
            axes.plot(at[1], at[2], marker="D", markersize=7, fillstyle="none", **point)
    ticks = _TICKS[(low <= _TICKS) & (high >= _TICKS)]
    names = [f"{100 * tick:g}" for tick in ticks]
    axes.set_xticks(deviate(ticks), names)
    axes.set_yticks(deviate(ticks), names)
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    axes.set_aspect("equal")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("false alarms (%)")
    axes.set_ylabel("misses (%)")
    axes.set_title(title, fontsize=10)
    key = f"filled: EER; diamond: minDCF at P(target) = {p_target:g}"
    figure.legend(frameon=False, fontsize=9, title=key, title_fontsize=9, loc="outside lower center")
    return figure


def _marks(curve: DetCurve, p_target: float) -> tuple[float, float, float, float]:
    """Equal error rate, minimum detection cost, and the miss and false-alarm rate where it is reached."""
    costs = (p_target * curve.p_miss + (1 - p_target) * curve.p_fa) / min(p_target, 1 - p_target)
    best = int(np.argmin(costs))
    return eer_of(curve) / 100, float(costs[best]), float(curve.p_miss[best]), float(curve.p_fa[best])


def _path(curve: DetCurve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Miss and false-alarm rates to draw a curve by: points within a run along one axis left out, slanted steps (equal
    scores) filled in, since what is straight between rates is not between their deviates."""
    miss, alarm = np.diff(curve.p_miss), np.diff(curve.p_fa)
    straight = ((miss[1:] == 0) & (miss[:-1] == 0)) | ((alarm[1:] == 0) & (alarm[:-1] == 0))
    corners = np.flatnonzero(np.concatenate([[True], ~straight, [True]]))
    p_miss, p_fa = curve.p_miss[corners], curve.p_fa[corners]
    slanted = (np.abs(np.diff(p_miss)) > 0.002) & (np.diff(p_fa) > 0.002)  # at most 500 such steps
    at = np.unique(
        np.concatenate([np.arange(len(corners)), *(k + np.linspace(0, 1, 65) for k in np.flatnonzero(slanted))])
    )
    index = np.arange(len(corners))
    return np.interp(at, index, p_miss), np.interp(at, index, p_fa)


_MOST_NUMBERED = 12
"""Up to this many classes, cells show numbers."""


def confusion(matrix: ArrayLike, labels: Sequence[str], title: str) -> Figure:
    """Confusion matrix, each row in percent of its utterances.

    Shades follow the square root, which keeps rare errors visible. Rows without utterances are omitted; columns are the
    classes of the rows, in the same order, then any others that were predicted.

    Args:
        matrix: (reference, prediction) counts.
        labels: (class,) names, in the matrix's order. One that no installed font can draw is shown by its number.
        title: above the axes.

    Raises:
        BenchmarkError: the matrix is not square, does not match the labels, or is negative or empty.
    """
    counts = np.asarray(matrix, dtype=np.float64)
    if counts.shape != (len(labels), len(labels)):
        raise BenchmarkError(f"a confusion matrix of {len(labels)} classes must be square, got {counts.shape}")
    if not counts.size or not np.all(counts >= 0) or not counts.any():
        raise BenchmarkError("a confusion matrix must hold counts, of at least one utterance")
    rows = np.flatnonzero(counts.sum(1)).tolist()
    columns = rows + np.setdiff1d(np.flatnonzero(counts.sum(0)), rows).tolist()
    percent = 100 * counts[np.ix_(rows, columns)] / counts[rows].sum(1, keepdims=True)

    shown = [label if len(label) <= _LONGEST else f"{label[: _LONGEST - 1]}…" for label in labels]
    _, absent = fonts(labels[index] for index in columns)
    if numbered := [index for index in columns if absent & set(labels[index])]:
        for index in numbered:
            shown[index] = f"#{index + 1}"
        log.warning(
            "no installed font has the characters of %d labels (%s): the figure shows #n for the nth class of the "
            "confusion matrix's .csv; %s", len(numbered), shorten(labels[index] for index in numbered), _INSTALL,
        )  # fmt: skip

    most = max(len(rows), len(columns))
    cell = float(np.clip(14 / most, 0.15, 0.62))  # inches
    font = float(np.clip(60 * cell, 6, 10))  # points; 72 would fill the cell
    longest = max(len(shown[index]) for index in columns)
    margin = 1.0 + 0.009 * font * longest  # tick labels, axis name
    size = (max(4.4, cell * len(columns) + margin + 1.1), max(3.6, cell * len(rows) + margin + 0.7))
    figure = Figure(*size)
    axes = figure.subplots()
    image = axes.imshow(percent, norm=PowerNorm(0.5, 0, 100), cmap="Blues", aspect="equal", interpolation="nearest")
    axes.set_xticks(range(len(columns)), [shown[index] for index in columns], fontsize=font)
    axes.set_yticks(range(len(rows)), [shown[index] for index in rows], fontsize=font)
    if most > _MOST_NUMBERED or longest > 4:
        axes.tick_params(axis="x", rotation=90)
    axes.set_xlabel("predicted")
    axes.set_ylabel("reference")
    axes.set_title(title, fontsize=10)
    if most <= _MOST_NUMBERED:
        for (row, column), value in np.ndenumerate(percent):
            shade = "white" if value > 36 else "black"
            if value > 0:
                axes.text(column, row, f"{value:.3g}", ha="center", va="center", fontsize=font - 1, color=shade)
    else:  # lines that guide the eye to the tick labels
        axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="#e4e4e4", linewidth=0.4)
        axes.tick_params(which="minor", length=0)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=30, pad=0.02, ticks=[0, 1, 5, 10, 20, 40, 60, 80, 100])
    bar.set_label("% of the reference's utterances")
    return figure
