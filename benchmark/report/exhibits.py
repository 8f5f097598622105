"""What a report shows: its tables (HTML, CSV, LaTeX) and its figures, of one task and of all."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from benchmark.data import budget as budgets
from benchmark import metrics, plots
from benchmark import statistics as stats
from benchmark.errors import BenchmarkError
from benchmark.report.findings import (
    Bootstrap,
    Gathered,
    Run,
    Series,
    TaskView,
    det_curve,
    duration_text,
    interval_text,
    normalised_areas,
    number_text,
    plural,
    read_confusion,
    verdict,
)

# --- Kinds ------------------------------------------------------------------------------------------------------------

Value = str | int | float | None


@dataclass(frozen=True)
class Table:
    """On the page, as CSV (full precision) and as LaTeX (booktabs)."""

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    caption: str = ""
    """How it was made: settings, seeds, commit."""

    def html(self) -> str:
        """In a box that scrolls by itself."""
        head = "".join(
            f'<th scope="col" class="{"number" if numeric else "text"}">{escape(column)}</th>'
            for column, numeric in zip(self.columns, self._numeric(), strict=True)
        )
        body = "".join(f"<tr>{''.join(map(self._cell, row))}</tr>" for row in self.rows)
        return (
            f'<figure class="table"><figcaption><b>{escape(self.title)}</b> {escape(self.caption)}</figcaption>'
            f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(self.title)}">'
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></figure>"
        )

    def _numeric(self) -> list[bool]:
        return [all(not isinstance(row[i], str) for row in self.rows) for i in range(len(self.columns))]

    @staticmethod
    def _cell(value: Value) -> str:
        kind = "number" if not isinstance(value, str) else "long" if len(value) > 30 else "text"
        return f'<td class="{kind}">{escape(_shown(value))}</td>'

    def csv(self) -> str:
        """Comma-separated, with a header; nothing for what is not known."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(["" if value is None else value for value in row] for row in self.rows)
        return text.getvalue()

    def latex(self) -> str:
        """A table environment."""
        lines = [
            r"% \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(f'{self.title} {self.caption}'.strip())}}}",
            rf"\begin{{tabular}}{{{''.join('r' if right else 'l' for right in self._numeric())}}}",
            r"\toprule",
            " & ".join(map(_tex, self.columns)) + r" \\",
            r"\midrule",
            *(" & ".join(_tex(_shown(value)) for value in row) + r" \\" for row in self.rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"


def _shown(value: Value) -> str:
    if value is None:
        return "–"
    return number_text(value) if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value


_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "×": r"$\times$"}
_TEX |= {sign: rf"\{sign}" for sign in "&%$#_{}"} | {"<": "$<$", ">": "$>$", "±": r"$\pm$", "−": "$-$", "≤": r"$\le$"}


def _tex(text: str) -> str:
    return "".join(_TEX.get(sign, sign) for sign in text)


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


def _made_of(runs: Sequence[Run]) -> str:
    """What a figure or table was made of: upstreams, regimes, budgets, seeds, search, protocol, commit."""

    def listed(values: Iterable[Any]) -> str:
        return ", ".join(map(str, dict.fromkeys(values)))

    protocols = listed(f"{r.cell.task} v{r.result['downstream']['protocol_version']}" for r in runs)
    searched = {len(run.outcome["tried"]) for run in runs if run.outcome}
    tried = "/".join(map(str, sorted(searched)))
    search = f" Best of {tried} candidates a cell on dev." if searched - {1} else ""
    return (
        f"Upstream {listed(r.cell.upstream for r in runs)}; {protocols}; budgets "
        f"{listed(r.cell.budget for r in runs)}; seeds {listed(sorted({r.cell.seed for r in runs}))}; commit "
        f"{listed(run.commit for run in runs)}.{search}"
    )


def identifier(text: str) -> str:
    """Of ASCII letters, digits and ``_``: for files' names and sections' ids."""
    return re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")


# --- One task ---------------------------------------------------------------------------------------------------------


def _points(view: TaskView, series: Series, bootstrap: Bootstrap) -> plots.Points:
    spreads = [stats.seed_spread([run.value for run in of.values()]) for of in series.points.values()]
    intervals = [bootstrap.summary(list(of.values()))[0] for of in series.points.values()]
    return plots.Points(
        x=[view.seconds[budget] for budget in series.points],
        y=[spread.mean for spread in spreads],
        sd=[spread.sd for spread in spreads],
        bars=[None if interval is None else (interval.low, interval.high) for interval in intervals],
        runs=[[run.value for run in of.values()] for of in series.points.values()],
    )


_BANDS = (
    "Bands: ± 1 standard deviation over seeds (dots: the seeds); bars: 95 % interval over the test set, clustered "
    "bootstrap. The two are different uncertainties and do not contain each other. Bars that overlap do not mean that "
    "there is no difference: that takes a paired comparison."
)


def task_section(view: TaskView, bootstrap: Bootstrap, notices: list[str]) -> list[Table | Picture]:
    """Figures and tables of one task."""
    found: list[Table | Picture] = []
    slug, runs = identifier(view.name), view.runs
    title = f"{view.name}: {view.metric.label}"
    if view.series:
        curves = {series.name: _points(view, series, bootstrap) for series in view.series}
        ticks = {}
        for budget, seconds in view.seconds.items():
            if any(budget in series.points for series in view.series):
                timed = all(part.unit == "s" for part in budgets.parse(budget)) and budget != "all"
                ticks[seconds] = budget if timed else f"{budget}\n{duration_text(seconds)}"
        own = [run for run in runs if run.cell.state is None]
        png = plots.learning_curves(curves, ticks, view.metric.axis, title)
        caption = f"Learning curves. {_BANDS} {_made_of(own)}"
        found.append(Picture(f"{slug}_curves", png, caption, f"{title} over label budgets"))
        found += [_results_table(view, slug, bootstrap), _efficiency_table(view, slug)]
    if view.contrasts:
        found.append(_differences_table(view, slug))
    found += _layers(view, slug, bootstrap)
    found += _detection(view, slug, notices)
    found += _confusions(view, slug, notices)
    if view.series:
        found.append(_costs(view, slug, title))
    return found


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
    caption = "Means over seeds; the interval is over the test set. " + _made_of(
        [r for r in view.runs if r.cell.state is None]
    )
    return Table(f"{slug}_results", f"{view.name}: results.", columns, rows, caption)


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
        cost = [run.result["cost"] for run in series.points[series.largest].values()]

        def average(name: str, cost: Sequence[Mapping[str, Any]] = cost) -> float:
            return float(np.mean([one[name] for one in cost]))

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
    what = f"{view.metric.ceiling:g} − {view.metric.label}" if view.metric.higher else view.metric.label
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
        f". Baseline: {base or 'none'}. Multiplier: labels that the baseline needs over those that the regime needs, "
        "for the same error. Nothing is extrapolated. Costs are of the chosen runs alone; a search costs about as many "
        "times that as it has candidates. " + _made_of([r for r in view.runs if r.cell.state is None])
    )
    return Table(f"{slug}_efficiency", f"{view.name}: sample efficiency and cost.", columns, rows, caption)


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
        "difference", "budget", "seeds", f"{view.metric.label}", "test set: 95 % from", "to", "SD over seeds",
        "seeds: 95 % from", "to", "P(improvement)", "verdict",
    ]  # fmt: skip
    caption = (
        f"{view.metric.axis}. Paired by seed and by the drawn clusters of the test set. P(improvement): share of the "
        "bootstrap's draws in which the first named is better. "
        + _made_of([r for r in view.runs if r.cell.state is None])
    )
    return Table(f"{slug}_differences", f"{view.name}: paired differences.", columns, rows, caption)


