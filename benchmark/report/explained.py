"""The influence of each speaker, language or class on a result, or on the difference between two, as numbers, sentences
and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark import metrics, results
from benchmark.errors import BenchmarkError
from benchmark.evaluation import Classes, Edits, Items, Trials, about_run, read_items
from benchmark.metrics import Metric
from benchmark.report.behind import confusions
from benchmark.statistics import influence as influences
from benchmark.statistics.influence import Influence
from benchmark.tables import Table, Value, number_text


@dataclass(eq=False)
class System:
    """The runs whose mean is one system: training seeds, or one run."""

    name: str
    folders: list[Path]
    items: list[Items]
    results: list[dict[str, Any]]
    metric: Metric

    @property
    def characters(self) -> bool:
        """Whether edits are of characters."""
        return self.metric.name == "cer"


def read(folders: Sequence[Path], name: str | None = None, metric: str | None = None) -> System:
    """The runs of a system.

    Args:
        folders: of runs, or of evaluations, with a result.
        name: default: upstream and regime.
        metric: default: the one that selected the first run on dev.

    Raises:
        BenchmarkError: a folder holds no result, or not what its metrics are computed from; a metric is not declared;
            the files of a run give another value than its result has; runs differ in more than their seeds.
    """
    every, found = [], []
    for folder in folders:
        result = results.read(folder / "result.json")
        about = about_run(folder, result["downstream"]["task"])
        if about is None:
            raise BenchmarkError(f"{folder} does not say what its metrics are computed from; evaluate it again (-m)")
        found.append(result)
        every.append(read_items(folder, about))
    chosen = metric or str(found[0]["selected"]["metric"])
    if chosen not in metrics.METRICS:
        raise BenchmarkError(f"the metric '{chosen}' is not declared in this process; name its file with --plugin")
    declared = metrics.METRICS[chosen]
    for folder, items, result in zip(folders, every, found, strict=True):
        told = result["metrics"].get("test", {}).get(chosen)
        value = metrics.compute(declared, items) if items.kind in declared.compute else None
        if value is None:
            raise BenchmarkError(f"the {items.kind} of {folder} do not determine the metric '{chosen}'")
        if told is not None and not math.isclose(value, told, rel_tol=1e-3, abs_tol=1e-3):
            raise BenchmarkError(f"the files of {folder} give {chosen} {value:.5g}, its result has {told:.5g}")
    kinds = [(results.upstream_name(of), of["regime"], of["state"], of["budget"]["name"]) for of in found]
    for folder, kind in zip(folders, kinds, strict=True):
        if kind != kinds[0]:
            raise BenchmarkError(
                f"{folders[0]} and {folder} are not runs of one system that differ in their seeds alone, so that they "
                "cannot be averaged; compare two systems by --against"
            )
    default = f"{results.upstream_name(found[0])}, {found[0]['regime']}"
    return System(name or default, list(folders), every, found, declared)


def _same_test_set(one: Items, other: Items) -> bool:
    if one.kind != other.kind or list(one.ids) != list(other.ids):
        return False
    if isinstance(one, Trials) and isinstance(other, Trials):
        return all(np.array_equal(getattr(one, of), getattr(other, of)) for of in ("labels", "enrolment", "test"))
    if isinstance(one, Classes) and isinstance(other, Classes):
        return [one.names[k] for k in one.references] == [other.names[k] for k in other.references]
    return isinstance(one, Edits) and isinstance(other, Edits) and list(one.references) == list(other.references)


# --- What is found ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Grouping:
    """Which speaker, language or class each utterance is of."""

    noun: str
    of: Sequence[str]
    """(utterance,)"""

    @property
    def plural(self) -> str:
        """``speakers``."""
        return f"{self.noun}es" if self.noun.endswith("s") else f"{self.noun}s"


@dataclass(eq=False)
class Found:
    """The influence of each group of one grouping."""

    grouping: Grouping
    each: list[Influence]
    """Of each system: first, second."""
    change: Influence
    """Of the difference second - first, or of the only system."""
    rates: list[NDArray[np.float64]]
    """Of each system: the error rate within each group, in percent; see :func:`influences.group_rates`."""


@dataclass(eq=False)
class Explained:
    """A system, or the difference between two, with the influence of each group."""

    title: str
    systems: list[System]
    """The only one; or first and second, of which second - first is explained."""
    found: list[Found] = field(default_factory=list)

    @property
    def metric(self) -> Metric:
        """Of both."""
        return self.systems[0].metric

    @property
    def items(self) -> Items:
        """Of the first run."""
        return self.systems[0].items[0]

    def shown(self, rate: float) -> float | None:
        """A group's error rate as it is shown: of classes, the accuracy; ``None`` where it is not known."""
        if np.isnan(rate):
            return None
        return 100 - float(rate) if isinstance(self.items, Classes) else float(rate)

    @property
    def rate_label(self) -> str:
        """What :meth:`shown` gives, for columns."""
        if isinstance(self.items, Classes):
            return "accuracy (%)"
        if isinstance(self.items, Trials):
            return "errors (%)"
        return "CER (%)" if self.systems[0].characters else "WER (%)"

    def amount(self, value: float) -> str:
        """A value of the metric, or a difference between two."""
        if len(self.systems) == 1:
            return self.metric.text(value)
        return f"{number_text(value)} points" if self.metric.unit == "%" else number_text(value)


