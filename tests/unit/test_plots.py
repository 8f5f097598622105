"""What is drawn where, and that a PNG file comes out whatever the data."""

from __future__ import annotations

import io
import math
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

from benchmark import plots
from benchmark.errors import BenchmarkError
from benchmark.metrics import det_curve, eer, min_dcf
from benchmark.report import figures

deviate = NormalDist().inv_cdf


def trials(number: int, separation: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(seed)
    labels = np.r_[1, 0, random.randint(0, 2, number - 2)]
    return labels, random.normal(size=number) + separation * labels


def laid_out(figure: Figure) -> Figure:
    """The figure after its layout."""
    FigureCanvasAgg(figure).draw()
    return figure


def pixels(png: bytes) -> tuple[int, ...]:
    return tuple(imread(io.BytesIO(png), format="png").shape[:2])


def test_labels_of_logarithmic_ticks_are_drawn_as_formulas() -> None:
    figure = Figure()
    axes = figure.add_subplot()
    axes.plot([1, 1000], [1, 2], label="a $label$")
    axes.set(xscale="log", title="$5 and $6")
    plots.png(figure)
    ticks = [text for text in axes.get_xticklabels() if "mathdefault" in text.get_text()]
    assert ticks
    assert all(text.get_parse_math() for text in ticks)
    assert not axes.title.get_parse_math()


def test_det_marks_the_numbers_of_the_metrics() -> None:
    labels, scores = trials(2000, 2.0)
    figure = laid_out(plots.det({"test": det_curve(labels, scores)}, "a title", p_target=0.05))
    (axes,) = figure.axes
    _, curve, equal, cost = axes.lines
    rate = eer(labels, scores) / 100
    assert equal.get_xdata()[0] == equal.get_ydata()[0] == pytest.approx(deviate(rate))
    p_miss, p_fa = (NormalDist().cdf(float(data[0])) for data in (cost.get_ydata(), cost.get_xdata()))
    assert (0.05 * p_miss + 0.95 * p_fa) / 0.05 == pytest.approx(min_dcf(labels, scores, 0.05))
    assert curve.get_label() == f"test: EER {100 * rate:.3g} %, minDCF {min_dcf(labels, scores, 0.05):.3g}"
    assert axes.get_title() == "a title"
    for tick in axes.get_xticklabels():
        assert tick.get_position()[0] == pytest.approx(deviate(float(tick.get_text()) / 100))
    assert [t.get_text() for t in axes.get_xticklabels()] == [t.get_text() for t in axes.get_yticklabels()]
    assert axes.get_xlim() == axes.get_ylim()
    # every threshold's rates lie on the line, zeros apart
    whole = det_curve(labels, scores)
    inside = (whole.p_miss > 0) & (whole.p_fa > 0) & (whole.p_miss < 1) & (whole.p_fa < 1)
    x, y = np.asarray(curve.get_xdata()), np.asarray(curve.get_ydata())
    for miss, alarm in zip(whole.p_miss[inside], whole.p_fa[inside], strict=True):
        on = (np.minimum(x[1:], x[:-1]) - 1e-9 <= deviate(alarm)) & (deviate(alarm) <= np.maximum(x[1:], x[:-1]) + 1e-9)
        on &= (np.minimum(y[1:], y[:-1]) - 1e-9 <= deviate(miss)) & (deviate(miss) <= np.maximum(y[1:], y[:-1]) + 1e-9)
        assert on.any()


def test_ties_are_straight_between_rates_not_deviates() -> None:
    """After one of three targets, all others at once: p_miss = 2/3 (1 - p_fa)."""
    figure = laid_out(plots.det({"tie": det_curve([1, 1, 1, 0, 0], [2, 1, 1, 1, 1])}, ""))
    curve = figure.axes[0].lines[1]
    x, y = (
        np.array([NormalDist().cdf(v) for v in np.asarray(data)]) for data in (curve.get_xdata(), curve.get_ydata())
    )
    between = (x > 0.06) & (y > 0.06)  # zeros lie on the edge
    assert between.sum() > 20
    np.testing.assert_allclose(y[between], 2 / 3 * (1 - x[between]), atol=1e-9)


CURVES = {
    "many": det_curve(*trials(20_000, 3.0)),
    "few": det_curve(*trials(12, 1.0)),
    "two": det_curve([1, 0], [1, 0]),
    "perfect": det_curve(*trials(100, 50.0)),
    "reversed": det_curve(*trials(100, -50.0)),
    "chance": det_curve(*trials(300, 0.0)),
    "tied": det_curve([1, 0, 1], [0, 0, 0]),
    "three scores": det_curve([1, 1, 1, 0, 0, 0, 0], [2, 1, 0, 0, 0, 1, 2]),
}


@pytest.mark.parametrize("name", CURVES)
def test_what_is_marked_can_be_seen(name: str) -> None:
    figure = laid_out(plots.det({name: CURVES[name]}, name))
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    assert low < high
    marks = axes.lines[2:]
    assert 1 <= len(marks) <= 2  # no minDCF where rejecting all is best
    for mark in marks:
        shown = [*np.asarray(mark.get_xdata()), *np.asarray(mark.get_ydata())]
        assert np.isfinite(shown).all()
        assert all(low - 1e-6 <= value <= high + 1e-6 for value in shown)
    box = figure.get_window_extent()
    for artist in (axes.title, *figure.legends, axes.yaxis.label, axes.xaxis.label):
        extent = artist.get_window_extent()
        assert box.x0 <= extent.x0 < extent.x1 <= box.x1
        assert box.y0 <= extent.y0 < extent.y1 <= box.y1


def test_det_is_a_png_and_reproducible() -> None:
    four = {name: CURVES[name] for name in ("many", "few", "chance", "tied")}
    png = plots.png(plots.det(four, "four"))
    assert png.startswith(b"\x89PNG")
    height, width = pixels(png)
    assert 600 < width < 1500
    assert 600 < height < 1800
    assert plots.png(plots.det(four, "four")) == png


def test_det_of_580000_trials_is_thinned() -> None:
    curve = det_curve(*trials(580_000, 3.0))
    p_miss, p_fa = plots._path(curve)
    assert len(p_miss) < len(curve.p_miss) / 4
    assert (p_miss[0], p_fa[0], p_miss[-1], p_fa[-1]) == (1, 0, 0, 1)


def test_confusion_is_normalised_by_row() -> None:
    matrix = np.array([[3, 1, 0, 0], [0, 0, 0, 0], [2, 0, 2, 4], [0, 0, 0, 0]])
    figure = laid_out(plots.confusion(matrix, ["de", "en", "fi", "tr"], "languages"))
    axes = figure.axes[0]
    # no utterance of en or tr, which come last as they were predicted
    assert [t.get_text() for t in axes.get_yticklabels()] == ["de", "fi"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["de", "fi", "en", "tr"]
    np.testing.assert_allclose(axes.images[0].get_array(), [[75, 0, 25, 0], [25, 25, 0, 50]])
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "75", (2, 0): "25", (0, 1): "25", (1, 1): "25", (3, 1): "50"}


@pytest.mark.parametrize(
    ("classes", "name"), [(2, "l{}"), (12, "l{}"), (13, "Language_{}"), (45, "Lang_{}"), (107, "{}")]
)
def test_confusion_is_readable(classes: int, name: str) -> None:
    matrix = np.ones((classes, classes)) + 30 * np.eye(classes)
    figure = laid_out(plots.confusion(matrix, [name.format(k) for k in range(classes)], "title"))
    axes = figure.axes[0]
    assert bool(axes.texts) == (classes <= 12)
    assert all(6 <= tick.get_fontsize() <= 10 for tick in axes.get_xticklabels())
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        boxes = [tick.get_window_extent() for tick in ticks]
        assert len(boxes) == classes
        assert not any(a.overlaps(b) for a, b in pairwise(boxes)), "labels overlap"
    assert max(figure.get_size_inches()) < 22


def test_confusion_is_a_png() -> None:
    png = plots.png(plots.confusion(np.eye(5, dtype=int), list("abcde"), ""))
    assert png.startswith(b"\x89PNG")
    assert min(pixels(png)) > 400
    assert plots.png(plots.confusion(np.eye(5, dtype=int), list("abcde"), "")) == png


def test_lines_are_distinct_without_colour() -> None:
    curves = {
        f"line {k}": figures.Points([600, 3600], [10.0 - k, 5.0 - k], [1.0, None], [(4.0, 12.0), None])
        for k in range(6)
    }
    figure = laid_out(figures.learning_curves(curves, {600: "10min", 3600: "1h"}, "EER (%)", "title"))
    (axes,) = figure.axes
    lines = [line for line in axes.lines if line.get_label().startswith("line ")]
    assert [line.get_label() for line in lines] == list(curves)
    assert len({(line.get_marker(), line.get_linestyle()) for line in lines}) == 6
    assert axes.get_xscale() == "log"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["10min", "1h"]
    for line in lines:  # moved aside by no more than the legibility of the budget
        assert max(abs(math.log(x / y)) for x, y in zip(line.get_xdata(), (600, 3600), strict=True)) < 0.03 * math.log(
            6
        )


def test_bars_and_bands_lie_where_they_should() -> None:
    points = figures.Points([0, 1], [10.0, 5.0], [2.0, 1.0], [(7.0, 14.0), (4.5, 5.5)], [[8.0, 12.0], [4.0, 6.0]])
    figure = laid_out(figures.layer_curves({"a": points}, "EER (%)", "title", {"all": 3.0}))
    (axes,) = figure.axes
    band, *bars = axes.collections
    assert [sorted(set(path[:, 1])) for path in (band.get_paths()[0].vertices,)] == [[4.0, 6.0, 8.0, 12.0]]
    ends = [tuple(segment[:, 1]) for bar in bars for segment in bar.get_segments()]
    assert ends == [(7.0, 14.0), (4.5, 5.5)]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.learning_curves({}, {}, "", ""),
        lambda: figures.learning_curves({"a": figures.Points([0], [1])}, {0: "0"}, "", ""),
        lambda: figures.layer_curves({}, "", ""),
        lambda: figures.heat_map({}, "", ""),
        lambda: figures.heat_map({"a": [1.0], "b": [0.5, 0.5]}, "", ""),
        lambda: figures.costs({}, "", ""),
        lambda: figures.systems({}, ""),
    ],
)
def test_figures_of_nothing_are_refused(draw: Callable[[], Figure]) -> None:
    with pytest.raises(BenchmarkError):
        draw()