def _layers(view: TaskView, slug: str, bootstrap: Bootstrap) -> list[Table | Picture]:
    if not view.probes:
        return []
    several = {part: len({key[part] for key in view.probes}) > 1 for part in range(3)}
    curves: dict[str, plots.Points] = {}
    rows: list[list[Value]] = []
    for key, states in view.probes.items():
        parts = [key[part] for part in range(3) if several[part]]
        name = ", ".join(f"budget {text}" if text == key[2] else text for text in parts) or key[1]
        order = sorted(states)
        spreads = [stats.seed_spread([run.value for run in states[state].values()]) for state in order]
        intervals = [bootstrap.summary(list(states[state].values()))[0] for state in order]
        curves[name] = plots.Points(
            order,
            [spread.mean for spread in spreads],
            [spread.sd for spread in spreads],
            [None if one is None else (one.low, one.high) for one in intervals],
            [[run.value for run in states[state].values()] for state in order],
        )
        for state, spread, interval in zip(order, spreads, intervals, strict=True):
            rows.append([*key, state, spread.n, spread.mean, spread.sd, *_ends(interval)])
    wanted = {(upstream, budget) for upstream, _, budget in view.probes}
    levels = {
        f"{series.name}, all states": series.mean(budget)
        for series in view.series
        for budget in series.points
        if (series.upstream, budget) in wanted
    }
    runs = [run for states in view.probes.values() for seeds in states.values() for run in seeds.values()]
    title = f"{view.name}: {view.metric.label} of single states"
    png = plots.layer_curves(curves, view.metric.axis, title, dict(list(levels.items())[:4]))
    caption = f"One state at a time; horizontal: all states, weighted. {_BANDS} {_made_of(runs)}"
    columns = ["upstream", "regime", "budget", "state", "seeds", f"test {view.metric.label}", "SD", "95 % from", "to"]
    return [
        Picture(f"{slug}_layers", png, caption, title),
        Table(f"{slug}_layers", f"{view.name}: single states.", columns, rows, _made_of(runs)),
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
    seeds = [set(of) for of in shown.values()]
    common = sorted(set.intersection(*seeds)) if seeds else []
    if not common:
        return []
    curves: dict[str, metrics.DetCurve] = {}
    used = []
    for name, of in list(shown.items())[:_MOST_LINES]:
        run = of[common[0]]
        try:
            curve = det_curve(run.folder)
        except (OSError, ValueError, LookupError, TypeError, BenchmarkError) as error:
            notices.append(f"{run.folder}: no DET curve ({error}).")
            continue
        if curve is not None:
            curves[name] = curve
            used.append(run)
    if not curves:
        return []
    left_out = len(shown) - len(curves)
    caption = (
        f"Detection error trade-off, budget {budget}, seed {common[0]} (curves of several seeds cannot be averaged). "
        + (f"{plural(left_out, 'regime')} left out. " if left_out else "")
        + _made_of(used)
    )
    title = f"{view.name}, budget {budget}, seed {common[0]}"
    return [Picture(f"{slug}_det", plots.det(curves, title), caption, f"DET curves: {title}")]


def _confusions(view: TaskView, slug: str, notices: list[str]) -> list[Picture]:
    budget, shown = _shown_runs(view)
    found = []
    for name, of in shown.items():
        runs = [run for run in of.values() if (run.folder / "confusion.csv").exists()]
        if not runs:
            continue
        try:
            matrices = [read_confusion(run.folder / "confusion.csv") for run in runs]
        except (ValueError, BenchmarkError) as error:
            notices.append(f"{view.name}, {name}: no confusion matrix ({error}).")
            continue
        classes = matrices[0][0]
        if any(names != classes for names, _ in matrices):
            notices.append(f"{view.name}, {name}: the seeds' classes differ, so that there is no confusion matrix.")
            continue
        title = f"{view.name}, {name}, budget {budget}"
        png = plots.confusion(sum(matrix for _, matrix in matrices), classes, title)
        caption = f"Confusions, summed over {plural(len(runs), 'seed')}; rows in percent. {_made_of(runs)}"
        found.append(Picture(f"{slug}_confusion_{identifier(name)}", png, caption, f"Confusion matrix: {title}"))
    return found


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
                [float(np.mean([r.result["cost"][name] for r in of.values()])) / unit for of in series.points.values()],
                [series.mean(budget) for budget in series.points],
            )
            for series in view.series
        }
    own = [run for run in view.runs if run.cell.state is None]
    devices = ", ".join(dict.fromkeys(run.result["provenance"]["device"] for run in own))
    caption = (
        f"Against cost: a point a budget, means over seeds, of the chosen runs (device: {devices}). {_made_of(own)}"
    )
    return Picture(
        f"{slug}_cost", plots.costs(points, view.metric.axis, f"{title} against cost"), caption, f"{title} against cost"
    )


