"""``wavbench report``: what studies found, on one page that stands alone, with its tables as CSV and LaTeX beside it.

Everything is read from the results' own files: ``study.yaml``, ``cell.json``, ``result.json``, ``config.yaml`` and, for
intervals over the test set, ``scores.txt`` and ``predictions.jsonl``. No data and no checkpoint are needed, so that
results of several machines are merged where they lie.

What is put into one figure must be comparable, or the report is refused: one test set, protocol and metric a task, one
checkpoint an upstream, one configuration a regime (what the search varies apart). A cell that is there twice with one
configuration is taken from the folder named first, with a notice.
"""

from __future__ import annotations

import argparse
import base64
import csv
import dataclasses
import html
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmark import budget as budgets
from benchmark import config, metrics, plots, results
from benchmark import statistics as stats
from benchmark.errors import BenchmarkError
from benchmark.files import write_bytes, write_text
from benchmark.study import Cell, Study, cells, finished

# --- Metrics ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metric:
    """How a metric is named and read."""

    label: str
    unit: str = ""
    """``%``, or nothing for costs."""
    higher: bool = False
    """Higher is better."""
    ceiling: float | None = None
    """Of the errors' range, from 0: what the area under a learning curve is a share of."""

    def text(self, value: float) -> str:
        """The value with its unit."""
        return f"{_number(value)} %" if self.unit else _number(value)

    def error(self, value: float) -> float:
        """Lower is better: the value, or what it lacks to the ceiling."""
        return (self.ceiling or 0.0) - value if self.higher else value

    @property
    def axis(self) -> str:
        """Label of an axis."""
        unit = f" ({self.unit})" if self.unit else ""
        return f"{self.label}{unit}, {'higher' if self.higher else 'lower'} is better"


METRICS = {
    "eer": Metric("EER", "%", ceiling=100.0),
    "min_dcf_p01": Metric("minDCF (P = 0.01)", ceiling=1.0),
    "min_dcf_p05": Metric("minDCF (P = 0.05)", ceiling=1.0),
    "wer": Metric("WER", "%", ceiling=100.0),
    "cer": Metric("CER", "%", ceiling=100.0),
    "accuracy": Metric("accuracy", "%", higher=True, ceiling=100.0),
    "top5_accuracy": Metric("top-5 accuracy", "%", higher=True, ceiling=100.0),
    "macro_accuracy": Metric("macro accuracy", "%", higher=True, ceiling=100.0),
    "macro_f1": Metric("macro F1", "%", higher=True, ceiling=100.0),
    "cavg": Metric("Cavg", ceiling=1.0),
    "min_cavg": Metric("min. Cavg", ceiling=1.0),
}
"""Those that are known; any other is read as an error without a unit."""


def _number(value: float) -> str:
    """Three significant digits, or as many as stand before the point; with a true minus sign."""
    if abs(value) < 1e-9:  # a difference of what is equal but for rounding
        text = "0"
    elif abs(value) >= 100:
        text = f"{value:,.0f}"
    elif abs(value) >= 1:
        text = f"{value:#.3g}"
    else:
        text = f"{value:.3g}"
    return text.replace("-", "−")


def _duration(seconds: float) -> str:
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 0.995 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _labels(budget: str) -> str:
    return "all labels" if budget == "all" else f"a budget of {budget}"


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


# --- What was run -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Run:
    """The run that a cell chose."""

    cell: Cell
    folder: Path
    result: dict[str, Any]
    config: dict[str, Any]
    """Dotted key -> value."""
    outcome: dict[str, Any]
    """``cell.json``; empty for a run outside of a study."""

    @property
    def metric(self) -> str:
        """The metric that chose it on dev."""
        return str(self.result["selected"]["metric"])

    @property
    def value(self) -> float:
        """That metric on test."""
        return float(self.result["metrics"]["test"][self.metric])


@dataclass
class Gathered:
    """All that the folders hold."""

    runs: dict[Cell, Run] = field(default_factory=dict)
    absent: dict[Cell, str] = field(default_factory=dict)
    """Cells of the recipes without a result -> why."""
    studies: dict[str, Study] = field(default_factory=dict)
    """By the folder they were read from."""
    notices: list[str] = field(default_factory=list)
    repeated: int = 0
    """Cells that were there again, with the same result."""
    synthetic: bool = False
    """A recipe says ``synthetic: true``, or a folder of the data holds the marker."""


MARKER = "synthetic.json"
"""Lies in the folder of a corpus that was made by a program."""
_ELSEWHERE = (
    "data.root", "data.workers", "data.train", "data.dev", "data.test", "data.trials", "device", "plugins",
    "trainer.save_every", "trainer.log_every", "features.", "upstream.checkpoint", "upstream.options.",
)  # fmt: skip
"""Keys (or their beginnings) that may differ between machines; the data and weights are compared by digests."""


def gather(folders: Sequence[Path]) -> Gathered:
    """Read studies, and runs outside of studies, at and below some folders.

    Raises:
        BenchmarkError: a folder is not there or holds no result; a file is not readable or of another schema; what
            should be comparable is not (see the module's description).
    """
    found = Gathered()
    for folder in folders:
        if not folder.is_dir():
            raise BenchmarkError(f"no folder {folder}; give folders that 'wavbench recipe' wrote (results/<study>)")
        roots = sorted({path.parent for path in folder.rglob("study.yaml")})
        for root in roots:
            _add_study(root, found)
        for path in sorted(folder.rglob("result.json")):
            if not any(root in path.parents for root in roots):
                _add_single(path, found)
    if not found.runs:
        raise BenchmarkError(
            f"no finished cell at or below {', '.join(map(str, folders))}"
            + "".join(f"\n  {cell.folder}: {why}" for cell, why in list(found.absent.items())[:5])
        )
    for cell in [cell for cell in found.absent if cell in found.runs]:
        del found.absent[cell]
    if found.repeated:
        found.notices.append(f"{_plural(found.repeated, 'cell')} found twice, with the same result; shown once.")
    _check_comparable(list(found.runs.values()), found.notices)
    return found


