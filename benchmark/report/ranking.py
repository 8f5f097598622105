"""Ranks with ties: which systems of a task its test set separates, in tables and sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

from benchmark import metrics
from benchmark import statistics as stats
from benchmark.errors import BenchmarkError
from benchmark.metrics import Metric
from benchmark.registry import suggest
from benchmark.report.collect import Gathered, Run, check_comparable, gather
from benchmark.report.compare import Bootstrap, TaskView
from benchmark.report.parts import sources
from benchmark.statistics import ranks as rank_statistics
from benchmark.statistics.ranks import Pair, Ranks
from benchmark.tables import Table, Value, number_text

PROCEDURE = "Holm's procedure with Shaffer's multipliers"


@dataclass(frozen=True, eq=False)
class Ranking:
    """The systems of one task at one budget: a system is an upstream in one regime, its value the mean over seeds."""

    task: str
    metric: Metric
    budget: str
    seeds: tuple[int, ...]
    """Those that all systems have."""
    noun: str
    """What the clusters of the test set are: ``speakers``, ``utterances``."""
    clusters: int
    ranks: Ranks
    intervals: dict[str, stats.Interval]
    """System -> the interval of its own value over the test set."""
    differences: tuple[stats.Interval, ...]
    """Of each pair of the ranks, by itself."""
    runs: tuple[Run, ...]
    unsettled: tuple[tuple[str, str], ...]
    """(better, worse) systems that the test set separates, although the seeds vary too much to generalise."""
    notes: tuple[str, ...]
    """What was left out, and what makes an interval less reliable."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for ``--json``."""
        ranks = asdict(self.ranks)
        for place, of in zip(ranks["places"], self.ranks.places, strict=True):
            interval = self.intervals[of.name]
            place |= {"rank": of.rank, "low": interval.low, "high": interval.high}
        for tested in ranks["pairs"]:
            tested |= tested.pop("pair")
        return {
            "task": self.task,
            "metric": {"name": self.metric.name, **self.metric.declaration()},
            "budget": self.budget,
            "seeds": list(self.seeds),
            "clusters": self.clusters,
            "clusters_are": self.noun,
            "procedure": PROCEDURE,
            **ranks,
            "unsettled_by_seeds": [list(pair) for pair in self.unsettled],
            "notes": list(self.notes),
            "sentences": sentences(self),
        }


def gather_by_folder(folders: Sequence[Path]) -> Gathered:
    """Read folders whose results are told apart by folder, so that runs with any settings can be compared.

    The name of its folder takes the place of an upstream's name, or comes before it where a folder has several. A
    single layer is a regime of its own.

    Raises:
        BenchmarkError: as :func:`benchmark.report.collect.gather`; results of one task differ in metric, protocol or
            test set.
    """
    names = [folder.resolve().name for folder in folders]
    if len({*names}) < len(names):
        names = [str(folder) for folder in folders]
    merged = Gathered()
    for folder, name in zip(folders, names, strict=True):
        own = gather([folder])
        upstreams = {cell.upstream for cell in own.runs}
        for cell, run in own.runs.items():
            renamed = replace(cell, upstream=name if len(upstreams) == 1 else f"{name}: {cell.upstream}", layer=None)
            if cell.layer is not None:
                renamed = replace(renamed, regime=f"{cell.regime}, layer {cell.layer}")
            merged.runs[renamed] = replace(run, cell=renamed)
        merged.studies |= own.studies
    check_comparable(list(merged.runs.values()), merged.notices)
    return merged


def systems(view: TaskView, budget: str) -> dict[str, dict[int, Run]]:
    """System, as the recipes name it -> seed -> run at a budget."""
    series = {(one.upstream, one.regime): one for one in reversed(view.series) if budget in one.points}
    titles = [one.title.removesuffix(f", {one.kind}") for one in series.values()]
    named = {
        title if title and titles.count(title) == 1 else one.plain: one.points[budget]
        for one, title in zip(series.values(), titles, strict=True)
    }
    return dict(reversed(named.items()))


def widest_budget(view: TaskView) -> str | None:
    """The budget that most systems have, the largest of several; ``None``: there is none with two."""
    count = {budget: len(systems(view, budget)) for budget in view.seconds}
    budget = max(count, key=lambda name: (count[name], view.seconds[name]))
    return budget if count[budget] > 1 else None


def left_out(view: TaskView) -> str:
    """Which single layers are no systems; empty where there are none."""
    layers: dict[str, set[int]] = {}
    for (upstream, regime, _), single in view.layers.items():
        layers.setdefault(f"{upstream}, {regime}", set()).update(single)
    listed = "; ".join(f"{name}: {', '.join(map(str, sorted(of)))}" for name, of in layers.items())
    return f"Left out: single layers ({listed}); with --by-folder each is a system" if layers else ""


def _too_few(view: TaskView, found: str) -> BenchmarkError:
    return BenchmarkError(". ".join(text for text in (f"{view.name}{found}", left_out(view)) if text))