# --- All tasks --------------------------------------------------------------------------------------------------------

_MOST_ROWS = 30


def weights(views: Sequence[TaskView]) -> tuple[list[Picture], list[Table]]:
    """Heat maps of layer weights over tasks and regimes, an upstream each, frozen beside fine-tuned; and a table."""
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
                    rows += [[*known, state, *both] for state, both in enumerate(shares)]
    largest = {view.name: _shown_runs(view)[0] for view in views}
    pictures = []
    for upstream, named in groups.items():
        if len(named) > _MOST_ROWS:
            named = {name: runs for name, runs in named.items() if runs[0].cell.budget == largest[runs[0].cell.task]}
        every = [run for runs in named.values() for run in runs]
        for key, what in (("layer_weights", "softmax weight"), ("layer_shares", "share of the summed feature")):
            means = {name: np.mean([run.result[key] for run in runs], axis=0).tolist() for name, runs in named.items()}
            title = f"{upstream}: {what} of each state"
            caption = (
                f"{what.capitalize()} of each state, in percent, mean over seeds; a row a task, regime and budget. "
            )
            if key == "layer_shares":
                caption += "States of a large norm count for more than their weight says. "
            picture = plots.heat_map(means, title, what)
            pictures.append(Picture(f"{key}_{identifier(upstream)}", picture, caption + _made_of(every), title))
    columns = ["upstream", "task", "regime", "budget", "seed", "state", "weight", "share"]
    title = "Layer weights of every chosen run."
    return pictures, [Table("layer_weights", title, columns, rows)] if rows else []


