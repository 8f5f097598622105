"""Tables and figures of all tasks."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from benchmark import plots
from benchmark.report import figures
from benchmark.report.collect import Gathered, Run
from benchmark.report.compare import TaskView
from benchmark.report.details import shown_runs
from benchmark.report.parts import Picture, Sheet, estimate, identifier, rounded, sources
from benchmark.report.sentences import amount, interval_text, verdict
from benchmark.tables import Table, Value, number_text

_MOST_ROWS = 30


def weights(views: Sequence[TaskView]) -> tuple[list[Picture], list[Table]]:
    """Heat maps of layer weights over tasks and regimes, one per upstream; and a table."""
    groups: dict[str, dict[str, list[Run]]] = {}
    titles: dict[str, str] = {}
    rows: list[list[Value]] = []
    for view in views:
        for series in view.series:
            titles[series.upstream] = series.upstream_title
            for budget, of in series.points.items():
                runs = [run for run in of.values() if run.result["layer_weights"]]
                if runs:
                    name = f"{view.title}, {series.regime_title}, {budget}"
                    groups.setdefault(series.upstream, {})[name] = runs
                for run in runs:
                    shares = zip(run.result["layer_weights"], run.result["layer_shares"], strict=True)
                    known = [series.upstream, view.name, series.regime, budget, str(run.cell.seed)]
                    rows += [[*known, layer, *both] for layer, both in enumerate(shares)]
    largest = {view.name: shown_runs(view)[0] for view in views}
    pictures = []
    for upstream, named in groups.items():
        if len(named) > _MOST_ROWS:
            named = {name: runs for name, runs in named.items() if runs[0].cell.budget == largest[runs[0].cell.task]}
        every = [run for runs in named.values() for run in runs]
        for key, what in (("layer_weights", "softmax weight"), ("layer_shares", "share of the summed feature")):
            means = {name: np.mean([run.result[key] for run in runs], axis=0).tolist() for name, runs in named.items()}
            title = f"{titles[upstream]}: {what} of each layer"
            caption = (
                f"{what.capitalize()} of each layer in percent, mean over seeds; one row per task, regime, budget. "
            )
            if key == "layer_shares":
                caption += "Layers with a large norm count for more than their weight suggests. "
            picture = plots.png(figures.heat_map(means, title, what))
            tops = "; ".join(f"{name}: layer {int(np.argmax(of))}, {100 * max(of):.0f} %" for name, of in means.items())
            alt = f"{title}, in percent. Largest: {tops}."
            pictures.append(Picture(f"{key}_{identifier(upstream)}", picture, caption + sources(every), alt))
    columns = ["upstream", "task", "regime", "budget", "seed", "layer", "weight", "share"]
    title = "Layer weights of all selected runs."
    return pictures, [Table(columns, rows, title, name="layer_weights")] if rows else []


def glance(views: Sequence[TaskView]) -> Sheet | None:
    """All comparisons at the largest budget, one per line."""
    rows: list[list[Value]] = []
    shown: list[list[Value]] = []
    for view in views:
        for contrast in view.contrasts:
            if not contrast.differences:
                continue
            budget, of = list(contrast.differences.items())[-1]
            interval, (one, other) = of.test_set, contrast.values(budget)
            metric = view.metric.axis.partition(",")[0]
            rows.append(
                [
                    view.name, metric, budget, contrast.first.name, one, contrast.second.name, other, of.seeds.mean,
                    "none" if interval is None else interval_text(interval), verdict(of, view.metric), of.seeds.sd,
                    of.seeds.n, contrast.multiplier,
                ]
            )  # fmt: skip
            half = None if interval is None else (interval.high - interval.low) / 2
            low, high = (None, None) if interval is None else (interval.low, interval.high)
            shown.append(
                [
                    view.title, f"{contrast.second.title} against {contrast.first.title}", amount(view, budget),
                    f"{metric} {rounded(other, half)} against {rounded(one, half)}",
                    estimate(of.seeds.mean, low, high, sign=True), verdict(of, view.metric),
                    None if contrast.multiplier is None else rounded(contrast.multiplier, contrast.multiplier),
                ]
            )  # fmt: skip
    if not rows:
        return None
    columns = [
        "task", "metric", "budget", "baseline", "its value", "regime", "its value", "difference", "95 % over test set",
        "verdict", "SD over seeds", "seeds", "label multiplier",
    ]  # fmt: skip
    runs = [run for view in views for run in view.runs]
    whole = Table(columns, rows, "At a glance: each regime against the baseline.", sources(runs), "glance")
    columns = ["task", "comparison", "labels", "test", "difference [95\u00a0%]", "verdict", "label multiplier"]
    return Sheet(whole, Table(columns, shown, "With the most labels that both have"))


def targets(gathered: Gathered, views: Sequence[TaskView]) -> Sheet | None:
    """The published results that recipes name, beside those measured here."""
    rows: list[list[Value]] = []
    shown: list[list[Value]] = []
    known = {view.name: view for view in views}
    seen = set()
    for study in gathered.studies.values():
        for task, of in study.tasks.items():
            view = known.get(task)
            ours = title = "none"
            if view is not None and view.series:
                values = [(s, s.largest, number_text(s.mean(s.largest))) for s in view.series]
                ours = f"{view.metric.label} {'; '.join(f'{s.name}, {budget}: {v}' for s, budget, v in values)}"
                title = f"{view.metric.label} {'; '.join(f'{s.title}, {budget}: {v}' for s, budget, v in values)}"
            for name, value in of.targets.items():
                if name == "source" or (task, name) in seen:
                    continue
                seen.add((task, name))
                text = value if isinstance(value, str | int | float) else json.dumps(value)
                source = str(of.targets.get("source", ""))
                rows.append([task, name, text, ours, source])
                shown.append([gathered.title("tasks", task), name, text, title, source])
    if not rows:
        return None
    caption = "As named in the recipe; their settings may differ from those here."
    if gathered.synthetic:
        caption += " The results here are on synthetic speech and cannot be compared with them."
    columns = ["task", "published result", "value", "measured here, largest budget", "source"]
    whole = Table(columns, rows, "Published results.", caption, "targets")
    return Sheet(whole, Table(columns, shown, caption))


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
