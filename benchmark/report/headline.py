"""The answer to each task in one plain sentence. It claims a difference only where the test set shows one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmark import statistics as stats
from benchmark.metrics import Metric
from benchmark.report.compare import Contrast, Difference, Series, TaskView, curve
from benchmark.report.parts import capital, rounded
from benchmark.report.ranking import Ranking
from benchmark.report.sentences import (
    amount,
    duration_text,
    length_text,
    plain,
    sentences_on_layers,
    sentences_without_contrasts,
    verdict,
)

_LEAST_MULTIPLIER = 1.05
"""Below it, one curve needs as many labels as the other."""


def foremost(view: TaskView) -> list[Contrast]:
    """The comparisons that a page begins with: between regimes of the first upstream that has two, else all."""
    within = [one for one in view.contrasts if one.first.upstream == one.second.upstream]
    chosen = [one for one in within if one.first.upstream == within[0].first.upstream] or view.contrasts
    return [one for one in chosen if one.differences]


def headline(view: TaskView) -> str:
    """What a task's results say, in one sentence (and a half, where seeds are few)."""
    contrasts = foremost(view)
    if view.compositions:
        return _sentence(_composition(view))
    if len({(one.first.name, one.second.name) for one in contrasts}) > 1:
        return _sentence(_several(view, contrasts))
    if contrasts:
        return _sentence(_pair(view, contrasts[0]))
    if view.series:
        return _sentence(_result(view))
    return sentences_on_layers(view)[0]


def ranks_headline(view: TaskView, ranked: Ranking) -> str:
    """Which system is first, and which the test set does not separate from it."""
    places, start = ranked.ranks.places, f"with {_with(view, ranked.budget)}, "
    first = places[0].name
    tied = [
        tested.pair.second if tested.pair.first == first else tested.pair.first
        for tested in ranked.ranks.pairs
        if tested.better is None and first in (tested.pair.first, tested.pair.second)
    ]
    if all(tested.better is None for tested in ranked.ranks.pairs):
        return _sentence(f"{start}the test set separates none of the {len(places)} systems")
    if not tied:
        return _sentence(f"{start}{first} is the best of {len(places)} systems")
    return _sentence(f"{start}{first} is first of {len(places)} systems, but not separated from {_listed(tied)}")


def _sentence(text: str) -> str:
    return f"{capital(text)}."


def _lead(difference: Difference, metric: Metric) -> int:
    """1: the second is better, -1: the first is, 0: the test set does not show which.

    Without an interval, what this test set gives.
    """
    sign = 1 if metric.higher_is_better else -1
    interval, mean = difference.test_set, sign * difference.seeds.mean
    if interval is not None and interval.low <= 0 <= interval.high:
        return 0
    return int(np.sign(mean))


def _systems(contrast: Contrast) -> tuple[str, str]:
    """How two series are told apart: by what differs between them."""
    first, second = contrast.first, contrast.second
    if first.upstream == second.upstream:
        return first.regime_title, second.regime_title
    if first.regime == second.regime:
        return first.upstream_title, second.upstream_title
    return plain(first), plain(second)


def _caveat(differences: Sequence[Difference], metric: Metric) -> str:
    """What limits the clear differences of a sentence."""
    if any(of.test_set is None for of in differences):
        return " on this test set (no interval says whether others would agree)"
    seeds = {of.seeds.n for of in differences if verdict(of, metric) not in ("better", "worse")}
    if not seeds:
        return ""
    return " (one seed)" if seeds == {1} else f" (with these {max(seeds)} seeds)"


def _with(view: TaskView, budget: str) -> str:
    if budget == "all":
        return f"all labels ({length_text(view, budget)})"
    text = amount(view, budget).replace("\u00a0", " ")
    return text if text.startswith(budget) else f"{text} of labels"


