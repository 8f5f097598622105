"""What a report shows: its tables and figures, of one task and of all."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

import numpy as np

from benchmark import metrics, plots
from benchmark import statistics as stats
from benchmark.data import budget as budgets
from benchmark.errors import BenchmarkError
from benchmark.evaluation import Classes, Items, det_curve, read_items
from benchmark.report.collect import Gathered, Run
from benchmark.report.compare import Bootstrap, TaskView, normalised_areas
from benchmark.report.sentences import duration_text, interval_text, verdict
from benchmark.tables import Table, Value, number_text, plural


@dataclass(frozen=True)
class Picture:
    """A figure of the page."""

    name: str
    png: bytes
    caption: str
    alt: str

    def html(self) -> str:
        """With the picture inside the page."""
        data = base64.b64encode(self.png).decode()
        return (
            f'<figure><div class="scroll"><img src="data:image/png;base64,{data}" alt="{escape(self.alt)}"></div>'
            f"<figcaption>{escape(self.caption)}</figcaption></figure>"
        )


def _sources(runs: Sequence[Run]) -> str:
    """What a figure or table shows: upstreams, protocols, budgets, seeds, commits, search."""

    def listed(values: Iterable[Any]) -> str:
        return ", ".join(map(str, dict.fromkeys(values)))

    protocols = listed(f"{r.cell.task} v{r.result['downstream']['protocol_version']}" for r in runs)
    searched = {len(run.outcome["tried"]) for run in runs if run.outcome}
    tried = "/".join(map(str, sorted(searched)))
    search = f" Best of {tried} candidates per cell on dev." if searched - {1} else ""
    return (
        f"Upstream {listed(r.cell.upstream for r in runs)}; {protocols}; budgets "
        f"{listed(r.cell.budget for r in runs)}; seeds {listed(sorted({r.cell.seed for r in runs}))}; commit "
        f"{listed(run.commit for run in runs)}.{search}"
    )


def identifier(text: str) -> str:
    """ASCII letters, digits and ``_``, for names of files and ids of sections."""
    return re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")


# --- One task ---------------------------------------------------------------------------------------------------------


def _points(x: Sequence[float], groups: Sequence[Sequence[Run]], bootstrap: Bootstrap) -> plots.Points:
    """A point for each group of runs, which differ in their seeds."""
    spreads = [stats.seed_spread([run.value for run in runs]) for runs in groups]
    intervals = [bootstrap.summary(runs)[0] for runs in groups]
    return plots.Points(
        x=x,
        y=[spread.mean for spread in spreads],
        sd=[spread.sd for spread in spreads],
        bars=[None if interval is None else (interval.low, interval.high) for interval in intervals],
        runs=[[run.value for run in runs] for runs in groups],
    )


_BANDS = (
    "Bands: ± 1 standard deviation over seeds (dots: the seeds); bars: 95 % interval over the test set, by a clustered "
    "bootstrap. These are different uncertainties; neither contains the other. Overlapping bars do not mean that there "
    "is no difference: that takes a paired comparison."
)


def task_section(view: TaskView, bootstrap: Bootstrap, notices: list[str]) -> list[Table | Picture]:
    """Figures and tables of one task."""
    parts: list[Table | Picture] = []
    slug = identifier(view.name)
    title = f"{view.name}: {view.metric.label}"
    if view.series:
        curves = {
            series.name: _points(
                [view.seconds[budget] for budget in series.points],
                [list(runs.values()) for runs in series.points.values()],
                bootstrap,
            )
            for series in view.series
        }
        ticks = {}
        for budget, seconds in view.seconds.items():
            if any(budget in series.points for series in view.series):
                timed = all(part.unit == "s" for part in budgets.parse(budget)) and budget != "all"
                ticks[seconds] = budget if timed else f"{budget}\n{duration_text(seconds)}"
        figure = plots.learning_curves(curves, ticks, view.metric.axis, title)
        caption = f"Learning curves. {_BANDS} {_sources(_over_budgets(view))}"
        parts.append(Picture(f"{slug}_curves", plots.png(figure), caption, f"{title} over label budgets"))
        parts += [_results_table(view, slug, bootstrap), _efficiency_table(view, slug)]
    if view.contrasts:
        parts.append(_differences_table(view, slug))
    parts += _layers(view, slug, bootstrap)
    parts += _detection(view, slug, notices)
    parts += _confusions(view, slug, notices)
    if view.series:
        parts.append(_costs(view, slug, title))
    return parts


def _over_budgets(view: TaskView) -> list[Run]:
    """The runs on all layers, which the learning curves are of."""
    return [run for run in view.runs if run.cell.layer is None]


def _ends(interval: stats.Interval | None) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else (interval.low, interval.high)


def _results_table(view: TaskView, slug: str, bootstrap: Bootstrap) -> Table:
    rows: list[list[Value]] = []
    for series in view.series:
        for budget, of in series.points.items():
            spread = stats.seed_spread([run.value for run in of.values()])
            interval, why = bootstrap.summary(list(of.values()))
            dev = float(np.mean([run.result["selected"]["value"] for run in of.values()]))
            over = why
            if interval is not None:
                over = f"{interval.clusters} {why}" + (" (biased)" if interval.biased else "")
            rows.append(
                [
                    series.name, budget, view.seconds[budget] / 3600, spread.n, dev, spread.mean, spread.sd,
                    *_ends(interval), over,
                ]
            )  # fmt: skip
    unit = f" ({view.metric.unit})" if view.metric.unit else ""
    columns = [
        "regime", "budget", "labels (h)", "seeds", f"dev{unit}", f"test {view.metric.label}{unit}", "SD over seeds",
        "95 % from", "to", "interval over",
    ]  # fmt: skip
    caption = f"Means over seeds; the interval is over the test set. {_sources(_over_budgets(view))}"
    return Table(columns, rows, f"{view.name}: results.", caption, f"{slug}_results")


def _efficiency_table(view: TaskView, slug: str) -> Table:
    areas = normalised_areas(view)
    own = [contrast for contrast in view.contrasts if contrast.first.upstream == contrast.second.upstream]
    contrasts = {contrast.second.name: contrast for contrast in own}
    rows: list[list[Value]] = []
    for series in view.series:
        mean, seeds, _ = areas.get(series.name, (None, [], (0.0, 0.0)))
        sd = stats.seed_spread(seeds).sd if seeds else None
        contrast = contrasts.get(series.name)
        needed: Value = None
        crossing: Value = None
        multiplier = None if contrast is None else contrast.multiplier
        if contrast is not None and contrast.target is not None:
            target = contrast.target
            amount = duration_text(target.budget or 0)
            needed = "not reached" if not target.reached else f"≤ {amount}" if target.at_smallest else amount
            crossing = ", ".join(duration_text(one.budget) for one in contrast.crossovers) or "none"
        average = partial(_mean_cost, series.points[series.largest])
        rows.append(
            [
                series.name, mean, sd, needed, multiplier, crossing, series.largest, round(average("updates")),
                average("audio_seconds_seen") / 3600, average("upstream_audio_seconds") / 3600,
                average("wall_seconds") / 60, average("trainable_parameters") / 1e6,
            ]
        )  # fmt: skip
    columns = [
        "regime", "ALC", "SD over seeds", "labels for the baseline's best", "label multiplier", "crossover",
        "cost at budget", "updates", "audio trained on (h)", "audio through the upstream (h)", "wall time (min)",
        "trained parameters (M)",
    ]  # fmt: skip
    ceiling = view.metric.ceiling or 0.0
    what = f"{ceiling:g} − {view.metric.label}" if view.metric.higher_is_better else view.metric.label
    caption = "ALC: normalised area under the error curve"
    if areas:
        upstream = {series.name: series.upstream for series in view.series}
        ranges = {upstream[name]: tuple(map(duration_text, area[2])) for name, area in areas.items()}
        over = [f"from {low} to {high}" for low, high in ranges.values()]
        if len(set(over)) > 1:
            over = [f"{text} ({name})" for text, name in zip(over, ranges, strict=True)]
        caption += f" ({what}) over log labels {', '.join(dict.fromkeys(over))}, lower is better"
    base = ", ".join(dict.fromkeys(contrast.first.name for contrast in own))
    caption += (
        f". Baseline: {base or 'none'}. Multiplier: labels that the baseline needs, over those that the regime needs, "
        "for the same error. Nothing is extrapolated. Costs are of the selected runs only; a search multiplies them by "
        f"about the number of its candidates. {_sources(_over_budgets(view))}"
    )
    return Table(columns, rows, f"{view.name}: sample efficiency and cost.", caption, f"{slug}_efficiency")


def _mean_cost(runs: Mapping[int, Run], name: str) -> float:
    return float(np.mean([run.result["cost"][name] for run in runs.values()]))


def _differences_table(view: TaskView, slug: str) -> Table:
    rows: list[list[Value]] = []
    for contrast in view.contrasts:
        for budget, of in contrast.differences.items():
            interval = of.test_set
            rows.append(
                [
                    f"{contrast.second.name} − {contrast.first.name}", budget, of.seeds.n, of.seeds.mean,
                    *_ends(interval), of.seeds.sd, of.seeds.low, of.seeds.high,
                    of.improvement, verdict(of, view.metric),
                ]
            )  # fmt: skip
    columns = [
        "difference", "budget", "seeds", view.metric.label, "test set: 95 % from", "to", "SD over seeds",
        "seeds: 95 % from", "to", "P(improvement)", "verdict",
    ]  # fmt: skip
    caption = (
        f"{view.metric.axis}. Paired by seed and by the drawn clusters of the test set. P(improvement): share of the "
        f"bootstrap's draws in which the one named first is better. {_sources(_over_budgets(view))}"
    )
    return Table(columns, rows, f"{view.name}: paired differences.", caption, f"{slug}_differences")


def _layers(view: TaskView, slug: str, bootstrap: Bootstrap) -> list[Table | Picture]:
    if not view.layers:
        return []
    several = {part: len({key[part] for key in view.layers}) > 1 for part in range(3)}
    curves: dict[str, plots.Points] = {}
    rows: list[list[Value]] = []
    for key, layers in view.layers.items():
        parts = [key[part] for part in range(3) if several[part]]
        name = ", ".join(f"budget {text}" if text == key[2] else text for text in parts) or key[1]
        order = sorted(layers)
        curves[name] = _points(order, [list(layers[layer].values()) for layer in order], bootstrap)
        for layer in order:
            runs = list(layers[layer].values())
            spread = stats.seed_spread([run.value for run in runs])
            rows.append([*key, layer, spread.n, spread.mean, spread.sd, *_ends(bootstrap.summary(runs)[0])])
    wanted = {(upstream, budget) for upstream, _, budget in view.layers}
    levels = {
        f"{series.name}, all layers": series.mean(budget)
        for series in view.series
        for budget in series.points
        if (series.upstream, budget) in wanted
    }
    runs = [run for layers in view.layers.values() for seeds in layers.values() for run in seeds.values()]
    title = f"{view.name}: {view.metric.label} of single layers"
    figure = plots.layer_curves(curves, view.metric.axis, title, dict(list(levels.items())[:4]))
    caption = f"One layer at a time; horizontal: all layers, weighted. {_BANDS} {_sources(runs)}"
    columns = ["upstream", "regime", "budget", "layer", "seeds", f"test {view.metric.label}", "SD", "95 % from", "to"]
    return [
        Picture(f"{slug}_layers", plots.png(figure), caption, title),
        Table(columns, rows, f"{view.name}: single layers.", _sources(runs), f"{slug}_layers"),
    ]


_MOST_LINES = 4


def _shown_runs(view: TaskView) -> tuple[str, dict[str, dict[int, Run]]]:
    """The largest budget that most series of the first upstream have, and series -> seed -> run there."""
    if not view.series:
        return "", {}
    foremost = [series for series in view.series if series.upstream == view.series[0].upstream]
    count = {budget: sum(budget in series.points for series in foremost) for budget in view.seconds}
    budget = max(view.seconds, key=lambda name: (count[name], view.seconds[name]))
    return budget, {series.name: series.points[budget] for series in view.series if budget in series.points}


def _detection(view: TaskView, slug: str, notices: list[str]) -> list[Picture]:
    """DET curves of verification trials, or of each class against each other."""
    budget, shown = _shown_runs(view)
    seeds = [set(runs) for runs in shown.values()]
    common = sorted(set.intersection(*seeds)) if seeds else []
    if not common:
        return []
    curves: dict[str, metrics.DetCurve] = {}
    used = []
    for name, runs in list(shown.items())[:_MOST_LINES]:
        run = runs[common[0]]
        try:
            items = _items(run)
            curve = None if items is None else det_curve(items)
        except BenchmarkError as error:
            notices.append(f"{run.folder}: no DET curve ({error}).")
            continue
        if curve is not None:
            curves[name] = curve
            used.append(run)
    if not curves:
        return []
    omitted = len(shown) - len(curves)
    caption = (
        f"Detection error trade-off, budget {budget}, seed {common[0]} (curves of several seeds cannot be averaged). "
        + (f"{plural(omitted, 'regime')} omitted. " if omitted else "")
        + _sources(used)
    )
    title = f"{view.name}, budget {budget}, seed {common[0]}"
    return [Picture(f"{slug}_det", plots.png(plots.det(curves, title)), caption, f"DET curves: {title}")]


def _items(run: Run) -> Items | None:
    about = run.about()
    return None if about is None else read_items(run.folder, about)


_MOST_CLASSES = 200
"""Of a confusion matrix that can be read."""


def _confusions(view: TaskView, slug: str, notices: list[str]) -> list[Picture]:
    """Confusion matrices of runs that kept their log-posteriors."""
    budget, shown = _shown_runs(view)
    pictures = []
    for name, runs in shown.items():
        matrices: dict[tuple[str, ...], list[Any]] = {}
        used = []
        for run in runs.values():
            try:
                items = _items(run)
            except BenchmarkError as error:
                notices.append(f"{run.folder}: no confusion matrix ({error}).")
                continue
            if isinstance(items, Classes) and items.log_posteriors is not None and len(items.names) <= _MOST_CLASSES:
                matrix = metrics.confusion_matrix(items.references, items.predictions, len(items.names))
                matrices.setdefault(tuple(items.names), []).append(matrix)
                used.append(run)
        if len(matrices) > 1:
            notices.append(f"{view.name}, {name}: no confusion matrix, as the classes differ between seeds.")
        if len(matrices) != 1:
            continue
        ((classes, summed),) = matrices.items()
        title = f"{view.name}, {name}, budget {budget}"
        picture = plots.png(plots.confusion(sum(summed), classes, title))
        caption = f"Confusions, summed over {plural(len(used), 'seed')}; rows in percent. {_sources(used)}"
        label = f"Confusion matrix: {title}"
        pictures.append(Picture(f"{slug}_confusion_{identifier(name)}", picture, caption, label))
    return pictures


_COSTS = {
    "updates": ("updates", 1.0),
    "audio trained on (h)": ("audio_seconds_seen", 3600.0),
    "wall time (min)": ("wall_seconds", 60.0),
    "trained parameters (M)": ("trainable_parameters", 1e6),
}


def _costs(view: TaskView, slug: str, title: str) -> Picture:
    points: dict[str, dict[str, plots.Points]] = {}
    for label, (name, unit) in _COSTS.items():
        points[label] = {
            series.name: plots.Points(
                [_mean_cost(of, name) / unit for of in series.points.values()],
                [series.mean(budget) for budget in series.points],
            )
            for series in view.series
        }
    own = _over_budgets(view)
    devices = ", ".join(dict.fromkeys(run.result["provenance"]["device"] for run in own))
    caption = f"One point per budget: means over seeds, of the selected runs (device: {devices}). {_sources(own)}"
    title = f"{title} against cost"
    return Picture(f"{slug}_cost", plots.png(plots.costs(points, view.metric.axis, title)), caption, title)


# --- All tasks --------------------------------------------------------------------------------------------------------

_MOST_ROWS = 30


def weights(views: Sequence[TaskView]) -> tuple[list[Picture], list[Table]]:
    """Heat maps of layer weights over tasks and regimes, one per upstream; and a table."""
    groups: dict[str, dict[str, list[Run]]] = {}
    rows: list[list[Value]] = []
    for view in views:
        for series in view.series:
            for budget, of in series.points.items():
                runs = [run for run in of.values() if run.result["layer_weights"]]
                if runs:
                    groups.setdefault(series.upstream, {})[f"{view.name}, {series.regime}, {budget}"] = runs
                for run in runs:
                    shares = zip(run.result["layer_weights"], run.result["layer_shares"], strict=True)
                    known = [series.upstream, view.name, series.regime, budget, str(run.cell.seed)]
                    rows += [[*known, layer, *both] for layer, both in enumerate(shares)]
    largest = {view.name: _shown_runs(view)[0] for view in views}
    pictures = []
    for upstream, named in groups.items():
        if len(named) > _MOST_ROWS:
            named = {name: runs for name, runs in named.items() if runs[0].cell.budget == largest[runs[0].cell.task]}
        every = [run for runs in named.values() for run in runs]
        for key, what in (("layer_weights", "softmax weight"), ("layer_shares", "share of the summed feature")):
            means = {name: np.mean([run.result[key] for run in runs], axis=0).tolist() for name, runs in named.items()}
            title = f"{upstream}: {what} of each layer"
            caption = (
                f"{what.capitalize()} of each layer in percent, mean over seeds; one row per task, regime, budget. "
            )
            if key == "layer_shares":
                caption += "Layers with a large norm count for more than their weight suggests. "
            picture = plots.png(plots.heat_map(means, title, what))
            pictures.append(Picture(f"{key}_{identifier(upstream)}", picture, caption + _sources(every), title))
    columns = ["upstream", "task", "regime", "budget", "seed", "layer", "weight", "share"]
    title = "Layer weights of all selected runs."
    return pictures, [Table(columns, rows, title, name="layer_weights")] if rows else []


def glance(views: Sequence[TaskView]) -> Table | None:
    """All comparisons at the largest budget, one per line."""
    rows: list[list[Value]] = []
    for view in views:
        for contrast in view.contrasts:
            if not contrast.differences:
                continue
            budget, of = list(contrast.differences.items())[-1]
            interval, (one, other) = of.test_set, contrast.values(budget)
            rows.append(
                [
                    view.name, view.metric.axis.partition(",")[0], budget, contrast.first.name, one,
                    contrast.second.name, other, of.seeds.mean, "none" if interval is None else interval_text(interval),
                    verdict(of, view.metric), of.seeds.sd, of.seeds.n, contrast.multiplier,
                ]
            )  # fmt: skip
    if not rows:
        return None
    columns = [
        "task", "metric", "budget", "baseline", "its value", "regime", "its value", "difference", "95 % over test set",
        "verdict", "SD over seeds", "seeds", "label multiplier",
    ]  # fmt: skip
    runs = [run for view in views for run in view.runs]
    return Table(columns, rows, "At a glance: each regime against the baseline.", _sources(runs), "glance")


def targets(gathered: Gathered, views: Sequence[TaskView]) -> Table | None:
    """The published results that recipes name, beside those measured here."""
    rows: list[list[Value]] = []
    known = {view.name: view for view in views}
    seen = set()
    for study in gathered.studies.values():
        for task, of in study.tasks.items():
            view = known.get(task)
            ours = "none"
            if view is not None and view.series:
                ours = "; ".join(f"{s.name}, {s.largest}: {number_text(s.mean(s.largest))}" for s in view.series)
                ours = f"{view.metric.label} {ours}"
            for name, value in of.targets.items():
                if name == "source" or (task, name) in seen:
                    continue
                seen.add((task, name))
                shown = value if isinstance(value, str | int | float) else json.dumps(value)
                rows.append([task, name, shown, ours, str(of.targets.get("source", ""))])
    if not rows:
        return None
    caption = "As named in the recipe; their settings may differ from those here."
    if gathered.synthetic:
        caption += " The results here are on synthetic speech and cannot be compared with them."
    columns = ["task", "published result", "value", "measured here, largest budget", "source"]
    return Table(columns, rows, "Published results.", caption, "targets")


def every_run(gathered: Gathered) -> Table:
    """All selected runs with all their metrics and costs."""
    names = list(dict.fromkeys(
        f"{of}: {metric}"
        for run in gathered.runs.values()
        for of, values in run.result["metrics"].items()
        for metric in values
    ))  # fmt: skip
    costs = list(next(iter(gathered.runs.values())).result["cost"])
    rows: list[list[Value]] = []
    for run in gathered.runs.values():
        cell, made, train = run.cell, run.result["provenance"], run.result["data"]["train"]
        values = {f"{of}: {key}": value for of, them in run.result["metrics"].items() for key, value in them.items()}
        rows.append(
            [
                cell.upstream, cell.task, cell.regime, None if cell.layer is None else str(cell.layer), cell.budget,
                str(cell.seed), str(run.outcome.get("chosen", "")), run.result["selected"]["step"],
                *(values.get(name) for name in names), *(run.result["cost"][name] for name in costs),
                train["utterances"], train["seconds"], train["digest"], run.commit, made["device"], made["started"],
            ]
        )  # fmt: skip
    columns = [
        "upstream", "task", "regime", "layer", "budget", "seed", "chosen", "update", *names, *costs, "train utterances",
        "train seconds", "train digest", "commit", "device", "started",
    ]  # fmt: skip
    return Table(columns, rows, "All selected runs.", "All metrics of all evaluation sets.", "runs")