def ranks(
    view: TaskView,
    budget: str | None,
    bootstrap: Bootstrap,
    *,
    metric: str | None = None,
    names: Sequence[str] = (),
    level: float = stats.LEVEL,
) -> Ranking:
    """Rank the systems of a task.

    Args:
        view: the runs of the task.
        budget: of the labels; ``None``: :func:`widest_budget`.
        bootstrap: keeps what has been read of the runs.
        metric: its name; default: the one that selected the runs.
        names: of the systems; default: all.
        level: 1 - the probability that any two equal systems are given an order.

    Raises:
        BenchmarkError: an unknown budget, metric or system; fewer than two systems; no seed that all systems have;
            nothing to compute intervals from.
    """
    budget = budget or widest_budget(view)
    if budget is None:
        found_of = [f"budget {one}: {', '.join(systems(view, one)) or 'none'}" for one in view.seconds]
        raise _too_few(view, f": no budget has two systems to compare ({'; '.join(found_of)})")
    if budget not in view.seconds:
        raise BenchmarkError(f"{view.name}: no runs with budget '{budget}'; there are {', '.join(view.seconds)}")
    found = systems(view, budget)
    for name in names:
        if name not in found:
            known = suggest(f"'{name}'", [f"'{one}'" for one in found]).replace("''", "'")  # names may have commas
            raise BenchmarkError(f"{view.name}, budget {budget}: unknown system '{name}'. {known}")
    found = {name: found[name] for name in names or found}
    if len(found) < 2:
        one = f"one system ({', '.join(found)})" if found else "no system"
        raise _too_few(view, f", budget {budget}: {one}; a comparison needs two")
    declared = view.metric if metric in (None, view.metric.name) else metrics.METRICS.get(str(metric))
    if declared is None:
        raise BenchmarkError(
            f"no metric '{metric}' is declared; name the file of your own by --plugin. "
            f"{suggest(str(metric), sorted(metrics.METRICS))}"
        )
    notes = []
    seeds = sorted(set.intersection(*(set(runs) for runs in found.values())))
    if not seeds:
        raise BenchmarkError(f"{view.name}, budget {budget}: {_names([*found])} have no seed in common")
    uneven = [name for name, runs in found.items() if len(runs) > len(seeds)]
    if uneven:
        notes.append(f"Only the seeds that all systems have are used; more were run of {_names(uneven)}.")
    statistics: dict[str, list[stats.Statistic]] = {}
    for name, runs in found.items():
        statistics[name], why = bootstrap.statistics([runs[seed] for seed in seeds], declared.name)
        if not statistics[name]:
            raise BenchmarkError(f"{view.name}, budget {budget}, {name}: no intervals: {why}")
    intervals = {name: stats.summarise(of, level=level)[declared.name].test_set for name, of in statistics.items()}
    values = {name: interval.value for name, interval in intervals.items()}
    order = sorted(values, key=values.__getitem__, reverse=declared.higher_is_better)
    pairs, differences, spreads = [], [], {}
    for first, second in combinations(order, 2):
        compared = stats.compare(statistics[first], statistics[second], level=level)[declared.name]
        over = compared.test_set
        pairs.append(Pair(first, second, over.value, over.se, over.clusters, compared.p_value, over.df))
        differences.append(over)
        spreads[first, second] = compared.seeds
    ranked = rank_statistics.rank(values, pairs, higher_is_better=declared.higher_is_better, level=level)
    unsettled = []
    for tested in ranked.pairs:
        spread = spreads[tested.pair.first, tested.pair.second]
        varies = spread.low is not None and spread.high is not None and spread.low <= 0 <= spread.high
        if tested.better is not None and varies:
            unsettled.append((tested.pair.first, tested.pair.second))
    noun = why.partition(" (")[0]
    return Ranking(
        view.name, declared, budget, tuple(seeds), noun, pairs[0].clusters, ranked, intervals,
        tuple(differences), tuple(runs[seed] for runs in found.values() for seed in seeds), tuple(unsettled),
        tuple(dict.fromkeys([*notes, *(note for over in [*intervals.values(), *differences] for note in over.notes)])),
    )  # fmt: skip


# --- Words ------------------------------------------------------------------------------------------------------------


def sentences(ranking: Ranking) -> list[str]:
    """What the ranks say: the answer first, then how sure it is and what more it would take."""
    ranks, metric = ranking.ranks, ranking.metric
    pairs, unit = len(ranks.pairs), " points" if metric.unit == "%" else f" {metric.unit}" if metric.unit else ""
    chance = f"{100 * (1 - ranks.level):.3g}"
    procedure = f"{PROCEDURE} over all {pairs} pairs" if pairs > 1 else "one comparison"
    texts = [
        _answer(ranking),
        f"If these systems were equal, any order between them would be shown on at most {chance} % of such test sets "
        f"({procedure}).",
    ]
    if ranks.detectable is not None:
        text = (
            f"Between two systems, a true difference in {metric.label} of {number_text(ranks.detectable)}{unit} is "
            f"found on {100 * ranks.power:.0f} % of such test sets (two-sided {chance} %)"
        )
        if pairs > 1 and ranks.detectable_among_all is not None:
            text += f"; as one of {pairs} pairs, one of {number_text(ranks.detectable_among_all)}{unit}"
        texts.append(f"{text}.")
    neighbours = {frozenset(pair) for pair in pairwise(place.name for place in ranks.places)}
    for tested in ranks.pairs:
        first, second, needed = tested.pair.first, tested.pair.second, tested.clusters_needed
        if tested.better is not None or needed is None or frozenset((first, second)) not in neighbours:
            continue
        texts.append(
            f"If {first} and {second} truly differ by the {number_text(abs(tested.pair.value))}{unit} seen here, "
            f"separating them takes about {_rounded(needed):,} {ranking.noun} instead of {ranking.clusters:,}."
        )
    if len(ranking.seeds) == 1:
        texts.append("One training seed: whether other training runs would give the same order is unknown.")
    for better, other in ranking.unsettled:
        texts.append(
            f"The {len(ranking.seeds)} training seeds of {better} and {other} are too few or vary too much to say that "
            "other training runs would give the same order."
        )
    return [*texts, *ranking.notes]