def _add_study(root: Path, found: Gathered) -> None:
    values = config.read_yaml(root / "study.yaml")
    found.synthetic |= bool(values.pop("synthetic", False))
    try:
        study = cast(Study, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Study), values)))
    except OmegaConfBaseException as error:
        raise BenchmarkError(f"{root / 'study.yaml'} is no recipe of this version: {error}") from error
    found.studies[str(root)] = study
    every = _cells(study, root, found)
    chosen = set()
    for cell in every:
        folder = root / cell.folder
        outcome = finished(folder)
        if outcome is not None:
            chosen.add(folder / outcome["chosen"])
            _add(_read(cell, folder / outcome["chosen"], outcome), found)
        elif (folder / "error.txt").exists():
            found.absent.setdefault(cell, "failed: " + (folder / "error.txt").read_text(encoding="utf-8").strip())
        else:
            found.absent.setdefault(cell, "not finished" if folder.exists() else "not run")
    others = [path for path in sorted(root.rglob("result.json")) if not chosen & set(path.parents)]
    if others:
        found.notices.append(
            f"{root} has {_plural(len(others), 'result')} that no cell of its recipe chose (such as "
            f"{others[0].parent.relative_to(root)}); left out."
        )


def _cells(study: Study, root: Path, found: Gathered) -> list[Cell]:
    """The recipe's cells. How many states an upstream has is read off the results, not off its checkpoint."""
    every: list[Cell] = []
    for name, upstream in study.upstreams.items():
        regimes = dict(study.regimes)
        for how, regime in study.regimes.items():
            if regime.regime == "probe" and regime.states == "all":
                number = _states(root / name, how)
                if number:
                    regimes[how] = dataclasses.replace(regime, states=list(range(number)))
                else:
                    del regimes[how]
                    found.notices.append(f"{root}: nothing of {name}, {how} was run yet.")
        if regimes:
            every += cells(dataclasses.replace(study, upstreams={name: upstream}, regimes=regimes))
    return every


def _states(folder: Path, regime: str) -> int:
    """From the layer weights of any result, else the highest state that was begun."""
    for path in sorted(folder.rglob("result.json")):
        weights = results.read(path)["layer_weights"]
        if weights:
            return len(weights)
    begun = [path.name.removeprefix(f"{regime}-") for path in folder.glob(f"*/{regime}-*")]
    return max((int(state) + 1 for state in begun if state.isdigit()), default=0)


def _add_single(path: Path, found: Gathered) -> None:
    """A run outside of a study; evaluations of other sets are left out."""
    result = _result(path)
    if result["downstream"]["evaluated"] != "test" or path.parent.parent.name == "evaluations":
        found.notices.append(
            f"{path.parent} is an evaluation of '{result['downstream']['evaluated']}' beside the run's own; left out."
        )
        return
    cell = Cell(
        result["upstream"]["name"], result["downstream"]["name"], result["regime"], result["state"],
        result["budget"]["name"], result["seed"],
    )  # fmt: skip
    _add(_read(cell, path.parent, {}), found)


def _result(path: Path) -> dict[str, Any]:
    result = results.read(path)
    if result.keys() != results.FIELDS.keys() or "evaluated" not in result["downstream"]:
        raise BenchmarkError(
            f"{path} lacks fields of result schema {results.SCHEMA}; run wavbench -m evaluate -e again"
        )
    return result


def _read(cell: Cell, folder: Path, outcome: dict[str, Any]) -> Run:
    result = _result(folder / "result.json")
    return Run(cell, folder, result, config.flatten(config.read_yaml(folder / "config.yaml")), outcome)


def _add(run: Run, found: Gathered) -> None:
    known = found.runs.setdefault(run.cell, run)
    root = run.config.get("data.root")
    if root and not found.synthetic:
        found.synthetic = any(Path(root).glob(MARKER)) or any(Path(root).glob(f"*/{MARKER}"))
    if known is run:
        return
    changed = _differences(known, run)
    if changed:
        raise BenchmarkError(
            f"{known.folder} and {run.folder} are both {_name(run.cell)}, of different configurations or data "
            f"(first -> second):\n  " + "\n  ".join(changed) + "\nMake a report of each, or leave one out"
        )
    if known.value == run.value:
        found.repeated += 1
    else:
        found.notices.append(
            f"{run.folder} repeats {known.folder}, with another result ({run.metric} {run.value:.6g} instead of "
            f"{known.value:.6g}); the first is shown."
        )


def _differences(first: Run, second: Run, *, but: Sequence[str] = ()) -> list[str]:
    """What differs of two runs' configurations, data and upstream, as ``key: first -> second``."""
    keys = sorted(first.config.keys() | second.config.keys())
    pairs = [(key, first.config.get(key), second.config.get(key)) for key in keys if not key.startswith(_ELSEWHERE)]
    splits = ("dev", "test") if but else ("train", "dev", "test")
    for split in splits:
        pairs.append((f"{split} data", *(run.result["data"][split]["digest"] for run in (first, second))))
    pairs.append(("upstream's sha256", *(run.result["upstream"]["sha256"] for run in (first, second))))
    return [f"{key}: {old} -> {new}" for key, old, new in pairs if str(old) != str(new) and key not in but]


def _check_comparable(runs: Sequence[Run], notices: list[str]) -> None:
    """Refuse what must not stand in one figure; see the module's description."""

    def one(what: str, group: Callable[[Run], Any], of: Callable[[Run], Any]) -> None:
        first: dict[Any, Run] = {}
        for run in runs:
            known = first.setdefault(group(run), run)
            if of(known) != of(run):
                raise BenchmarkError(
                    f"{known.folder} and {run.folder} cannot stand in one report: {what} differs, {of(known)} and "
                    f"{of(run)}. Make a report of each"
                )

    def task(run: Run) -> str:
        return run.cell.task

    one("the metric", task, lambda run: run.metric)
    one("the protocol's version", task, lambda run: run.result["downstream"]["protocol_version"])
    one("the test set (its digest)", task, lambda run: run.result["data"]["test"]["digest"])
    one("the upstream's sha256", lambda run: run.cell.upstream, lambda run: run.result["upstream"]["sha256"])
    first: dict[Any, Run] = {}
    for run in runs:
        known = first.setdefault((run.cell.upstream, run.cell.task, run.cell.regime), run)
        searched = {key for one in (known, run) for tried in one.outcome.get("tried", []) for key in tried["candidate"]}
        changed = _differences(known, run, but=("seed", "budget", "featurizer.state", *searched))
        if changed:
            raise BenchmarkError(
                f"{known.folder} and {run.folder} are of one regime, of different configurations (first -> second):\n  "
                + "\n  ".join(changed)
                + "\nMake a report of each, or give the regimes different names in the recipes"
            )
    trained: dict[Any, set[str]] = {}
    for run in runs:
        of = (run.cell.task, run.cell.budget, run.cell.seed)
        trained.setdefault(of, set()).add(run.result["data"]["train"]["digest"])
    for (name, amount, seed), digests in trained.items():
        if len(digests) > 1:
            notices.append(f"{name}, budget {amount}, seed {seed}: not all regimes trained on the same utterances.")
    for name in sorted({run.metric for run in runs} - METRICS.keys()):
        notices.append(f"The report does not know the metric '{name}'; it is read as an error, lower being better.")