def test_systems_stand_under_each_other_with_their_intervals() -> None:
    points = {
        "first": figures.Points([600], [10.0], [1.0], [(7.0, 14.0)], [[9.0, 11.0]]),
        "second, with a long name": figures.Points([600], [5.0], [None], [None], [[5.0]]),
    }
    figure = laid_out(figures.systems(points, "EER (%), lower is better"))
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == list(points)
    low, high = axes.get_ylim()
    assert low > high  # the first on top
    (bar,) = axes.collections
    assert bar.get_segments()[0].tolist() == [[7.0, 0.0], [14.0, 0.0]]
    box = figure.get_window_extent()
    for label in (*axes.get_yticklabels(), axes.xaxis.label):
        extent = label.get_window_extent()
        assert box.x0 <= extent.x0 < extent.x1 <= box.x1


@pytest.mark.parametrize("states", [7, 25])
def test_heat_maps_fit_their_figure(states: int) -> None:
    rows = {f"Speaker verification, fine-tuning, {k} min": [1 / states] * states for k in range(2)}
    figure = laid_out(figures.heat_map(rows, "wav2vec 2.0 tiny: share of each layer", "share of the summed feature"))
    assert len(figure.axes) == (1 if states <= 14 else 2)
    box = figure.get_window_extent()
    for axes in figure.axes:
        labels = [label for label in (*axes.get_yticklabels(), axes.xaxis.label, axes.yaxis.label) if label.get_text()]
        for extent in (label.get_window_extent() for label in labels):
            assert box.x0 - 1 <= extent.x0
            assert extent.x1 <= box.x1 + 1
            assert box.y0 - 1 <= extent.y0
            assert extent.y1 <= box.y1 + 1