def explain(
    title: str, systems: Sequence[System], among: Sequence[Grouping] | None = None, most_slow: int | None = None
) -> Explained:
    """The influence of each group on a result, or on the difference between two.

    Args:
        title: of the section.
        systems: one; or two, of which second - first is explained.
        among: which groups; default: :func:`groupings`.
        most_slow: refuse more groups than this where the metric is computed anew for each.

    Raises:
        BenchmarkError: the systems were not scored on one test set by one metric; as :func:`influences.influence`.
    """
    first = systems[0].items[0]
    if any(system.metric.name != systems[0].metric.name for system in systems):
        raise BenchmarkError("the runs are scored by different metrics; choose one by --metric")
    for system in systems:
        for folder, items in zip(system.folders, system.items, strict=True):
            if not _same_test_set(first, items):
                raise BenchmarkError(f"{folder} was scored on another test set than {systems[0].folders[0]}")
    explained = Explained(title, list(systems))
    for grouping in groupings(systems[0]) if among is None else among:
        if most_slow is not None and len({*grouping.of}) > most_slow and not influences.quick(first, explained.metric):
            raise BenchmarkError(
                f"{explained.metric.label} would be computed anew for each of {len({*grouping.of}):,} {grouping.plural}"
            )
        each, rates = [], []
        for system in systems:
            each.append(influences.mean([influences.influence(of, system.metric, grouping.of) for of in system.items]))
            of_runs = [
                influences.group_rates(items, grouping.of, characters=system.characters) for items in system.items
            ]
            rates.append(np.mean(of_runs, axis=0))
        change = influences.difference(*each) if len(each) == 2 else each[0]
        explained.found.append(Found(grouping, each, change, rates))
    return explained


def labelled(system: System, noun: str, labels: Mapping[str, str | None]) -> Grouping:
    """Utterances grouped by a label.

    Args:
        system: whose test set it is.
        noun: name of the label, as ``language``.
        labels: utterance id -> its label.

    Raises:
        BenchmarkError: an utterance has none.
    """
    ids = system.items[0].ids
    missing = [name for name in ids if labels.get(name) is None]
    if missing:
        raise BenchmarkError(
            f"{len(missing):,} of {len(ids):,} utterances have no label '{noun}', the first is {missing[0]}"
        )
    return Grouping(noun, [str(labels[name]) for name in ids])


def groupings(system: System) -> list[Grouping]:
    """Without any labels but those that a run keeps: by speaker (or what the test set's clusters are) and, of classes,
    by class, which is called language where the classes are languages."""
    items = system.items[0]
    found = [Grouping(items.cluster.partition(" ")[0], list(items.clusters))]
    if isinstance(items, Classes):
        classes = [items.names[k] for k in items.references]
        languages = system.results[0]["data"]["test"].get("languages") == len({*classes})
        found = [grouping for grouping in found if grouping.noun != "utterance"]
        sizes = {len({*of}) for of in (classes, items.clusters, zip(classes, items.clusters, strict=True))}
        if not found or len(sizes) > 1:  # else the classes are the speakers
            found.append(Grouping("language" if languages else "class", classes))
    return [grouping for grouping in found if len({*grouping.of}) > 1]


# --- What is said -----------------------------------------------------------------------------------------------------


