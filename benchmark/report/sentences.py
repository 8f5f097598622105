"""What comparisons show, in sentences. They say less than the numbers, never more."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmark import statistics as stats
from benchmark.data import budget as label_budgets
from benchmark.metrics import Metric
from benchmark.report.collect import Run
from benchmark.report.compare import Contrast, Difference, Series, TaskView, budget_kind, curve_area
from benchmark.tables import number_text, plural


def duration_text(seconds: float) -> str:
    """Seconds as hours, minutes or seconds, to three significant digits."""
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 0.995 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def length_text(view: TaskView, budget: str) -> str:
    """The length of a label budget: as it was asked for, where it is a time, else as it is."""
    parts = label_budgets.parse(budget)
    timed = len(parts) == 1 and parts[0].unit == "s"
    return duration_text(parts[0].amount if timed else view.seconds[budget])


def amount(view: TaskView, budget: str) -> str:
    """A label budget, with its length unless that is its name: ``9 min``, ``all (5.2 h)``."""
    length = length_text(view, budget).replace(" ", "\u00a0")
    return length if length.replace("\u00a0", "") == budget else f"{budget} ({length})"


def labels_text(budget: str, seconds: float) -> str:
    """A label budget with its length, which is left out where it is the budget's name."""
    length = duration_text(seconds)
    if length.replace(" ", "") == budget:
        return f"{length} of labels"
    return f"{'all labels' if budget == 'all' else f'a budget of {budget}'} ({length})"


def _excludes_zero(low: float | None, high: float | None) -> bool:
    return low is not None and high is not None and (low > 0 or high < 0)


def verdict(difference: Difference, metric: Metric) -> str:
    """What a difference shows, in words; it says less than the numbers, never more."""
    interval, seeds = difference.test_set, difference.seeds
    if seeds.mean == 0 and interval is None:
        return "no difference"
    better = "better" if (seeds.mean > 0) == metric.higher_is_better else "worse"
    if interval is None:
        return f"{better} on this test set; no interval says whether this extends to others"
    if not _excludes_zero(interval.low, interval.high):
        return "no clear difference on this test set"
    if seeds.n == 1:
        return f"{better} with this seed; the variation between seeds is unknown"
    if not _excludes_zero(seeds.low, seeds.high):
        return f"{better} with these {seeds.n} seeds, which are too few or vary too much to generalise"
    return better


def plain(series: Series) -> str:
    """The title without the kind of budgets."""
    return series.title.removesuffix(f", {series.kind}")


def interval_text(interval: stats.Interval) -> str:
    """``[low, high]``."""
    return f"[{number_text(interval.low)}, {number_text(interval.high)}]"


def sentences(view: TaskView, contrast: Contrast) -> list[str]:
    """What a regime gains over another, in a few sentences."""
    texts = [_at_the_largest_budget(view, contrast)] if contrast.differences else []
    common = list(contrast.differences)
    if len(common) < 2:
        if len(contrast.first.points) == len(contrast.second.points) == 1:
            return texts
        pair = f"{contrast.second.title} and {contrast.first.title}"
        return [*texts, f"{pair} share fewer than two budgets, so sample efficiency cannot be compared."]
    texts += _over_budgets(view, contrast)
    budgets = (view.seconds[common[0]], view.seconds[common[-1]])
    if view.metric.ceiling is not None and budgets[0] < budgets[1]:
        one, other = (curve_area(view, series, common, budgets)[0] for series in (contrast.first, contrast.second))
        texts.append(
            f"Area under the error curve from {duration_text(budgets[0])} to {duration_text(budgets[1])}: "
            f"{contrast.second.title} {number_text(other)}, {contrast.first.title} {number_text(one)} (lower is "
            "better)."
        )
    return texts


def _at_the_largest_budget(view: TaskView, contrast: Contrast) -> str:
    metric = view.metric
    budget, difference = list(contrast.differences.items())[-1]
    one, other = contrast.values(budget)
    first, second = (side.title if budget_kind(budget) else plain(side) for side in (contrast.first, contrast.second))
    return (
        f"With {labels_text(budget, view.seconds[budget])}, {second} has {metric.label} {metric.text(other)} where "
        f"{first} has {metric.text(one)}: {_difference_text(difference, metric)}"
    )


def _difference_text(difference: Difference, metric: Metric) -> str:
    spread = difference.seeds
    unit = " points" if metric.unit else ""
    change = f"{'+' if spread.mean > 0 else ''}{number_text(spread.mean)}{unit}"
    if difference.test_set is None:
        over = f"no interval over the test set: {difference.why.rstrip('.')}"
    else:
        over = (
            f"{100 * difference.test_set.level:.0f} % interval over the {difference.test_set.clusters} "
            f"{difference.why.partition(' (')[0]} of the test set {interval_text(difference.test_set)}"
        )
    over += f"; SD over {spread.n} seeds {number_text(spread.sd)}" if spread.sd is not None else "; one seed"
    return f"{change} ({over}). Verdict: {verdict(difference, metric)}."