def _name(cell: Cell) -> str:
    how = cell.regime if cell.state is None else f"{cell.regime} of state {cell.state}"
    return f"{cell.upstream}, {cell.task}, {how}, budget {cell.budget}, seed {cell.seed}"


# --- The test set, from a run's own files -----------------------------------------------------------------------------

_SPEAKER = [
    re.compile(r"(id\d+)/.+"),
    re.compile(r"(\d+)-\d+-\d+"),
    re.compile(r"(.+/(?:train|dev|test)/.+)/[^/]+"),
]
"""Ids of utterances that name their speaker: ``id00001/<video>/<file>``, ``<speaker>-<chapter>-<number>``,
``<language>/<split>/<speaker>/<file>``."""


def speaker_of(utterance: str) -> str | None:
    """The speaker that an utterance's id names, if it is of a kind that does."""
    for pattern in _SPEAKER:
        match = pattern.fullmatch(utterance)
        if match:
            return match[1]
    return None


def statistic(run: Run) -> tuple[stats.Statistic | None, str]:
    """The run's metric as a function of the drawn clusters, and what the clusters are; or ``None``, and why not."""
    try:
        if (run.folder / "scores.txt").exists():
            made = _of_trials(run.folder / "scores.txt")
        elif (run.folder / "predictions.jsonl").exists():
            made = _of_predictions(run.folder)
        else:
            return None, "the run kept neither scores.txt nor predictions.jsonl"
    except (ValueError, LookupError, TypeError) as error:
        return None, f"a file of the run is not as expected ({type(error).__name__}: {error})"
    except BenchmarkError as error:
        return None, str(error)
    found, clusters = made
    value = found.values().get(run.metric)
    if value is None:
        return None, f"there is no bootstrap for {run.metric}"
    if not math.isclose(value, run.value, rel_tol=1e-3, abs_tol=1e-3):
        return None, f"the run's files give {value:.5g}, its result {run.value:.5g}"
    return found, clusters


def _of_trials(path: Path) -> tuple[stats.Statistic, str]:
    rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    labels, first, second, scores = zip(*rows, strict=True)
    label, score = np.array(labels, dtype=int), np.array(scores, dtype=float)
    speakers = [[speaker_of(name) for name in side] for side in (first, second)]
    named = all(name is not None for side in speakers for name in side)
    if named and np.array_equal(np.array(speakers[0]) == np.array(speakers[1]), label == 1):
        one, other = cast(list[list[str]], speakers)
        return stats.verification(label, score, one, other), "speakers"
    one, other = _connected(label == 1, first, second)
    return stats.verification(label, score, one, other), "speakers (utterances that target trials connect)"


def _connected(is_target: Any, first: Sequence[str], second: Sequence[str]) -> list[list[str]]:
    """A name for each side of each trial: utterances that target trials connect share one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    names, index = np.unique([*first, *second], return_inverse=True)
    one, other = index[: len(first)][is_target], index[len(first) :][is_target]
    graph = coo_array((np.ones(one.size), (one, other)), shape=(names.size, names.size))
    group = connected_components(graph, directed=False)[1][index].astype(str).tolist()
    return [group[: len(first)], group[len(first) :]]


def _of_predictions(folder: Path) -> tuple[stats.Statistic, str]:
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    lines.sort(key=lambda line: str(line["id"]))
    references, predictions = ([str(line[name]) for line in lines] for name in ("reference", "prediction"))
    speakers = [line.get("speaker") or speaker_of(str(line["id"])) for line in lines]
    clusters, kind = [str(line["id"]) for line in lines], "utterances (their ids name no speaker)"
    if all(speakers):
        clusters, kind = [str(name) for name in speakers], "speakers"
    if "substitutions" in lines[0]:
        edits = [sum(line[name] for name in ("substitutions", "deletions", "insertions")) for line in lines]
        characters = [metrics.character_edits(*pair) for pair in zip(references, predictions, strict=True)]
        wrong = [edit.substitutions + edit.deletions + edit.insertions for edit in characters]
        words = [len(reference.split()) for reference in references]
        rates = {"wer": (edits, words), "cer": (wrong, [edit.length for edit in characters])}
        return stats.error_rates(rates, clusters), kind
    names = sorted(set(references))
    names += sorted(set(predictions) - set(names))
    llrs = None
    if "log_posteriors" in lines[0] and (folder / "confusion.csv").exists():
        columns = _confusion(folder / "confusion.csv")[0]
        names += [name for name in columns if name not in names]
        order = [columns.index(name) for name in names]
        llrs = metrics.detection_llrs(np.array([line["log_posteriors"] for line in lines]))[:, order]
    number = {name: index for index, name in enumerate(names)}
    spoken, predicted = ([number[name] for name in of] for of in (references, predictions))
    return stats.identification(spoken, predicted, clusters, llrs), kind


def _confusion(path: Path) -> tuple[list[str], Any]:
    """Classes, and (reference, prediction) counts."""
    with open(path, newline="", encoding="utf-8") as file:
        (_, *names), *rows = csv.reader(file)
    if [row[0] for row in rows] != names:
        raise ValueError(f"{path} is no confusion matrix: its rows are not its columns")
    return names, np.array([row[1:] for row in rows], dtype=float)


# --- Comparisons ------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Series:
    """One upstream in one regime over the budgets of one kind, on one task."""

    upstream: str
    regime: str
    kind: str
    """Of its budgets; '' where all are all of the data."""
    name: str
    """In legends and tables."""
    points: dict[str, dict[int, Run]]
    """Budget -> seed -> run, smallest budget first."""

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
        one, other = self.first.points[budget], self.second.points[budget]
        both = [seed for seed in one if seed in other]
        return float(np.mean([one[seed].value for seed in both])), float(np.mean([other[seed].value for seed in both]))


@dataclass
class TaskView:
    """All runs of one task."""

    name: str
    metric: Metric
    key: str
    """The metric's name."""
    seconds: dict[str, float]
    """Budget -> labelled audio, mean over its runs; smallest first."""
    series: list[Series]
    probes: dict[tuple[str, str, str], dict[int, dict[int, Run]]]
    """(upstream, regime, budget) -> state -> seed -> run."""
    contrasts: list[Contrast] = field(default_factory=list)

    @property
    def runs(self) -> list[Run]:
        """Of the series and the probes."""
        runs = [run for series in self.series for seeds in series.points.values() for run in seeds.values()]
        return runs + [run for of in self.probes.values() for seeds in of.values() for run in seeds.values()]