def _answer(ranking: Ranking) -> str:
    ranks = ranking.ranks
    size = f"test set ({ranking.clusters:,} {ranking.noun})"
    values = {place.name: f"{place.name} ({ranking.metric.text(place.value)})" for place in ranks.places}
    worse: dict[str, tuple[str, ...]] = {}
    for tested in ranks.pairs:
        if tested.better is not None:
            first, second = tested.pair.first, tested.pair.second
            worse[tested.better] = (*worse.get(tested.better, ()), second if tested.better == first else first)
    named = [*values.values()]
    if not worse and len(named) == 2:
        return f"This {size} does not separate {_names(named)}: either may be better."
    if not worse:
        return f"This {size} separates no two of {_names(named)}: any order may be chance."
    if not ranks.groups:
        return f"This {size} separates all systems: {', then '.join(named)}, best first."
    claims = []
    for losers in dict.fromkeys(worse.values()):
        winners = [name for name, others in worse.items() if others == losers]
        claims.append(f"{_names(winners)} {'is' if len(winners) == 1 else 'are'} better than {_names(losers)}")
    together = ", nor ".join(map(_names, ranks.groups))
    return f"{'; '.join(claims)}; this {size} does not separate {together}."


def tables(ranking: Ranking, slug: str) -> list[Table]:
    """The ranks, and all pairs.

    Args:
        ranking: of one task.
        slug: what the names of their files begin with.
    """
    metric, ranks = ranking.metric, ranking.ranks
    percent = f"{100 * ranks.level:.4g} %"
    unit = f" ({metric.unit})" if metric.unit else ""
    rows: list[list[Value]] = [
        [place.rank, place.name, place.value, ranking.intervals[place.name].low, ranking.intervals[place.name].high,
         place.groups]
        for place in ranks.places
    ]  # fmt: skip
    where = f"{metric.axis}. Means over seeds; {ranking.clusters:,} {ranking.noun}. {sources(ranking.runs)}"
    columns = ["rank", "system", f"test {metric.label}{unit}", f"{percent} from", "to", "group"]
    caption = (
        "Systems that share a letter are not separated by the test set. Ranges of ranks hold the true rank of every "
        f"system at once, in {percent} of test sets ({PROCEDURE}). Intervals are of each system alone: whether two "
        f"differ is in the table of pairs. {where}"
    )
    first = Table(columns, rows, f"{ranking.task}: ranks.", caption, f"{slug}_ranks")
    rows = [
        [
            f"{tested.pair.second} − {tested.pair.first}", tested.pair.value, tested.low, tested.high,
            tested.adjusted_p if tested.adjusted_p >= 1e-4 else "< 0.0001", tested.better or "not separated",
            None if tested.clusters_needed is None else _rounded(tested.clusters_needed),
            over.effective_clusters, None if over.top_share is None else 100 * over.top_share,
        ]
        for tested, over in zip(ranks.pairs, ranking.differences, strict=True)
    ]  # fmt: skip
    columns = [
        "difference", metric.label, f"{percent} from", "to", "adjusted p", "better", f"{ranking.noun} needed",
        f"effective {ranking.noun}", "largest share (%)",
    ]  # fmt: skip
    caption = (
        f"Intervals hold for all pairs at once (Bonferroni); adjusted p: {PROCEDURE}. {ranking.noun.capitalize()} "
        f"needed: to separate the two among these systems with {100 * ranks.power:.0f} % power, if the true difference "
        f"is the one seen here. Effective {ranking.noun}, and the largest share of one of them: how many the standard "
        f"error rests on. {where}"
    )
    return [first, Table(columns, rows, f"{ranking.task}: all pairs.", caption, f"{slug}_pairs")]


def _rounded(number: int) -> int:
    """Up, to two significant digits."""
    size = int(10 ** max(0, len(str(number)) - 2))
    return -(-number // size) * size


def _names(names: Sequence[str]) -> str:
    """``A``, ``A and B``, ``A, B and C``; names with commas of their own are parted by semicolons."""
    comma = "; " if any("," in name for name in names) else ", "
    return " and ".join(part for part in (comma.join(names[:-1]), names[-1]) if part)