def glance(views: Sequence[TaskView]) -> Table | None:
    """All comparisons at the largest budget, in a line each."""
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
    return Table("glance", "At a glance: each regime against the baseline.", columns, rows, _made_of(runs))


def targets(found: Gathered, views: Sequence[TaskView]) -> Table | None:
    """The recipes' published results beside those measured here."""
    rows: list[list[Value]] = []
    known = {view.name: view for view in views}
    seen = set()
    for study in found.studies.values():
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
    caption = "The recipe names them; settings of theirs may differ from those here."
    if found.synthetic:
        caption += " Results here are on synthetic speech, which they cannot be held against."
    columns = ["task", "published result", "value", "measured here, largest budget", "source"]
    return Table("targets", "Published results.", columns, rows, caption)


def every_run(found: Gathered) -> Table:
    """All chosen runs with all their metrics and costs."""
    names = list(dict.fromkeys(
        f"{of}: {metric}"
        for run in found.runs.values()
        for of, values in run.result["metrics"].items()
        for metric in values
    ))  # fmt: skip
    costs = list(next(iter(found.runs.values())).result["cost"])
    rows: list[list[Value]] = []
    for run in found.runs.values():
        cell, made = run.cell, run.result["provenance"]
        values = {f"{of}: {key}": value for of, them in run.result["metrics"].items() for key, value in them.items()}
        rows.append(
            [
                cell.upstream, cell.task, cell.regime, None if cell.state is None else str(cell.state), cell.budget,
                str(cell.seed), str(run.outcome.get("chosen", "")), run.result["selected"]["step"],
                *(values.get(name) for name in names), *(run.result["cost"][name] for name in costs),
                run.result["data"]["train"]["utterances"], run.result["data"]["train"]["seconds"],
                run.result["data"]["train"]["digest"], run.commit, made["device"], made["started"],
            ]
        )  # fmt: skip
    columns = [
        "upstream", "task", "regime", "state", "budget", "seed", "chosen", "update", *names, *costs, "train utterances",
        "train seconds", "train digest", "commit", "device", "started",
    ]  # fmt: skip
    return Table("runs", "Every chosen run.", columns, rows, "All metrics of all evaluation sets.")