def sentences(explained: Explained, found: Found) -> list[str]:
    """What the influences of one grouping show, in plain text."""
    change, grouping, metric = found.change, found.grouping, explained.metric
    names = [system.name for system in explained.systems]
    texts = []
    if len(names) == 2:
        first, second = (one.value for one in found.each)
        texts.append(
            f"{names[1]} − {names[0]}: {explained.amount(change.value)} of {metric.label} "
            f"({metric.text(second)} against {metric.text(first)})."
        )
        fewer, more = (int(np.sum(sign * (found.rates[0] - found.rates[1]) > 1e-9)) for sign in (1, -1))
        texts.append(
            f"{names[1]} makes fewer errors than {names[0]} on {fewer:,} of {len(change.names):,} {grouping.plural} "
            f"and more on {f'{more:,}' if more else 'none'}."
            if fewer or more
            else f"{names[1]} and {names[0]} make as many errors as each other on each of the {len(change.names):,} "
            f"{grouping.plural}."
        )
    else:
        texts.append(f"{names[0]}: {metric.label} {metric.text(change.value)}.")
    top = change.order()[0]
    if np.isnan(change.without[top]):
        return [*texts, f"Without any one {grouping.noun}, {metric.label} is not determined."]
    what = "the difference" if len(names) == 2 else metric.label
    if abs(change.influence[top]) > 1e-9:
        texts.append(
            f"{grouping.noun.capitalize()} {change.names[top]} has the largest influence: without it, {what} is "
            f"{explained.amount(change.without[top])}."
        )
    else:
        where = " where it is determined" if np.isnan(change.without).any() else ""
        texts.append(f"No single {grouping.noun} changes {what}: without any one of them it is the same{where}.")
    if len(names) == 2 and change.value:
        turned = [name for name, value in zip(change.names, change.without, strict=True) if value * change.value <= 0]
        if turned:
            which = turned[0] if len(turned) == 1 else f"any one of {len(turned):,} {grouping.plural}"
            texts.append(
                f"Which of the two is better rests on a single {grouping.noun}: without {which} they change places."
            )
        else:
            texts.append(f"No single {grouping.noun} decides which of the two is better.")
    return texts


def influence_table(explained: Explained, found: Found, name: str = "influence") -> Table:
    """Every group, the largest influence first."""
    grouping, metric, change = found.grouping, explained.metric, found.change
    names = [system.name for system in explained.systems]
    of = [f", {name}" for name in names] if len(names) == 2 else [""]
    rate = explained.rate_label
    columns = [grouping.noun, explained.items.kind if isinstance(explained.items, Trials) else "utterances"]
    columns += [f"{rate}{which}" for which in of] + [f"influence{which}" for which in of]
    columns += ["influence on the difference", "difference without it"] if len(names) == 2 else ["without it"]
    rows: list[list[Value]] = []
    for k in change.order():
        own = [explained.shown(rates[k]) for rates in found.rates] + [_known(one.influence[k]) for one in found.each]
        last = [_known(change.influence[k])] if len(names) == 2 else []
        rows.append([change.names[k], int(change.items[k]), *own, *last, _known(change.without[k])])
    caption = (
        f"Influence: {metric.label} of all the data minus {metric.label} without the {grouping.noun}, computed "
        f"again, in {'points' if metric.unit == '%' else 'units'} of {metric.axis}."
    )
    if isinstance(explained.items, Trials):
        caption += " Errors: of the trials in which it occurs, decided at the threshold of the EER."
    return Table(columns, rows, f"{explained.title}: influence of each {grouping.noun}.", caption, name)


def spread_table(explained: Explained, found: Found, name: str = "spread") -> Table:
    """How the accuracy or error rate varies over the groups, a line for each system; see :class:`influences.Spread`."""
    accuracy = isinstance(explained.items, Classes)
    rows: list[list[Value]] = []
    for system, rates in zip(explained.systems, found.rates, strict=True):
        of = influences.spread(100 - rates if accuracy else rates, higher_is_better=accuracy)
        worst = f"{found.change.names[of.worst]}: {number_text(of.worst_value)}"
        rows.append([system.name, of.groups, of.mean, _known(of.sd), worst, of.worst_groups, of.worst_mean])
    grouping, rate = found.grouping, explained.rate_label
    columns = [
        "system", grouping.plural, f"mean {rate}", f"SD over {grouping.plural}", f"worst {grouping.noun}", "k",
        f"mean of the k worst {grouping.plural}",
    ]  # fmt: skip
    caption = (
        f"Each {grouping.noun} counts once, as in ML-SUPERB 2.0 (SD with n − 1). k: 15, or a tenth where there are "
        f"fewer than 30 {grouping.plural}."
    )
    return Table(columns, rows, f"{explained.title}: spread over {grouping.plural}.", caption, name)


def confusion_table(explained: Explained, name: str = "confusions") -> Table | None:
    """The most frequent confusions of classes, with the utterances of each system, summed over its runs."""
    counts: list[dict[tuple[str, str], int]] = []
    for system in explained.systems:
        summed: dict[tuple[str, str], int] = {}
        for items in system.items:
            for said, heard, count in confusions(items) if isinstance(items, Classes) else ():
                summed[said, heard] = summed.get((said, heard), 0) + count
        counts.append(summed)
    pairs = sorted({*counts[0], *counts[-1]}, key=lambda pair: (-sum(of.get(pair, 0) for of in counts), pair))
    if not pairs:
        return None
    rows: list[list[Value]] = [[*pair, *(of.get(pair, 0) for of in counts)] for pair in pairs]
    columns = ["said", "recognised as", *(system.name for system in explained.systems)]
    return Table(
        columns, rows, f"{explained.title}: confusions.", "Utterances, summed over the runs of each system.", name
    )


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