class Bootstrap:
    """Intervals over the test sets, each run's files read once."""

    def __init__(self, replicates: int) -> None:
        self.replicates = replicates
        self._known: dict[Path, tuple[stats.Statistic | None, str]] = {}
        self._summaries: dict[tuple[Path, ...], tuple[stats.Interval | None, str]] = {}

    def _statistics(self, runs: Iterable[Run]) -> tuple[list[stats.Statistic], str]:
        made = []
        for run in runs:
            if run.folder not in self._known:
                self._known[run.folder] = statistic(run)
            found, why = self._known[run.folder]
            if found is None:
                return [], why
            made.append(found)
        return made, why

    def summary(self, runs: Sequence[Run]) -> tuple[stats.Interval | None, str]:
        """Of the mean over the runs; or ``None``, and why not."""
        key = tuple(run.folder for run in runs)
        if key not in self._summaries:
            made, why = self._statistics(runs)
            interval = None
            if made:
                try:
                    interval = stats.summarise(made, replicates=self.replicates)[runs[0].metric].test_set
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
        made, why = self._statistics([*(first[seed] for seed in both), *(second[seed] for seed in both)])
        if made:
            try:
                compared = stats.compare(made[: len(both)], made[len(both) :], replicates=self.replicates)
                of = compared[first[both[0]].metric]
                return Difference(budget, seeds, of.test_set, of.probability_of_improvement, why)
            except BenchmarkError as error:
                why = str(error)
        return Difference(budget, seeds, None, None, why)


_KINDS = {"s": "audio", "%": "audio", "utt": "utterances", "speakers": "speakers"}


def _kind(budget: str) -> str:
    """Budgets of one kind are nested and make one curve; '' is all of the data, which ends every curve."""
    return " + ".join(_KINDS.get(part.unit, part.unit) for part in budgets.parse(budget))


def tasks(found: Gathered, bootstrap: Bootstrap) -> list[TaskView]:
    """The runs by task, with comparisons of each regime with its upstream's frozen one, and with the same regime of the
    first upstream."""
    views = []
    for task in dict.fromkeys(cell.task for cell in found.runs):
        runs = [run for run in found.runs.values() if run.cell.task == task]
        labelled: dict[str, list[float]] = {}
        for run in runs:
            labelled.setdefault(run.cell.budget, []).append(run.result["data"]["train"]["seconds"])
        seconds = {budget: float(np.mean(of)) for budget, of in labelled.items()}
        seconds = dict(sorted(seconds.items(), key=lambda item: item[1]))
        key = runs[0].metric
        probes: dict[tuple[str, str, str], dict[int, dict[int, Run]]] = {}
        for run in runs:
            cell = run.cell
            if cell.state is not None:
                states = probes.setdefault((cell.upstream, cell.regime, cell.budget), {})
                states.setdefault(cell.state, {})[cell.seed] = run
        series = _series([run for run in runs if run.cell.state is None], seconds)
        view = TaskView(task, METRICS.get(key, Metric(key.replace("_", " "))), key, seconds, series, probes)
        for second in series:
            first = _baseline(second, series)
            if first is not None:
                view.contrasts.append(_contrast(view, first, second, bootstrap))
        for second in series:
            others = [one for one in series if (one.regime, one.kind) == (second.regime, second.kind)]
            if others[0].upstream != second.upstream:
                view.contrasts.append(_contrast(view, others[0], second, bootstrap))
        views.append(view)
    return views


def _baseline(second: Series, series: Sequence[Series]) -> Series | None:
    """The first frozen regime of the same upstream (else its first), of the same kind of budgets where there is one."""
    of = [one for one in series if one.upstream == second.upstream]
    base = next((one for one in of if _regime(one) == "frozen"), of[0]).regime
    found = [one for one in of if one.regime == base and one.points.keys() & second.points.keys()]
    if second.regime == base or not found:
        return None
    return max(found, key=lambda one: len(one.points.keys() & second.points.keys()))


def _regime(series: Series) -> str:
    """What the engine calls the regime."""
    return str(next(iter(series.points[series.largest].values())).result["regime"])


def _series(runs: Sequence[Run], seconds: Mapping[str, float]) -> list[Series]:
    found: dict[tuple[str, str, str], dict[str, dict[int, Run]]] = {}
    groups = dict.fromkeys((run.cell.upstream, run.cell.regime) for run in runs)
    several = len({upstream for upstream, _ in groups}) > 1
    kinds = list(dict.fromkeys(kind for run in runs if (kind := _kind(run.cell.budget)))) or [""]
    for upstream, regime in groups:
        of = [run for run in runs if (run.cell.upstream, run.cell.regime) == (upstream, regime)]
        own = list(dict.fromkeys(kind for run in of if (kind := _kind(run.cell.budget)))) or [""]
        for kind in own:
            for budget in seconds:
                seeds = {run.cell.seed: run for run in of if run.cell.budget == budget}
                if seeds and _kind(budget) in ("", kind):
                    found.setdefault((upstream, regime, kind), {})[budget] = dict(sorted(seeds.items()))
    made = []
    for (upstream, regime, kind), points in found.items():
        name = f"{upstream}, {regime}" if several else regime
        made.append(Series(upstream, regime, kind, f"{name}, {kind}" if len(kinds) > 1 and kind else name, points))
    return made


