"""Comparisons between the runs of studies: learning curves, differences with intervals, label multipliers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmark import metrics
from benchmark import statistics as stats
from benchmark.calibration import SUFFIX
from benchmark.data import budget as budgets
from benchmark.errors import BenchmarkError
from benchmark.evaluation import Classes, read_items
from benchmark.metrics import Metric
from benchmark.report.collect import Gathered, Run, declaration


def statistic(run: Run, metric_name: str | None = None) -> tuple[stats.Statistic | None, str]:
    """A metric of the run (default: the one that selected it) over its test set, and what the clusters are.

    ``None`` where there is none, and why not.
    """
    name = metric_name or run.metric
    try:
        about = run.about()
        if about is None:
            return None, "the run does not say what its metrics are computed from"
        metric = metrics.METRICS.get(name)
        if metric is None:
            return None, f"the metric '{name}' is not declared in this process (--plugin)"
        items = read_items(run.folder, about)
        made = stats.of(items, {name: metric})
    except BenchmarkError as error:
        return None, str(error)
    value, reported = made.values()[name], run.result["metrics"]["test"].get(name)
    if not math.isfinite(value):
        lacking = "the run's test set does not determine it"
        if name.endswith(SUFFIX):
            lacking = "the run has no calibration"
        elif reported is not None and isinstance(items, Classes) and items.log_posteriors is None:
            lacking = f"{items.file} of the run has no log-posteriors"
        return None, f"no value of '{name}': {lacking}"
    if reported is not None and not math.isclose(value, reported, rel_tol=1e-3, abs_tol=1e-3):
        return None, f"the run's files give {value:.5g}, its result {reported:.5g}"
    noun, space, remark = about.cluster.partition(" ")
    return made, f"{noun}s{space}{remark}"


@dataclass(eq=False)
class Series:
    """One upstream in one regime over the budgets of one kind, on one task."""

    upstream: str
    regime: str
    kind: str
    """Of its budgets; '' where each is all of the data."""
    name: str
    """In legends and tables."""
    points: dict[str, dict[int, Run]]
    """Budget -> seed -> run, smallest budget first."""
    title: str = ""
    """The name, of the titles that the recipe gives its upstream and regime."""
    upstream_title: str = ""
    regime_title: str = ""

    @property
    def plain(self) -> str:
        """The name without the kind of budgets."""
        return self.name.removesuffix(f", {self.kind}")

    @property
    def largest(self) -> str:
        """The largest budget."""
        return list(self.points)[-1]

    def mean(self, budget: str) -> float:
        """The metric on test, over seeds."""
        return float(np.mean([run.value for run in self.points[budget].values()]))


@dataclass
class Difference:
    """The metric of two series at one budget, second - first, over the seeds that both have."""

    budget: str
    seeds: stats.SeedSpread
    test_set: stats.Interval | None
    improvement: float | None
    """Probability of improvement; see :class:`benchmark.statistics.Comparison`."""
    why: str
    """What the clusters are; or why there is no interval."""


@dataclass
class Contrast:
    """Two series over their budgets."""

    first: Series
    second: Series
    differences: dict[str, Difference]
    target: stats.Target | None
    """Labels that the second needs for the first's error at its largest budget."""
    multiplier: float | None
    multipliers: list[float]
    """Of single seeds."""
    crossovers: tuple[stats.Crossover, ...]

    def values(self, budget: str) -> tuple[float, float]:
        """The metric of both on test, mean over the seeds that both have."""
        return _means(self.first.points[budget], self.second.points[budget])


def _means(one: Mapping[int, Run], other: Mapping[int, Run]) -> tuple[float, float]:
    both = [seed for seed in one if seed in other]
    return float(np.mean([one[seed].value for seed in both])), float(np.mean([other[seed].value for seed in both]))


@dataclass
class Composition:
    """One upstream in one regime with labels composed in two ways: the largest budget of each kind but for all data."""

    first: Series
    second: Series
    budgets: tuple[str, str]
    difference: Difference

    def values(self) -> tuple[float, float]:
        """The metric of both on test, mean over the seeds that both have."""
        one, other = self.budgets
        return _means(self.first.points[one], self.second.points[other])