def _numbers(view: TaskView, contrast: Contrast, budget: str, *, second_first: bool = True) -> str:
    """``EER 4.1 % against 9.0 %``, to the digits that the difference leaves."""
    of = contrast.differences[budget]
    half = None if of.test_set is None else (of.test_set.high - of.test_set.low) / 2
    unit = f" {view.metric.unit}" if view.metric.unit else ""
    one, other = (f"{rounded(value, half)}{unit}" for value in contrast.values(budget))
    return (
        f"{view.metric.label} {other} against {one}" if second_first else f"{view.metric.label} {one} against {other}"
    )


def _pair(view: TaskView, contrast: Contrast) -> str:
    metric = view.metric
    names = _systems(contrast)
    first, second = names
    leads = {budget: _lead(of, metric) for budget, of in contrast.differences.items()}
    budgets = list(leads)
    last = budgets[-1]
    if len(budgets) == 1:
        return _at_one_budget(view, contrast, last)
    whole = f"from {length_text(view, budgets[0])} to {length_text(view, last)} of labels"
    sure = [budget for budget in budgets if leads[budget]]
    if not sure:
        return (
            f"no clear difference between {second} and {first} {whole} "
            f"({_numbers(view, contrast, last)} with {length_text(view, last)})"
        )
    caveat = _caveat([contrast.differences[budget] for budget in sure], metric)
    crossings = contrast.crossovers
    if len(crossings) > 1:
        return f"the curves of {second} and {first} cross {len(crossings)} times: neither is better throughout"
    if crossings:
        return _crossing(view, contrast, crossings[0], leads) + caveat
    better = leads[sure[0]] > 0
    winner, loser = (second, first) if better else (first, second)
    some = _listed([length_text(view, budget) for budget in sure])
    only = "" if len(sure) == len(budgets) else f"; clearly better only with {some}"
    times = _times(contrast.multiplier, better)
    if times:
        return f"{winner} needs {times} times fewer labels than {loser} for the same {metric.label}{only}{caveat}"
    numbers = _numbers(view, contrast, last, second_first=better)
    return f"{winner} is better than {loser} {whole}: {numbers} with {length_text(view, last)}{only}{caveat}"


def _times(multiplier: float | None, second_better: bool) -> str:
    """By how much the better one's labels are fewer; '' where they are not."""
    times = None if multiplier is None else multiplier if second_better else 1 / multiplier
    return "" if times is None or times < _LEAST_MULTIPLIER else f"{times:.2g}" if times < 99 else f"{times:.0f}"


def _crossing(view: TaskView, contrast: Contrast, at: stats.Crossover, leads: dict[str, int]) -> str:
    """Both sides of the budget at which two curves cross."""
    where = _about(at.budget)
    second_better = (not at.second_better_after, at.second_better_after)
    first, second = _systems(contrast)
    texts = []
    for above, better in enumerate(second_better):
        winner = second if better else first
        shown = any(lead and (view.seconds[name] > at.budget) == bool(above) for name, lead in leads.items())
        if not shown:
            texts.append("no clear difference")
            continue
        times = "" if above else _times(_multiplier_below(view, contrast, at.budget), better)
        texts.append(f"{winner} needs {times} times fewer labels" if times else f"{winner} wins")
    labels = "" if "fewer labels" in texts[0] else " of labels"
    return f"{texts[0]} below {where}{labels}; above, {texts[1]}"


def _multiplier_below(view: TaskView, contrast: Contrast, budget: float) -> float | None:
    """The label multiplier of two curves up to where they cross."""
    common = list(contrast.differences)

    def below(series: Series) -> stats.Curve:
        whole = curve(view, series, common)
        points = {at: [value] for at, value in zip(whole.budgets, whole.errors, strict=True) if at < budget}
        return stats.learning_curve({**points, budget: [float(whole.at(budget))]})

    return stats.label_multiplier(below(contrast.first), below(contrast.second)).mean