def _curve(view: TaskView, series: Series, among: Iterable[str], seed: int | None = None) -> stats.Curve:
    """The learning curve as errors, over some of its budgets; of one seed, or the mean."""
    points: dict[float, list[float]] = {}
    for budget in among:
        of = series.points[budget]
        values = [run.value for run in of.values()] if seed is None else [of[seed].value]
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
        one, other = (_curve(view, series, common) for series in (first, second))
        contrast.target = stats.labels_to_target(other, one.errors[-1])
        contrast.multiplier = stats.label_multiplier(one, other).mean
        contrast.crossovers = stats.crossovers(one, other)
        for seed in _complete(first, common):
            if seed in _complete(second, common):
                one, other = (_curve(view, series, common, seed) for series in (first, second))
                single = stats.label_multiplier(one, other).mean
                contrast.multipliers += [] if single is None else [single]
    return contrast


def _areas(view: TaskView) -> dict[str, tuple[float, list[float], tuple[float, float]]]:
    """Series -> normalised area of the mean curve, of single seeds, and the budgets (seconds): one range for all of an
    upstream-independent comparison, the one that all series with two budgets share."""
    curves = [series for series in view.series if len(series.points) > 1]
    if view.metric.ceiling is None or not curves:
        return {}
    low = max(view.seconds[next(iter(series.points))] for series in curves)
    high = min(view.seconds[series.largest] for series in curves)
    if not low < high:
        return {}
    errors, found = (0.0, view.metric.ceiling), {}
    for series in curves:
        among = list(series.points)
        mean = stats.area(_curve(view, series, among), errors=errors, budgets=(low, high)).value
        seeds = [
            stats.area(_curve(view, series, among, seed), errors=errors, budgets=(low, high)).value
            for seed in _complete(series, among)
        ]
        found[series.name] = (mean, seeds, (low, high))
    return found


# --- Words ------------------------------------------------------------------------------------------------------------


def _excludes_zero(low: float | None, high: float | None) -> bool:
    return low is not None and high is not None and (low > 0 or high < 0)


def verdict(difference: Difference, metric: Metric) -> str:
    """What a difference is worth, in words; says less than the numbers, never more."""
    interval, seeds = difference.test_set, difference.seeds
    if seeds.mean == 0 and interval is None:
        return "no difference"
    better = "better" if (seeds.mean > 0) == metric.higher else "worse"
    if interval is None:
        return f"{better} on this test set; how it would be on another is not known"
    if not _excludes_zero(interval.low, interval.high):
        return "not told apart by this test set"
    if interval.biased:
        return f"{better} on this test set; its interval is unreliable"
    if seeds.n == 1:
        return f"{better} with this seed; one seed does not tell the luck of training"
    if not _excludes_zero(seeds.low, seeds.high):
        return f"{better} with these {seeds.n} seeds, too few or too different to speak for others"
    return better


def _interval(interval: stats.Interval) -> str:
    return f"[{_number(interval.low)}, {_number(interval.high)}]"


def sentences(view: TaskView, contrast: Contrast) -> list[str]:
    """What a regime buys against another, in a few sentences."""
    metric, first, second = view.metric, contrast.first, contrast.second
    said = []
    if contrast.differences:
        budget = list(contrast.differences)[-1]
        difference = contrast.differences[budget]
        one, other = contrast.values(budget)
        spread = difference.seeds
        unit = " points" if metric.unit else ""
        change = f"{'+' if spread.mean > 0 else ''}{_number(spread.mean)}{unit}"
        if difference.test_set is None:
            over = f"no interval over the test set: {difference.why.rstrip('.')}"
        else:
            over = (
                f"{100 * difference.test_set.level:.0f} % interval over the {difference.test_set.clusters} "
                f"{difference.why.partition(' (')[0]} of the test set {_interval(difference.test_set)}"
            )
        over += f"; SD over {spread.n} seeds {_number(spread.sd)}" if spread.sd is not None else "; one seed"
        said.append(
            f"With {_labels(budget)} ({_duration(view.seconds[budget])}), {second.name} has {metric.label} "
            f"{metric.text(other)} where {first.name} has {metric.text(one)}: "
            f"{change} ({over}). Verdict: {verdict(difference, metric)}."
        )
    if len(contrast.differences) < 2:
        said.append("Fewer than two budgets in common: nothing is said of sample efficiency.")
        return said
    if contrast.multiplier is None:
        said.append("The two curves have no error in common over these budgets, so that there is no label multiplier.")
    else:
        seeds = ""
        if len(contrast.multipliers) > 1:
            seeds = f" ({_number(min(contrast.multipliers))} to {_number(max(contrast.multipliers))} by seed)"
        elif len(contrast.multipliers) == 1:
            seeds = " (one seed)"
        said.append(
            f"For the same error {first.name} needs {_number(contrast.multiplier)} times the labels of "
            f"{second.name}{seeds}."
        )
    target = contrast.target
    assert target is not None
    goal = metric.text(metric.error(target.error) if metric.higher else target.error)
    largest = list(contrast.differences)[-1]
    goal += f", the result of {first.name} with {_labels(largest)} ({_duration(view.seconds[largest])})"
    if not target.reached:
        said.append(f"{second.name} does not reach {goal}, with any of these budgets.")
    elif target.at_smallest:
        said.append(f"{second.name} reaches {goal}, already with the smallest budget, {_duration(target.budget or 0)}.")
    else:
        said.append(f"{second.name} reaches {goal}, with about {_duration(target.budget or 0)}.")
    said.append(_crossing(view, contrast))
    uneven = [name for name in contrast.differences if first.points[name].keys() != second.points[name].keys()]
    if uneven:
        said.append(f"At {', '.join(uneven)} the two have different seeds, of which the mean curves use all.")
    return said


def _crossing(view: TaskView, contrast: Contrast) -> str:
    first, second, crossings = contrast.first.name, contrast.second.name, contrast.crossovers
    if len(crossings) == 1:
        before, after = (first, second) if crossings[0].second_better_after else (second, first)
        where = _duration(crossings[0].budget)
        return f"The mean curves cross at about {where}: {before} is better below, {after} above."
    if crossings:
        where = ", ".join(_duration(crossing.budget) for crossing in crossings)
        return f"The mean curves cross {len(crossings)} times (at about {where}): neither is better throughout."
    gains = [difference.seeds.mean * (1 if view.metric.higher else -1) for difference in contrast.differences.values()]
    if all(gain == 0 for gain in gains):
        return "The mean curves lie on each other."
    return f"The mean curves do not cross: {second if sum(gains) > 0 else first} is better at every budget compared."