def test_figures_of_little_are_drawn() -> None:
    point = figures.Points([600], [5.0], [None], [None], [[5.0]])
    for figure in (
        figures.learning_curves({"a": point}, {600: "10min"}, "", ""),
        figures.layer_curves({"a": point}, "", ""),
        figures.heat_map({"a": [1 / 25] * 25}, "", ""),
        figures.costs({"updates": {"a": point}, "free": {"a": figures.Points([0.0], [5.0])}}, "", ""),
    ):
        assert plots.png(figure).startswith(b"\x89PNG")


def test_refusals() -> None:
    with pytest.raises(BenchmarkError, match="at least one curve"):
        plots.det({}, "")
    with pytest.raises(BenchmarkError, match=r"2 classes must be square, got \(2, 3\)"):
        plots.confusion(np.ones((2, 3)), ["a", "b"], "")
    for matrix in (np.zeros((2, 2)), -np.ones((2, 2)), np.full((2, 2), np.nan)):
        with pytest.raises(BenchmarkError, match="must hold counts"):
            plots.confusion(matrix, ["a", "b"], "")


def test_figures_belong_to_no_backend_and_are_shown_in_notebooks() -> None:
    code = (
        "import sys\n"
        "from benchmark.report import figures\n"
        "figure = figures.heat_map({'a': [0.5, 0.5]}, '', '')\n"
        "assert figure._repr_png_().startswith(b'\\x89PNG')\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_figures_are_drawn_in_any_thread() -> None:
    pngs: list[bytes] = []

    def draw() -> None:
        pngs.append(plots.png(figures.heat_map({"a": [0.5, 0.5]}, "", "")))

    threads = [threading.Thread(target=draw) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    draw()
    assert len(pngs) == 3
    assert len(set(pngs)) == 1
