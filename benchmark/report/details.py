"""Tables and figures of one task that the page folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmark import metrics, plots
from benchmark import statistics as stats
from benchmark.errors import BenchmarkError
from benchmark.evaluation import Classes, Items, Trials, det_curve, read_items
from benchmark.report import figures
from benchmark.report.collect import Run
from benchmark.report.compare import Bootstrap, Difference, TaskView, normalised_areas
from benchmark.report.exhibits import over_budgets, test_label
from benchmark.report.parts import Picture, Sheet, ends, estimate, identifier, rounded, sources
from benchmark.report.sentences import amount, duration_text, verdict
from benchmark.tables import Table, Value, number_text, plural


def detail(view: TaskView, bootstrap: Bootstrap, notices: list[str]) -> list[Table | Sheet | Picture]:
    """Everything else about a task."""
    parts: list[Table | Sheet | Picture] = []
    slug = identifier(view.name)
    if view.series:
        parts += [_results(view, slug, bootstrap), *_other_metrics(view, slug, bootstrap)]
    if view.contrasts:
        parts.append(_differences(view, slug))
    if view.series:
        parts += [*_efficiency(view, slug), *_reliability(view, slug, bootstrap)]
    parts += _detection(view, slug, notices)
    parts += _confusions(view, slug, notices)
    if view.series:
        parts.append(_costs(view, slug))
    return parts


def _results(view: TaskView, slug: str, bootstrap: Bootstrap) -> Sheet:
    rows: list[list[Value]] = []
    shown: list[list[Value]] = []
    for series in view.series:
        for budget, of in series.points.items():
            spread = stats.seed_spread([run.value for run in of.values()])
            interval, why = bootstrap.summary(list(of.values()))
            dev = float(np.mean([run.result["selected"]["value"] for run in of.values()]))
            low, high = ends(interval)
            over = why if interval is None else f"{interval.clusters} {why}"
            rows.append(
                [
                    series.name,
                    budget,
                    view.seconds[budget] / 3600,
                    spread.n,
                    dev,
                    spread.mean,
                    spread.sd,
                    low,
                    high,
                    over,
                ]
            )
            doubt = ": too few" if interval is not None and interval.too_few else ""
            shown.append(
                [series.title, amount(view, budget), estimate(spread.mean, low, high), _sd(spread), spread.n,
                 number_text(dev), over + doubt]
            )  # fmt: skip
    unit = f" ({view.metric.unit})" if view.metric.unit else ""
    columns = [
        "regime", "budget", "labels (h)", "seeds", f"dev{unit}", f"test {view.metric.label}{unit}", "SD over seeds",
        "95 % from", "to", "interval over",
    ]  # fmt: skip
    caption = f"Means over seeds; the interval is over the test set. {sources(over_budgets(view))}"
    whole = Table(columns, rows, f"{view.name}: results.", caption, f"{slug}_results")
    columns = ["system", "labels", f"{test_label(view)} [95\u00a0%]", "SD over seeds", "seeds", "dev", "interval over"]
    return Sheet(whole, Table(columns, shown, "Results, means over seeds"))


def _sd(spread: stats.SeedSpread) -> str | None:
    return None if spread.sd is None else rounded(spread.sd, spread.sd)


def _other_metrics(view: TaskView, slug: str, bootstrap: Bootstrap) -> list[Sheet]:
    """The metrics that select nothing, each with its interval."""
    rows: list[list[Value]] = []
    shown: list[list[Value]] = []
    for series in view.series:
        for budget, of in series.points.items():
            runs = list(of.values())
            for name in runs[0].result["metrics"]["test"]:
                values = [run.result["metrics"]["test"].get(name) for run in runs]
                if name == runs[0].metric or any(value is None for value in values):
                    continue
                spread = stats.seed_spread([float(value) for value in values if value is not None])
                interval, why = bootstrap.summary(runs, name)
                low, high = ends(interval)
                over = why if interval is None else f"{interval.clusters} {why}"
                rows.append([series.name, budget, name, spread.n, spread.mean, spread.sd, low, high, over])
                declared = metrics.METRICS.get(name)
                label = (
                    name if declared is None else f"{declared.label} {declared.unit and f'({declared.unit})'}".strip()
                )
                if budget == series.largest:
                    cells: list[Value] = [label, series.title, estimate(spread.mean, low, high), _sd(spread)]
                    shown.append([*cells, amount(view, budget)])
    if not rows:
        return []
    columns = ["regime", "budget", "metric", "seeds", "test", "SD over seeds", "95 % from", "to", "interval over"]
    caption = f"Means over seeds; the intervals are over the test set. {sources(over_budgets(view))}"
    whole = Table(columns, rows, f"{view.name}: other metrics.", caption, f"{slug}_metrics")
    columns = ["metric", "system", "test [95\u00a0%]", "SD over seeds", "labels"]
    shown.sort(key=lambda row: str(row[0]))
    return [Sheet(whole, Table(columns, shown, "Other metrics with the most labels, means over seeds"))]


def _differences(view: TaskView, slug: str) -> Sheet:
    rows: list[list[Value]] = []
    shown: list[list[Value]] = []
    for contrast in view.contrasts:
        for budget, of in contrast.differences.items():
            low, high = ends(of.test_set)
            rows.append(
                [
                    f"{contrast.second.name} − {contrast.first.name}", budget, of.seeds.n, of.seeds.mean, low, high,
                    of.seeds.sd, of.seeds.low, of.seeds.high, of.improvement, verdict(of, view.metric),
                ]
            )  # fmt: skip
            shown.append(
                [
                    f"{contrast.second.title} − {contrast.first.title}", amount(view, budget),
                    estimate(of.seeds.mean, low, high, sign=True), _sd(of.seeds), _chance(of),
                    verdict(of, view.metric),
                ]
            )  # fmt: skip
    columns = [
        "difference", "budget", "seeds", view.metric.label, "test set: 95 % from", "to", "SD over seeds",
        "seeds: 95 % from", "to", "P(improvement)", "verdict",
    ]  # fmt: skip
    caption = (
        f"{view.metric.axis}. Paired by seed and by the clusters of the test set. P(improvement): that the one named "
        f"first is better, over other test sets. {sources(over_budgets(view))}"
    )
    whole = Table(columns, rows, f"{view.name}: paired differences.", caption, f"{slug}_differences")
    unit = " (points)" if view.metric.unit else ""
    columns = [
        "difference", "labels", f"{view.metric.label}{unit} [95\u00a0%]", "SD over seeds", "P(improvement)", "verdict",
    ]  # fmt: skip
    return Sheet(whole, Table(columns, shown, f"Paired differences; {view.metric.axis.rpartition(', ')[2]}"))


def _chance(of: Difference) -> str | None:
    """A probability, which is never written as certainty."""
    if of.improvement is None:
        return None
    return "< 0.01" if of.improvement < 0.01 else "> 0.99" if of.improvement > 0.99 else f"{of.improvement:.2f}"


def _efficiency(view: TaskView, slug: str) -> list[Sheet | Table]:
    areas = normalised_areas(view)
    own = [contrast for contrast in view.contrasts if contrast.first.upstream == contrast.second.upstream]
    contrasts = {contrast.second.name: contrast for contrast in own}
    rows: list[list[Value]] = []
    shown: list[list[Value]] = []
    costs: list[list[Value]] = []
    for series in view.series:
        mean, seeds, _ = areas.get(series.name, (None, [], (0.0, 0.0)))
        sd = stats.seed_spread(seeds).sd if seeds else None
        contrast = contrasts.get(series.name)
        needed: Value = None
        crossing: Value = None
        multiplier = None if contrast is None else contrast.multiplier
        if contrast is not None and contrast.target is not None:
            target = contrast.target
            length = duration_text(target.budget or 0)
            needed = "not reached" if not target.reached else f"≤ {length}" if target.at_smallest else length
            crossing = ", ".join(duration_text(one.budget) for one in contrast.crossovers) or "none"
        average = partial(_mean_cost, series.points[series.largest])
        spent: list[Value] = [
            round(average("updates")), average("audio_seconds_seen") / 3600, average("upstream_audio_seconds") / 3600,
            average("wall_seconds") / 60, average("trainable_parameters") / 1e6,
        ]  # fmt: skip
        rows.append([series.name, mean, sd, needed, multiplier, crossing, series.largest, *spent])
        shown.append([series.title, mean, sd, needed, multiplier, crossing])
        costs.append([series.title, amount(view, series.largest), *spent])
    efficiency = [
        "ALC", "SD over seeds", "labels for the baseline's best", "label multiplier", "crossover",
    ]  # fmt: skip
    spending = [
        "updates", "audio trained on (h)", "audio through the upstream (h)", "wall time (min)",
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
    base = ", ".join(dict.fromkeys(contrast.first.title for contrast in own))
    caption += (
        f". Baseline: {base or 'none'}. Multiplier: labels that the baseline needs, over those that the regime needs, "
        "for the same error. Nothing is extrapolated. Costs are of the selected runs only; a search multiplies them by "
        f"about the number of its candidates. {sources(over_budgets(view))}"
    )
    columns = ["regime", *efficiency, "cost at budget", *spending]
    whole = Table(columns, rows, f"{view.name}: sample efficiency and cost.", caption, f"{slug}_efficiency")
    return [
        Sheet(whole, Table(["system", *efficiency], shown, "Sample efficiency")),
        Table(["system", "labels", *spending], costs, "Cost with the most labels, means over seeds"),
    ]


def _mean_cost(runs: Mapping[int, Run], name: str) -> float:
    """Mean over the runs; the updates include those before fine-tuning."""
    costs = [run.result["cost"] for run in runs.values()]
    more = [cost.get("probe_updates", 0) if name == "updates" else 0 for cost in costs]
    return float(np.mean([cost[name] for cost in costs]) + np.mean(more))


def _reliability(view: TaskView, slug: str, bootstrap: Bootstrap) -> list[Sheet]:
    """How many speakers each interval rests on."""
    found: list[tuple[str, str, str, stats.Interval]] = [
        (series.name, series.title, budget, interval)
        for series in view.series
        for budget, of in series.points.items()
        if (interval := bootstrap.summary(list(of.values()))[0]) is not None
    ]
    for contrast in view.contrasts:
        first, second = contrast.first, contrast.second
        found += [
            (f"{second.name} − {first.name}", f"{second.title} − {first.title}", budget, of.test_set)
            for budget, of in contrast.differences.items()
            if of.test_set is not None
        ]
    if not found:
        return []
    rows: list[list[Value]] = []
    shown: list[list[Value]] = []
    for name, title, budget, of in found:
        rows.append(
            [name, budget, of.clusters, of.effective_clusters, of.top_cluster, of.top_share,
             "yes" if of.too_few else "no", of.method]
        )  # fmt: skip
        effective = None if of.effective_clusters is None else rounded(of.effective_clusters, of.effective_clusters)
        top = None if of.top_share is None else f"{of.top_cluster} ({100 * of.top_share:.0f} %)"
        shown.append([title, amount(view, budget), of.clusters, effective, top, "yes" if of.too_few else "no"])
    columns = ["interval of", "budget", "clusters", "effective clusters", "most influential", "its share", "too few",
               "method"]  # fmt: skip
    notes = list(dict.fromkeys(note for _, _, _, of in found for note in of.notes))
    caption = (
        "Effective number: as many clusters (speakers, or utterances) of equal influence would give as wide an "
        "interval. Share: of the variance that the most influential one accounts for. Too few: the error could be more "
        f"than three times what was measured. {' '.join(notes)} {sources(over_budgets(view))}"
    )
    whole = Table(columns, rows, f"{view.name}: what the intervals rest on.", caption, f"{slug}_intervals")
    columns = ["interval of", "labels", "clusters", "effective number", "most influential (share)", "too few"]
    return [Sheet(whole, Table(columns, shown, "What the intervals rest on"))]


_MOST_LINES = 4


def shown_runs(view: TaskView) -> tuple[str, dict[str, dict[int, Run]]]:
    """The largest budget that most series of the first upstream have, and series -> seed -> run there."""
    if not view.series:
        return "", {}
    foremost = [series for series in view.series if series.upstream == view.series[0].upstream]
    count = {budget: sum(budget in series.points for series in foremost) for budget in view.seconds}
    budget = max(view.seconds, key=lambda name: (count[name], view.seconds[name]))
    return budget, {series.title: series.points[budget] for series in view.series if budget in series.points}


def _detection(view: TaskView, slug: str, notices: list[str]) -> list[Picture]:
    """DET curves of verification trials."""
    budget, shown = shown_runs(view)
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
            curve = det_curve(items) if isinstance(items, Trials) else None
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
        + (f"{plural(omitted, 'system')} omitted. " if omitted else "")
        + sources(used)
    )
    title = f"{view.title}, {amount(view, budget)}, seed {common[0]}"
    eers = ", ".join(f"{name} {number_text(metrics.eer_of(curve))} %" for name, curve in curves.items())
    alt = f"DET curves, misses over false alarms: {title}. EER of {eers}."
    return [Picture(f"{slug}_det", plots.png(plots.det(curves, title)), caption, alt)]


def _items(run: Run) -> Items | None:
    about = run.about()
    return None if about is None else read_items(run.folder, about)


_MOST_CLASSES = 200
"""Of a confusion matrix that can be read."""


def _confusions(view: TaskView, slug: str, notices: list[str]) -> list[Picture]:
    """Confusion matrices of runs that kept their log-posteriors."""
    budget, shown = shown_runs(view)
    names = {series.title: series.name for series in view.series}
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
        matrix = sum(summed)
        title = f"{view.title}, {name}, {amount(view, budget)}"
        picture = plots.png(plots.confusion(matrix, classes, title))
        caption = f"Confusions, summed over {plural(len(used), 'seed')}; rows in percent. {sources(used)}"
        alt = f"Confusion matrix: {title}. {_worst_confusion(matrix, classes)}"
        pictures.append(Picture(f"{slug}_confusion_{identifier(names[name])}", picture, caption, alt))
    return pictures


def _worst_confusion(matrix: Any, classes: Sequence[str]) -> str:
    counts = np.asarray(matrix, dtype=np.float64)
    right = 100 * float(np.trace(counts)) / max(1.0, float(counts.sum()))
    wrong = counts - np.diag(np.diag(counts))
    text = f"{number_text(right)} % of the utterances lie on the diagonal"
    if wrong.max() > 0:
        row, column = np.unravel_index(int(wrong.argmax()), wrong.shape)
        text += f"; the most frequent confusion is {classes[int(row)]} taken for {classes[int(column)]}"
    return text + "."


_COSTS = {
    "updates": ("updates", 1.0),
    "audio trained on (h)": ("audio_seconds_seen", 3600.0),
    "wall time (min)": ("wall_seconds", 60.0),
    "trained parameters (M)": ("trainable_parameters", 1e6),
}


def _costs(view: TaskView, slug: str) -> Picture:
    points: dict[str, dict[str, figures.Points]] = {}
    for label, (name, unit) in _COSTS.items():
        points[label] = {
            series.title: figures.Points(
                [_mean_cost(of, name) / unit for of in series.points.values()],
                [series.mean(budget) for budget in series.points],
            )
            for series in view.series
        }
    own = over_budgets(view)
    devices = ", ".join(dict.fromkeys(run.result["provenance"]["device"] for run in own))
    caption = f"One point per budget: means over seeds, of the selected runs (device: {devices}). {sources(own)}"
    alt = f"{view.title}: {view.metric.axis}, against {', '.join(_COSTS)}. The table of costs has the numbers."
    return Picture(f"{slug}_cost", plots.png(figures.costs(points, view.metric.axis)), caption, alt)