def _over_budgets(view: TaskView, contrast: Contrast) -> list[str]:
    """Over two budgets or more: label multiplier, labels to the first's best result, crossings."""
    metric, first, second = view.metric, contrast.first, contrast.second
    texts = []
    if contrast.multiplier is None:
        texts.append(
            f"The curves of {second.title} and {first.title} reach no common error over these budgets, so there is no "
            "label multiplier."
        )
    else:
        seeds = ""
        if len(contrast.multipliers) > 1:
            seeds = f" ({number_text(min(contrast.multipliers))} to {number_text(max(contrast.multipliers))} by seed)"
        elif len(contrast.multipliers) == 1:
            seeds = " (one seed)"
        texts.append(
            f"For the same error {first.title} needs {number_text(contrast.multiplier)} times the labels of "
            f"{second.title}{seeds}."
        )
    target = contrast.target
    assert target is not None
    largest = list(contrast.differences)[-1]
    goal = (
        f"{metric.text(metric.error(target.error))}, the result of {first.title} with "
        f"{labels_text(largest, view.seconds[largest])}"
    )
    needed = duration_text(target.budget or 0)
    if not target.reached:
        texts.append(f"{second.title} does not reach {goal}, with any of these budgets.")
    elif target.at_smallest:
        texts.append(f"{second.title} reaches {goal}, already with the smallest budget ({needed}).")
    else:
        texts.append(f"{second.title} reaches {goal}, with about {needed}.")
    texts.append(_crossing(view, contrast))
    uneven = [name for name in contrast.differences if first.points[name].keys() != second.points[name].keys()]
    if uneven:
        pair = f"{second.title} and {first.title}"
        texts.append(f"At {', '.join(uneven)}, {pair} have different seeds; the mean curves use all of them.")
    return texts


def _crossing(view: TaskView, contrast: Contrast) -> str:
    first, second, crossings = contrast.first.title, contrast.second.title, contrast.crossovers
    if len(crossings) == 1:
        before, after = (first, second) if crossings[0].second_better_after else (second, first)
        where = duration_text(crossings[0].budget)
        return f"The mean curves cross at about {where}: {before} is better below, {after} above."
    if crossings:
        where = ", ".join(duration_text(crossing.budget) for crossing in crossings)
        return f"The mean curves cross {len(crossings)} times (at about {where}): neither is better throughout."
    sign = 1 if view.metric.higher_is_better else -1
    gains = [sign * difference.seeds.mean for difference in contrast.differences.values()]
    if all(gain == 0 for gain in gains):
        return f"The mean curves of {second} and {first} coincide."
    return f"The mean curves do not cross: {second if sum(gains) > 0 else first} is better at every shared budget."


def sentences_without_contrasts(view: TaskView) -> list[str]:
    """For tasks without a comparison: results at the largest budget."""
    return [
        f"{series.title}, budget {series.largest}: {view.metric.label} {view.metric.text(series.mean(series.largest))} "
        f"({plural(len(series.points[series.largest]), 'seed')})."
        for series in view.series
    ]


def sentences_on_compositions(view: TaskView) -> list[str]:
    """How the composition of the labels changes the result."""
    texts = []
    for composition in view.compositions:
        metric, difference = view.metric, composition.difference
        first, second = (labels_text(budget, view.seconds[budget]) for budget in composition.budgets)
        one, other = map(metric.text, composition.values())
        texts.append(
            f"{plain(composition.first)} has {metric.label} {other} with {second} and {one} with {first}: "
            f"{_difference_text(difference, metric)}"
        )
    return texts


def sentences_on_layers(view: TaskView) -> list[str]:
    """The best single layer of each upstream, regime and budget."""
    several = len(view.layers) > 1
    texts = []
    for (upstream, _, budget), layers in view.layers.items():
        means = {layer: float(np.mean([run.value for run in runs.values()])) for layer, runs in layers.items()}
        best = (max if view.metric.higher_is_better else min)(means, key=means.__getitem__)
        where = f"{view.titles.get(upstream, upstream)}, budget {budget}: of" if several else "Of"
        texts.append(
            f"{where} {plural(len(layers), 'single layer')}, layer {best} has the best mean on test, "
            f"{view.metric.label} {view.metric.text(means[best])} ({plural(len(layers[best]), 'seed')}); "
            f"{_chosen_on_dev(view, layers)}."
        )
    return texts


def _chosen_on_dev(view: TaskView, layers: Mapping[int, Mapping[int, Run]]) -> str:
    """What the layers have on test that dev would choose, seed by seed: as good a choice as can be made.

    Dev chooses by what chose the candidate of a cell, where all cells say; of layers that tie, the lowest.
    """
    shared = sorted(set.intersection(*(set(runs) for runs in layers.values())))
    if not shared:
        return "no seed has all of them, so that dev cannot choose"
    chosen, tied = [], False
    for seed in shared:
        ranks = {layer: runs[seed].rank for layer, runs in layers.items()}
        if None in ranks.values():
            sign = -1 if view.metric.higher_is_better else 1
            ranks = {layer: (sign * float(runs[seed].result["selected"]["value"]),) for layer, runs in layers.items()}
        best = min(rank for rank in ranks.values() if rank is not None)
        first, *others = sorted(layer for layer, rank in ranks.items() if rank == best)
        chosen.append(first)
        tied = tied or bool(others)
    value = float(np.mean([layers[layer][seed].value for layer, seed in zip(chosen, shared, strict=True)]))
    names = sorted(set(chosen))
    listed = f"layer {names[0]}" if len(names) == 1 else f"layers {', '.join(map(str, names))}, by seed"
    return f"dev chooses {listed}{' (of several that tie, the lowest)' if tied else ''}: {view.metric.text(value)}"


OPTIMISTIC = "As the best of several on test, the value of the best layer is slightly optimistic."
