"""What the page shows of one task unfolded: its learning curves, and its single layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmark import plots
from benchmark import statistics as stats
from benchmark.report import figures
from benchmark.report.collect import Run
from benchmark.report.compare import Bootstrap, TaskView
from benchmark.report.parts import Picture, Sheet, ends, estimate, identifier, sources
from benchmark.report.sentences import amount, duration_text
from benchmark.tables import Table, Value, number_text

BANDS = (
    "Bars: 95 % intervals over test sets with other speakers (or utterances). Bands: ± 1 standard deviation over "
    "seeds; dots: the seeds. These are different uncertainties; neither contains the other. Overlapping bars do not "
    "mean that there is no difference: that takes a paired comparison."
)


def _points(x: Sequence[float], groups: Sequence[Sequence[Run]], bootstrap: Bootstrap) -> figures.Points:
    """A point for each group of runs, which differ in their seeds."""
    spreads = [stats.seed_spread([run.value for run in runs]) for runs in groups]
    intervals = [bootstrap.summary(runs)[0] for runs in groups]
    return figures.Points(
        x=x,
        y=[spread.mean for spread in spreads],
        sd=[spread.sd for spread in spreads],
        bars=[None if interval is None else (interval.low, interval.high) for interval in intervals],
        runs=[[run.value for run in runs] for runs in groups],
    )


def over_budgets(view: TaskView) -> list[Run]:
    """The runs on all layers, which the learning curves are of."""
    return [run for run in view.runs if run.cell.layer is None]


# --- What a page begins with ------------------------------------------------------------------------------------------


def overview(view: TaskView, bootstrap: Bootstrap) -> Picture | None:
    """Learning curves with their intervals; with one budget, the systems under each other; else single layers."""
    slug = identifier(view.name)
    if not view.series:
        return layer_picture(view, bootstrap)
    curves = {
        series.title: _points(
            [view.seconds[budget] for budget in series.points],
            [list(runs.values()) for runs in series.points.values()],
            bootstrap,
        )
        for series in view.series
    }
    own = {view.seconds[budget]: budget for series in view.series for budget in series.points}
    caption = f"{BANDS} {sources(over_budgets(view))}"
    if len(own) == 1:
        ((_, budget),) = own.items()
        figure = figures.systems(curves, view.metric.axis)
        alt = f"{view.metric.axis}, with {amount(view, budget)} of labels. {_in_words(view, curves)}"
        return Picture(f"{slug}_systems", plots.png(figure), caption, alt)
    ticks = {seconds: amount(view, budget).replace(" (", "\n").rstrip(")") for seconds, budget in sorted(own.items())}
    figure = figures.learning_curves(curves, ticks, view.metric.axis)
    alt = f"Learning curves: {view.metric.axis}, over label budgets. {_in_words(view, curves)}"
    return Picture(f"{slug}_curves", plots.png(figure), caption, alt)


def _in_words(view: TaskView, curves: Mapping[str, figures.Points]) -> str:
    unit = f" {view.metric.unit}" if view.metric.unit else ""
    parts = []
    for name, curve in curves.items():
        points = (f"{number_text(y)}{unit} with {duration_text(x)}" for x, y in zip(curve.x, curve.y, strict=True))
        parts.append(f"{name}: {', '.join(points)}")
    return "; ".join(parts) + "."


def layer_picture(view: TaskView, bootstrap: Bootstrap) -> Picture | None:
    """The metric of single layers beside that of all of them, weighted."""
    if not view.layers:
        return None
    curves = {
        name: _points(sorted(layers), [list(layers[layer].values()) for layer in sorted(layers)], bootstrap)
        for name, layers in _named_layers(view).items()
    }
    wanted = {(upstream, budget) for upstream, _, budget in view.layers}
    levels = {
        f"{series.title}, all layers": series.mean(budget)
        for series in view.series
        for budget in series.points
        if (series.upstream, budget) in wanted
    }
    levels = dict(list(levels.items())[:4])
    figure = figures.layer_curves(curves, view.metric.axis, levels=levels)
    unit = f" {view.metric.unit}" if view.metric.unit else ""
    values = "; ".join(
        f"{name}: {', '.join(f'layer {x:.0f} {number_text(y)}{unit}' for x, y in zip(of.x, of.y, strict=True))}"
        for name, of in curves.items()
    )
    beside = "".join(f"; {name}: {number_text(level)}{unit}" for name, level in levels.items())
    caption = f"One layer at a time; horizontal: all layers. {BANDS} {sources(_layer_runs(view))}"
    alt = f"Single layers: {view.metric.axis}. {values}{beside}."
    return Picture(f"{identifier(view.name)}_layers", plots.png(figure), caption, alt)


def _named_layers(view: TaskView) -> dict[str, dict[int, dict[int, Run]]]:
    """Named by what differs between them: upstream, regime, budget."""
    several = [len({key[part] for key in view.layers}) > 1 for part in range(3)]
    named = {}
    for key, layers in view.layers.items():
        upstream, regime, budget = key
        titles = [view.titles.get(upstream, upstream), view.titles.get(regime, regime), f"budget {budget}"]
        parts = [title for title, differs in zip(titles, several, strict=True) if differs]
        named[", ".join(parts) or "single layers"] = layers
    return named


def _layer_runs(view: TaskView) -> list[Run]:
    return [run for layers in view.layers.values() for seeds in layers.values() for run in seeds.values()]


def layer_table(view: TaskView, bootstrap: Bootstrap) -> Sheet | None:
    """Every single layer."""
    if not view.layers:
        return None
    rows: list[list[Value]] = []
    cells: dict[str, dict[int, str]] = {}
    for name, (key, layers) in zip(_named_layers(view), view.layers.items(), strict=True):
        for layer in sorted(layers):
            runs = list(layers[layer].values())
            spread = stats.seed_spread([run.value for run in runs])
            low, high = ends(bootstrap.summary(runs)[0])
            rows.append([*key, layer, spread.n, spread.mean, spread.sd, low, high])
            cells.setdefault(name, {})[layer] = estimate(spread.mean, low, high)
    columns = ["upstream", "regime", "budget", "layer", "seeds", f"test {view.metric.label}", "SD", "95 % from", "to"]
    slug = f"{identifier(view.name)}_layers"
    whole = Table(columns, rows, f"{view.name}: single layers.", sources(_layer_runs(view)), slug)
    shown: list[list[Value]] = [
        [str(layer), *(of.get(layer) for of in cells.values())]
        for layer in sorted({layer for of in cells.values() for layer in of})
    ]
    names = list(cells) if len(cells) > 1 else [test_label(view)]
    title = f"{test_label(view)} of single layers, with 95 % intervals over the test set"
    return Sheet(whole, Table(["layer", *names], shown, title))


def test_label(view: TaskView) -> str:
    """The metric on test, with its unit."""
    return f"test {view.metric.label}{f' ({view.metric.unit})' if view.metric.unit else ''}"