def _at_one_budget(view: TaskView, contrast: Contrast, budget: str) -> str:
    difference = contrast.differences[budget]
    first, second = _systems(contrast)
    lead = _lead(difference, view.metric)
    if not lead:
        numbers = _numbers(view, contrast, budget)
        return f"with {_with(view, budget)}, no clear difference between {second} and {first} ({numbers})"
    winner, loser = (second, first) if lead > 0 else (first, second)
    numbers = _numbers(view, contrast, budget, second_first=lead > 0)
    caveat = _caveat([difference], view.metric)
    return f"with {_with(view, budget)}, {winner} is better than {loser}: {numbers}{caveat}"


def _several(view: TaskView, contrasts: Sequence[Contrast]) -> str:
    """Several regimes (or upstreams) against one: the best at the largest budget, and whether its lead is clear."""
    base = contrasts[0].first
    contrasts = [one for one in contrasts if one.first is base] or list(contrasts)
    shared = [budget for budget in base.points if all(budget in one.differences for one in contrasts)]
    budget = shared[-1] if shared else list(contrasts[0].differences)[-1]
    among = [one for one in contrasts if budget in one.differences]
    metric = view.metric
    errors = {one.second.name: metric.error(one.second.mean(budget)) for one in among}
    best = min(among, key=lambda one: errors[one.second.name])
    first, second = _systems(best)
    superlative = f"the {'highest' if metric.higher_is_better else 'lowest'} {metric.label} of {len(among) + 1}"
    start = f"with {_with(view, budget)}, "
    if errors[best.second.name] < metric.error(base.mean(budget)):
        difference = best.differences[budget]
        numbers = _numbers(view, best, budget)
        if _lead(difference, metric):
            return f"{start}{second} has {superlative}, better than {first}: {numbers}{_caveat([difference], metric)}"
        return f"{start}{second} has {superlative}, not clearly better than {first}: {numbers}"
    behind = [_systems(one)[1] for one in among if _lead(one.differences[budget], metric) < 0]
    lead = f"clearly better than {_listed(behind)}" if behind else "not clearly better than any other"
    return f"{start}{first} has {superlative}, {lead}"


def _composition(view: TaskView) -> str:
    """Labels chosen in several ways: the best, in the first regime that compares them."""
    first = view.compositions[0].first
    own = [one for one in view.compositions if one.first is first]
    metric = view.metric
    base = own[0].budgets[0]
    errors = {one.budgets[1]: metric.error(one.second.mean(one.budgets[1])) for one in own}
    best = min(own, key=lambda one: errors[one.budgets[1]])
    start = f"{plain(first)}: of {len(own) + 1} ways to choose labels, "
    lead = _lead(best.difference, metric)
    if errors[best.budgets[1]] < metric.error(first.mean(base)):
        clear = "better" if lead else "but not clearly better"
        return (
            f"{start}{best.budgets[1]} is best, {clear} than {base}{_caveat([best.difference], metric) if lead else ''}"
        )
    behind = [one.budgets[1] for one in own if _lead(one.difference, metric) < 0]
    return f"{start}{base} is best, {f'clearly better than {_listed(behind)}' if behind else 'by no clear difference'}"


def _result(view: TaskView) -> str:
    """Without a comparison: the result at the largest budget."""
    if len(view.series) > 1:
        return sentences_without_contrasts(view)[0].rstrip(".")
    (series,) = view.series
    budget = series.largest
    return f"{view.metric.label} {view.metric.text(series.mean(budget))} with {_with(view, budget)}"


def _about(seconds: float) -> str:
    """A budget between those that were run, to two digits."""
    unit = 3600.0 if seconds >= 3600 else 60.0 if seconds >= 60 else 1.0
    return duration_text(float(f"{seconds / unit:.2g}") * unit)


def _listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``; names with commas of their own are parted by semicolons."""
    comma = "; " if any("," in name for name in names) else ", "
    return " and ".join(part for part in (comma.join(names[:-1]), names[-1]) if part)