# --- Tables and figures -----------------------------------------------------------------------------------------------

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
            f'<th scope="col" class="{"number" if numeric else "text"}">{_escape(column)}</th>'
            for column, numeric in zip(self.columns, self._numeric(), strict=True)
        )
        body = "".join(f"<tr>{''.join(map(self._cell, row))}</tr>" for row in self.rows)
        return (
            f'<figure class="table"><figcaption><b>{_escape(self.title)}</b> {_escape(self.caption)}</figcaption>'
            f'<div class="scroll" tabindex="0" role="region" aria-label="{_escape(self.title)}">'
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></figure>"
        )

    def _numeric(self) -> list[bool]:
        return [all(not isinstance(row[i], str) for row in self.rows) for i in range(len(self.columns))]

    @staticmethod
    def _cell(value: Value) -> str:
        kind = "number" if not isinstance(value, str) else "long" if len(value) > 30 else "text"
        return f'<td class="{kind}">{_escape(_shown(value))}</td>'

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
    return _number(value) if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value


def _escape(text: str) -> str:
    return html.escape(text, quote=True)


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
            f'<figure><div class="scroll"><img src="data:image/png;base64,{data}" alt="{_escape(self.alt)}"></div>'
            f"<figcaption>{_escape(self.caption)}</figcaption></figure>"
        )


def made_of(runs: Sequence[Run]) -> str:
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
        f"{listed(map(_commit, runs))}.{search}"
    )


def _commit(run: Run) -> str:
    made = run.result["provenance"]
    commit = str(made["commit"] or "unknown")[:10]
    return f"{commit} with uncommitted changes" if made["dirty"] else commit


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


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")


def task_section(view: TaskView, bootstrap: Bootstrap, notices: list[str]) -> list[Table | Picture]:
    """Figures and tables of one task."""
    found: list[Table | Picture] = []
    slug, runs = _slug(view.name), view.runs
    title = f"{view.name}: {view.metric.label}"
    if view.series:
        curves = {series.name: _points(view, series, bootstrap) for series in view.series}
        ticks = {}
        for budget, seconds in view.seconds.items():
            if any(budget in series.points for series in view.series):
                timed = all(part.unit == "s" for part in budgets.parse(budget)) and budget != "all"
                ticks[seconds] = budget if timed else f"{budget}\n{_duration(seconds)}"
        own = [run for run in runs if run.cell.state is None]
        png = plots.learning_curves(curves, ticks, view.metric.axis, title)
        caption = f"Learning curves. {_BANDS} {made_of(own)}"
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
    caption = "Means over seeds; the interval is over the test set. " + made_of(
        [r for r in view.runs if r.cell.state is None]
    )
    return Table(f"{slug}_results", f"{view.name}: results.", columns, rows, caption)


def _efficiency_table(view: TaskView, slug: str) -> Table:
    areas = _areas(view)
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
            amount = _duration(target.budget or 0)
            needed = "not reached" if not target.reached else f"≤ {amount}" if target.at_smallest else amount
            crossing = ", ".join(_duration(one.budget) for one in contrast.crossovers) or "none"
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
    span = next(iter(areas.values()), None)
    what = f"{view.metric.ceiling:g} − {view.metric.label}" if view.metric.higher else view.metric.label
    caption = "ALC: normalised area under the error curve"
    if span is not None:
        caption += f" ({what}) over log labels from {_duration(span[2][0])} to {_duration(span[2][1])}, lower is better"
    base = ", ".join(dict.fromkeys(contrast.first.name for contrast in own))
    caption += (
        f". Baseline: {base or 'none'}. Multiplier: labels that the baseline needs over those that the regime needs, "
        "for the same error. Nothing is extrapolated. Costs are of the chosen runs alone; a search costs about as many "
        "times that as it has candidates. " + made_of([r for r in view.runs if r.cell.state is None])
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
        + made_of([r for r in view.runs if r.cell.state is None])
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
    caption = f"One state at a time; horizontal: all states, weighted. {_BANDS} {made_of(runs)}"
    columns = ["upstream", "regime", "budget", "state", "seeds", f"test {view.metric.label}", "SD", "95 % from", "to"]
    return [
        Picture(f"{slug}_layers", png, caption, title),
        Table(f"{slug}_layers", f"{view.name}: single states.", columns, rows, made_of(runs)),
    ]


_MOST_LINES = 4


def _shown_runs(view: TaskView) -> tuple[str, dict[str, dict[int, Run]]]:
    """The largest budget that most series have, and series -> seed -> run there: as many as a figure has room for."""
    if not view.series:
        return "", {}
    count = {budget: sum(budget in series.points for series in view.series) for budget in view.seconds}
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
            curve = _det_curve(run.folder)
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
        + (f"{_plural(left_out, 'regime')} left out. " if left_out else "")
        + made_of(used)
    )
    title = f"{view.name}, budget {budget}, seed {common[0]}"
    return [Picture(f"{slug}_det", plots.det(curves, title), caption, f"DET curves: {title}")]


def _det_curve(folder: Path) -> metrics.DetCurve | None:
    if (folder / "scores.txt").exists():
        rows = [line.split() for line in (folder / "scores.txt").read_text(encoding="utf-8").splitlines()]
        return metrics.det_curve([int(label) for label, *_ in rows], [float(score) for *_, score in rows])
    if not ((folder / "predictions.jsonl").exists() and (folder / "confusion.csv").exists()):
        return None
    names = _confusion(folder / "confusion.csv")[0]
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    if not lines or "log_posteriors" not in lines[0]:
        return None
    references = np.array([names.index(line["reference"]) for line in lines])
    llrs = metrics.detection_llrs(np.array([line["log_posteriors"] for line in lines]))
    return metrics.det_curve(*metrics.language_pairs(references, llrs))