@dataclass
class TaskView:
    """All runs of one task."""

    name: str
    metric: Metric
    seconds: dict[str, float]
    """Budget -> labelled audio, mean over its runs; smallest first."""
    series: list[Series]
    layers: dict[tuple[str, str, str], dict[int, dict[int, Run]]]
    """Of single layers: (upstream, regime, budget) -> layer -> seed -> run."""
    contrasts: list[Contrast] = field(default_factory=list)
    compositions: list[Composition] = field(default_factory=list)
    title: str = ""
    """As the recipe names the task."""
    titles: dict[str, str] = field(default_factory=dict)
    """Upstream or regime -> as the recipe names it."""

    @property
    def runs(self) -> list[Run]:
        """Of the series and of single layers."""
        runs = [run for series in self.series for seeds in series.points.values() for run in seeds.values()]
        return runs + [run for of in self.layers.values() for seeds in of.values() for run in seeds.values()]


class Bootstrap:
    """Intervals over the test sets; each run's files are read once."""

    def __init__(self, replicates: int) -> None:
        self.replicates = replicates
        self._known: dict[tuple[Path, str], tuple[stats.Statistic | None, str]] = {}
        self._summaries: dict[tuple[str, tuple[Path, ...]], tuple[stats.Interval | None, str]] = {}

    def statistics(self, runs: Iterable[Run], metric_name: str | None = None) -> tuple[list[stats.Statistic], str]:
        """One a run and what their clusters are; or none, and why not. See :func:`statistic`."""
        statistics = []
        for run in runs:
            key = run.folder, metric_name or run.metric
            if key not in self._known:
                self._known[key] = statistic(run, metric_name)
            known, why = self._known[key]
            if known is None:
                return [], why
            statistics.append(known)
        return statistics, why

    def summary(self, runs: Sequence[Run], metric_name: str | None = None) -> tuple[stats.Interval | None, str]:
        """Of the mean over the runs of a metric (default: the one that selected them); or ``None``, and why not."""
        name = metric_name or runs[0].metric
        key = (name, tuple(run.folder for run in runs))
        if key not in self._summaries:
            statistics, why = self.statistics(runs, name)
            interval = None
            if statistics:
                try:
                    interval = stats.summarise(statistics, replicates=self.replicates)[name].test_set
                except BenchmarkError as error:
                    why = str(error)
            self._summaries[key] = interval, why
        return self._summaries[key]

    def difference(self, budget: str, first: Mapping[int, Run], second: Mapping[int, Run]) -> Difference | None:
        """Second - first, paired by seed; ``None`` where they have no seed in common."""
        both = [seed for seed in first if seed in second]
        if not both:
            return None
        seeds = stats.seed_spread([second[seed].value - first[seed].value for seed in both])
        statistics, why = self.statistics([*(first[seed] for seed in both), *(second[seed] for seed in both)])
        if statistics:
            try:
                compared = stats.compare(statistics[: len(both)], statistics[len(both) :], replicates=self.replicates)[
                    first[both[0]].metric
                ]
                return Difference(budget, seeds, compared.test_set, compared.probability_of_improvement, why)
            except BenchmarkError as error:
                why = str(error)
        return Difference(budget, seeds, None, None, why)


_KINDS = {"s": "audio", "%": "audio", "utt": "utterances", "speakers": "speakers"}


def budget_kind(budget: str) -> str:
    """Budgets of one kind are nested and form one curve; '' is all of the data, which ends every curve."""
    return " + ".join(_KINDS.get(part.unit, part.unit) for part in budgets.parse(budget))