def _confusions(view: TaskView, slug: str, notices: list[str]) -> list[Picture]:
    budget, shown = _shown_runs(view)
    found = []
    for name, of in shown.items():
        runs = [run for run in of.values() if (run.folder / "confusion.csv").exists()]
        if not runs:
            continue
        try:
            matrices = [_confusion(run.folder / "confusion.csv") for run in runs]
        except (ValueError, BenchmarkError) as error:
            notices.append(f"{view.name}, {name}: no confusion matrix ({error}).")
            continue
        classes = matrices[0][0]
        if any(names != classes for names, _ in matrices):
            notices.append(f"{view.name}, {name}: the seeds' classes differ, so that there is no confusion matrix.")
            continue
        title = f"{view.name}, {name}, budget {budget}"
        png = plots.confusion(sum(matrix for _, matrix in matrices), classes, title)
        caption = f"Confusions, summed over {_plural(len(runs), 'seed')}; rows in percent. {made_of(runs)}"
        found.append(Picture(f"{slug}_confusion_{_slug(name)}", png, caption, f"Confusion matrix: {title}"))
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
        f"Against cost: a point a budget, means over seeds, of the chosen runs (device: {devices}). {made_of(own)}"
    )
    return Picture(
        f"{slug}_cost", plots.costs(points, view.metric.axis, f"{title} against cost"), caption, f"{title} against cost"
    )


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
            pictures.append(Picture(f"{key}_{_slug(upstream)}", picture, caption + made_of(every), title))
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
                    contrast.second.name, other, of.seeds.mean, "none" if interval is None else _interval(interval),
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
    return Table("glance", "At a glance: each regime against the baseline.", columns, rows, made_of(runs))


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
                ours = "; ".join(f"{s.name}, {s.largest}: {_number(s.mean(s.largest))}" for s in view.series)
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
                run.result["data"]["train"]["digest"], _commit(run), made["device"], made["started"],
            ]
        )  # fmt: skip
    columns = [
        "upstream", "task", "regime", "state", "budget", "seed", "chosen", "update", *names, *costs, "train utterances",
        "train seconds", "train digest", "commit", "device", "started",
    ]  # fmt: skip
    return Table("runs", "Every chosen run.", columns, rows, "All metrics of all evaluation sets.")


# --- The page ---------------------------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 1rem; color: #1b1b1b; background: #fff;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { font-size: 1.3rem; border-bottom: 1px solid #bbb; margin-top: 2.2rem; }
h3 { font-size: 1.05rem; margin-bottom: .3rem; }
figure { margin: 1.4rem 0; } figcaption { font-size: .85rem; color: #444; margin: .3rem 0; max-width: 50rem; }
img { display: block; max-width: min(100%, 36rem); height: auto; } p, li { max-width: 50rem; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .25rem .5rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top;
  min-width: 3.2rem; }
th { border-bottom: 2px solid #888; vertical-align: bottom; } td.number { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th.number { text-align: right; } td:last-child:not(.number), td.long { min-width: 11rem; }
.note { border-left: 4px solid #d55e00; background: #fff6ef; padding: .5rem .9rem; }
pre { overflow-x: auto; background: #f6f6f6; padding: .6rem; font-size: .8rem; }
nav a { margin-right: .8rem; white-space: nowrap; display: inline-block; } a { color: #00558c; }
@media (max-width: 40rem) { body { padding: .7rem; } h1 { font-size: 1.3rem; } }
@media print {
  body { max-width: none; font-size: 10pt; padding: 0; } nav { display: none; }
  figure, li { break-inside: avoid; } h2, h3 { break-after: avoid; } figure.table { break-inside: auto; }
  tr { break-inside: avoid; } .scroll { overflow: visible; } img { max-height: 11cm; max-width: 65%; }
  table { font-size: 7pt; width: 100%; } th, td { padding: .1rem .25rem; min-width: 0; }
  td:last-child:not(.number), td.long { min-width: 0; } td.number { white-space: normal; } .screen { display: none; }
}
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The page loads nothing: browsers refuse whatever is not in it."""


@dataclass
class Report:
    """A page with its parts."""

    page: str
    tables: list[Table]
    pictures: list[Picture]


def make(folders: Sequence[Path], *, title: str | None = None, replicates: int = stats.REPLICATES) -> Report:
    """The report of some results folders.

    Args:
        folders: of studies, or of runs.
        title: of the page; default: the studies' names.
        replicates: of the bootstrap.

    Raises:
        BenchmarkError: as :func:`gather`.
    """
    found = gather(folders)
    bootstrap = Bootstrap(replicates)
    views = tasks(found, bootstrap)
    names = list(dict.fromkeys(study.name for study in found.studies.values()))
    title = title or f"wavbench: {', '.join(names) or 'results'}"
    tables: list[Table] = []
    pictures: list[Picture] = []

    def show(parts: Iterable[Table | Picture | None]) -> str:
        shown = []
        for part in parts:
            if part is not None:
                (tables if isinstance(part, Table) else pictures).append(part)  # type: ignore[arg-type]
                shown.append(part.html())
        return "\n".join(shown)

    sections: list[tuple[str, str, str]] = [("answer", "The answer", _answer(found, views) + show([glance(views)]))]
    for view in views:
        body = show(task_section(view, bootstrap, found.notices))
        sections.append((f"task-{_slug(view.name)}", view.name, _said(view) + body))
    pictures_of_weights, table_of_weights = weights(views)
    tables += table_of_weights  # long: not on the page
    layered = show(pictures_of_weights)
    if layered:
        sections.append(("weights", "Which states are used", layered))
    published = targets(found, views)
    if published is not None:
        sections.append(("targets", "Published results", show([published])))
    sections.append(("cells", "What was run", _completeness(found, show)))
    tables.append(every_run(found))
    sections.append(("settings", "Settings", _settings(found)))
    links = "".join(f'<a href="#{key}">{_escape(name)}</a>' for key, name, _ in sections)
    body = "\n".join(f'<section id="{key}"><h2>{_escape(name)}</h2>\n{text}</section>' for key, name, text in sections)
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{_escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header><h1>{_escape(title)}</h1>
{"".join(f"<p>{_escape(study.question)}</p>" for study in _unique(found) if study.question)}
<nav aria-label="Sections">{links}</nav></header>
<main>
{body}
</main>
</body>
</html>
"""
    return Report(page, tables, pictures)


def _unique(found: Gathered) -> list[Study]:
    return list({study.name: study for study in found.studies.values()}.values())


def _answer(found: Gathered, views: Sequence[TaskView]) -> str:
    parts = []
    if found.synthetic:
        parts.append(
            '<p class="note"><b>Synthetic data.</b> These results were measured on speech that a program made. They '
            "show that the tools work; they say nothing about people's speech.</p>"
        )
    if found.absent:
        parts.append(
            f'<p class="note"><b>Incomplete.</b> Of {len(found.absent) + len(found.runs)} cells, {len(found.absent)} '
            'without a result: see <a href="#cells">what was run</a>.</p>'
        )
    for view in views:
        for contrast in view.contrasts:
            said = sentences(view, contrast)
            areas = _areas(view)
            both = [areas.get(series.name) for series in (contrast.first, contrast.second)]
            if both[0] is not None and both[1] is not None:
                one, other = (_number(area[0]) for area in both if area is not None)
                said.append(f"Area under the error curve: {other} against {one} (lower is better).")
            items = "".join(f"<li>{_escape(sentence)}</li>" for sentence in said)
            heading = f"{view.name}: {contrast.second.name} against {contrast.first.name}"
            parts.append(f"<h3>{_escape(heading)}</h3><ul>{items}</ul>")
        if not view.contrasts:
            best = _best(view)
            parts.append(f"<h3>{_escape(view.name)}</h3><ul>{''.join(f'<li>{_escape(one)}</li>' for one in best)}</ul>")
    return "\n".join(parts)


def _best(view: TaskView) -> list[str]:
    """What can be said of a task without two regimes of one upstream: results at the largest budget, the best state."""
    said = [
        f"{series.name}, budget {series.largest}: {view.metric.label} {view.metric.text(series.mean(series.largest))} "
        f"({_plural(len(series.points[series.largest]), 'seed')})."
        for series in view.series
    ]
    return said + _said_of_layers(view)


def _said_of_layers(view: TaskView) -> list[str]:
    said = []
    for (upstream, _, budget), states in view.probes.items():
        means = {state: float(np.mean([run.value for run in of.values()])) for state, of in states.items()}
        best = (max if view.metric.higher else min)(means, key=means.__getitem__)
        said.append(
            f"{upstream}, budget {budget}: of {_plural(len(states), 'single state')}, state {best} has the best mean "
            f"on test, {view.metric.label} {view.metric.text(means[best])} ({_plural(len(states[best]), 'seed')}). "
            "Being the best of several on test, it flatters itself a little."
        )
    return said


def _said(view: TaskView) -> str:
    test = view.runs[0].result["data"]["test"]
    text = f"{view.metric.axis}. Test set: {test['utterances']:,} utterances, {_duration(test['seconds'])}"
    text += f", {test['speakers']:,} speakers." if test["speakers"] else "."
    layers = "".join(f"<li>{_escape(one)}</li>" for one in _said_of_layers(view)) if view.contrasts else ""
    return f"<p>{_escape(text)}</p>" + (f"<ul>{layers}</ul>" if layers else "")


def _completeness(found: Gathered, show: Callable[[Iterable[Table | Picture | None]], str]) -> str:
    parts = [
        f"<p>{_plural(len(found.runs), 'cell')} with a result, {len(found.absent)} without. Every run with all its "
        "metrics and costs, and all tables of this page, are CSV and LaTeX files in the folder of tables beside it.</p>"
    ]
    if found.absent:
        rows = [
            [cell.upstream, cell.task, cell.regime, None if cell.state is None else str(cell.state), cell.budget,
             str(cell.seed), why]
            for cell, why in found.absent.items()
        ]  # fmt: skip
        columns = ["upstream", "task", "regime", "state", "budget", "seed", "why"]
        parts.append(show([Table("absent", "Cells without a result.", columns, rows)]))
    if found.notices:
        parts.append("<h3>Notices</h3><ul>" + "".join(f"<li>{_escape(one)}</li>" for one in found.notices) + "</ul>")
    return "\n".join(parts)


def _settings(found: Gathered) -> str:
    runs = list(found.runs.values())
    started = sorted(run.result["provenance"]["started"] for run in runs)
    facts = {
        "Commits": dict.fromkeys(map(_commit, runs)),
        "Devices": dict.fromkeys(run.result["provenance"]["device"] for run in runs),
        "Started": [started[0], started[-1]] if started[0] != started[-1] else started[:1],
        "Versions": dict.fromkeys(
            ", ".join(f"{name} {version}" for name, version in run.result["provenance"]["versions"].items() if version)
            for run in runs
        ),
        "Commands": dict.fromkeys(run.result["provenance"]["command"] for run in runs),
    }
    listed = "".join(f"<dt><b>{name}</b></dt><dd>{'<br>'.join(map(_escape, of))}</dd>" for name, of in facts.items())
    recipes = "".join(
        f"<details><summary>Recipe of {_escape(root)}</summary><pre>"
        f"{_escape(OmegaConf.to_yaml(OmegaConf.structured(study)))}</pre></details>"
        for root, study in found.studies.items()
    )
    method = (
        "<p>Budgets are nested and seeded; every regime tried the same number of candidates on dev; test was scored "
        "once, with the chosen one. Intervals over the test set are BCa bootstrap intervals over clusters (speakers "
        "where they are known), of the mean over seeds; intervals over seeds are t-intervals. An interval marked as "
        "biased has a bootstrap bias above half its standard error: it fails more often than it says. Curves are "
        "straight in the logarithm of the labels between budgets and are not continued beyond them.</p>"
    )
    return f"{method}<dl>{listed}</dl>{recipes}"


def main(argv: Sequence[str]) -> int:
    """``wavbench report RESULTS…``."""
    parser = argparse.ArgumentParser(
        prog="wavbench report",
        description="One page on one or more studies; its tables (CSV, LaTeX) and figures (PNG) in folders beside it.",
        allow_abbrev=False,
    )
    parser.add_argument("folders", nargs="+", metavar="RESULTS", help="folders that 'wavbench recipe' or runs wrote")
    parser.add_argument("-o", "--output", metavar="FILE", default="report.html", help="default: report.html")
    parser.add_argument("--title", help="default: the names of the studies")
    parser.add_argument(
        "--replicates", type=int, default=stats.REPLICATES, metavar="N", help=f"bootstrap; default: {stats.REPLICATES}"
    )
    options = parser.parse_args(argv)
    output = Path(options.output)
    report = make([Path(folder) for folder in options.folders], title=options.title, replicates=options.replicates)
    write(report, output)
    print(f"{output}: {len(report.pictures)} figures, {len(report.tables)} tables ({output.stem}_tables/, _figures/)")
    return 0


def write(report: Report, output: Path) -> None:
    """Write ``<name>.html``, ``<name>_tables/*.{csv,tex}`` and ``<name>_figures/*.png``."""
    for table in report.tables:
        write_text(output.parent / f"{output.stem}_tables" / f"{table.name}.csv", table.csv())
        write_text(output.parent / f"{output.stem}_tables" / f"{table.name}.tex", table.latex())
    for picture in report.pictures:
        write_bytes(output.parent / f"{output.stem}_figures" / f"{picture.name}.png", picture.png)
    write_text(output, report.page)