def tasks(gathered: Gathered, bootstrap: Bootstrap) -> list[TaskView]:
    """The runs by task, each regime compared with its upstream's frozen one and with the same regime of the first
    upstream."""
    views = []
    for task in dict.fromkeys(cell.task for cell in gathered.runs):
        view = task_view(gathered, task)
        series = view.series
        for second in series:
            first = _baseline(second, series)
            if first is not None:
                view.contrasts.append(_contrast(view, first, second, bootstrap))
        for second in series:
            others = [other for other in series if (other.regime, other.kind) == (second.regime, second.kind)]
            if others[0].upstream != second.upstream:
                view.contrasts.append(_contrast(view, others[0], second, bootstrap))
        view.compositions = list(_compositions(series, bootstrap))
        views.append(view)
    return views


def task_view(gathered: Gathered, task: str) -> TaskView:
    """The runs of a task, with no comparison made yet."""
    runs = [run for run in gathered.runs.values() if run.cell.task == task]
    labelled: dict[str, list[float]] = {}
    for run in runs:
        labelled.setdefault(run.cell.budget, []).append(run.result["data"]["train"]["seconds"])
    seconds = {budget: float(np.mean(values)) for budget, values in labelled.items()}
    seconds = dict(sorted(seconds.items(), key=lambda item: item[1]))
    layers: dict[tuple[str, str, str], dict[int, dict[int, Run]]] = {}
    for run in runs:
        cell = run.cell
        if cell.layer is not None:
            single = layers.setdefault((cell.upstream, cell.regime, cell.budget), {})
            single.setdefault(cell.layer, {})[cell.seed] = run
    series = _series([run for run in runs if run.cell.layer is None], seconds)
    _entitle(series, gathered)
    title = gathered.title("tasks", task)
    titles = {run.cell.upstream: gathered.title("upstreams", run.cell.upstream) for run in runs}
    titles |= {run.cell.regime: gathered.title("regimes", run.cell.regime) for run in runs}
    return TaskView(task, _metric(runs[0], gathered.notices), seconds, series, layers, title=title, titles=titles)


def _entitle(series: Sequence[Series], gathered: Gathered) -> None:
    for one in series:
        one.upstream_title = gathered.title("upstreams", one.upstream)
        one.regime_title = gathered.title("regimes", one.regime)
        several = one.name.startswith(f"{one.upstream}, ")
        kind = f", {one.kind}" if one.kind and one.name.endswith(f", {one.kind}") else ""
        one.title = (f"{one.upstream_title}, " if several else "") + one.regime_title + kind


def _metric(run: Run, notices: list[str]) -> Metric:
    metric = declaration(run)
    if metric is None:
        notices.append(f"The metric '{run.metric}' is not declared; it is treated as an error (lower is better).")
        return Metric(run.metric, run.metric.replace("_", " "))
    return metric


def _compositions(series: Sequence[Series], bootstrap: Bootstrap) -> Iterator[Composition]:
    for second in series:
        first = next(other for other in series if (other.upstream, other.regime) == (second.upstream, second.regime))
        limited = [[budget for budget in side.points if budget_kind(budget)] for side in (first, second)]
        if first is second or not all(limited):
            continue
        one, other = limited[0][-1], limited[1][-1]
        difference = bootstrap.difference(other, first.points[one], second.points[other])
        if difference is not None:
            yield Composition(first, second, (one, other), difference)


def _baseline(second: Series, series: Sequence[Series]) -> Series | None:
    """The first frozen regime of the same upstream (else its first), with the same kind of budgets if possible."""
    own = [other for other in series if other.upstream == second.upstream]
    base = next((other for other in own if _regime(other) == "frozen"), own[0]).regime
    candidates = [other for other in own if other.regime == base and other.points.keys() & second.points.keys()]
    if second.regime == base or not candidates:
        return None
    return max(candidates, key=lambda other: len(other.points.keys() & second.points.keys()))


def _regime(series: Series) -> str:
    """The engine's name of the regime; recipes name theirs freely."""
    return str(next(iter(series.points[series.largest].values())).result["regime"])


def _series(runs: Sequence[Run], seconds: Mapping[str, float]) -> list[Series]:
    points: dict[tuple[str, str, str], dict[str, dict[int, Run]]] = {}
    groups = dict.fromkeys((run.cell.upstream, run.cell.regime) for run in runs)
    several = len({upstream for upstream, _ in groups}) > 1
    kinds = _kinds(runs)
    for upstream, regime in groups:
        own = [run for run in runs if (run.cell.upstream, run.cell.regime) == (upstream, regime)]
        for kind in _kinds(own):
            for budget in seconds:
                seeds = {run.cell.seed: run for run in own if run.cell.budget == budget}
                if seeds and budget_kind(budget) in ("", kind):
                    points.setdefault((upstream, regime, kind), {})[budget] = dict(sorted(seeds.items()))
    series = []
    for (upstream, regime, kind), by_budget in points.items():
        name = f"{upstream}, {regime}" if several else regime
        name = f"{name}, {kind}" if len(kinds) > 1 and kind else name
        series.append(Series(upstream, regime, kind, name, by_budget))
    return series


def _kinds(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(kind for run in runs if (kind := budget_kind(run.cell.budget)))) or [""]


def curve(view: TaskView, series: Series, among: Iterable[str], seed: int | None = None) -> stats.Curve:
    """The learning curve as errors, over some of its budgets; of one seed, or the mean."""
    points: dict[float, list[float]] = {}
    for budget in among:
        runs = series.points[budget]
        values = [run.value for run in runs.values()] if seed is None else [runs[seed].value]
        points.setdefault(view.seconds[budget], []).extend(map(view.metric.error, values))
    return stats.learning_curve(points)


def _complete(series: Series, among: Sequence[str]) -> list[int]:
    """Seeds with all of these budgets."""
    return [seed for seed in series.points[among[0]] if all(seed in series.points[budget] for budget in among)]


def _contrast(view: TaskView, first: Series, second: Series, bootstrap: Bootstrap) -> Contrast:
    common = [budget for budget in first.points if budget in second.points]
    compared = {budget: bootstrap.difference(budget, first.points[budget], second.points[budget]) for budget in common}
    differences = {budget: difference for budget, difference in compared.items() if difference is not None}
    contrast = Contrast(first, second, differences, None, None, [], ())
    if len(common) > 1:
        one, other = (curve(view, series, common) for series in (first, second))
        contrast.target = stats.labels_to_target(other, one.errors[-1])
        contrast.multiplier = stats.label_multiplier(one, other).mean
        contrast.crossovers = stats.crossovers(one, other)
        for seed in _complete(first, common):
            if seed in _complete(second, common):
                one, other = (curve(view, series, common, seed) for series in (first, second))
                single = stats.label_multiplier(one, other).mean
                contrast.multipliers += [] if single is None else [single]
    return contrast


def normalised_areas(view: TaskView) -> dict[str, tuple[float, list[float], tuple[float, float]]]:
    """Series -> its :func:`curve_area` over the budgets that all series of its upstream share."""
    areas: dict[str, tuple[float, list[float], tuple[float, float]]] = {}
    for upstream in dict.fromkeys(series.upstream for series in view.series):
        curves = [series for series in view.series if series.upstream == upstream and len(series.points) > 1]
        if view.metric.ceiling is None or not curves:
            continue
        low = max(view.seconds[next(iter(series.points))] for series in curves)
        high = min(view.seconds[series.largest] for series in curves)
        if low < high:
            areas |= {series.name: curve_area(view, series, list(series.points), (low, high)) for series in curves}
    return areas


def curve_area(
    view: TaskView, series: Series, among: Sequence[str], budgets: tuple[float, float]
) -> tuple[float, list[float], tuple[float, float]]:
    """Normalised area of the mean curve, of single seeds, and the budgets (seconds) that it covers."""
    errors = (0.0, view.metric.ceiling or 0.0)
    mean = stats.area(curve(view, series, among), errors=errors, budgets=budgets).value
    seeds = [
        stats.area(curve(view, series, among, seed), errors=errors, budgets=budgets).value
        for seed in _complete(series, among)
    ]
    return mean, seeds, budgets
