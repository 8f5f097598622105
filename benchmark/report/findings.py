"""What studies found: their runs, statistics over seeds and test sets, comparisons, and these in sentences.

Everything is read from the results' own files: ``study.yaml``, ``cell.json``, ``result.json``, ``config.yaml`` and, for
intervals over the test set, ``scores.txt`` and ``predictions.jsonl``. No data and no checkpoint are needed, so that
results of several machines are merged where they lie.

What is put into one figure must be comparable, or it is refused: one test set, protocol and metric a task, one
checkpoint an upstream, one configuration a regime (what the search varies apart). A cell that is there twice with one
configuration is taken from the folder named first, with a notice.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmark.data import budget as budgets
from benchmark import config, metrics, results
from benchmark import statistics as stats
from benchmark.errors import BenchmarkError
from benchmark.study.runner import Cell, Study, cells, finished

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
        return f"{number_text(value)} %" if self.unit else number_text(value)

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


def number_text(value: float) -> str:
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


def duration_text(seconds: float) -> str:
    """Seconds as hours, minutes or seconds, to three significant digits."""
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 0.995 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _labels(budget: str, seconds: float) -> str:
    length = duration_text(seconds)
    if length.replace(" ", "") == budget:
        return f"{length} of labels"
    return f"{'all labels' if budget == 'all' else f'a budget of {budget}'} ({length})"


def plural(number: int, noun: str) -> str:
    """``1 seed``, ``2 seeds``."""
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

    @property
    def commit(self) -> str:
        """Ten digits of the commit that it ran at, and whether the tree had changes."""
        made = self.result["provenance"]
        commit = str(made["commit"] or "unknown")[:10]
        return f"{commit} with uncommitted changes" if made["dirty"] else commit


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
        found.notices.append(f"{plural(found.repeated, 'cell')} found twice, with the same result; shown once.")
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
            f"{root} has {plural(len(others), 'result')} that no cell of its recipe chose (such as "
            f"{others[0].parent.relative_to(root)}); left out."
        )


def _cells(study: Study, root: Path, found: Gathered) -> list[Cell]:
    """The recipe's cells. How many states an upstream has is read off the results, not off its checkpoint."""
    every: list[Cell] = []
    for name, upstream in study.upstreams.items():
        allowed = {
            how: regime for how, regime in study.regimes.items() if upstream.regimes is None or how in upstream.regimes
        }
        regimes = dict(allowed)
        for how, regime in allowed.items():
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
        results.upstream_name(result), result["downstream"]["name"], result["regime"], result["state"],
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


def _upstream(run: Run) -> str:
    """What tells a run's upstream from another: its file's digest, or what its weights were drawn for."""
    upstream = run.result["upstream"]
    return f"sha256 {upstream['sha256']}" if upstream["sha256"] else f"no file, {upstream.get('architecture')}"


def _differences(first: Run, second: Run, *, but: Sequence[str] = ()) -> list[str]:
    """What differs of two runs' configurations, data and upstream, as ``key: first -> second``."""
    keys = sorted(first.config.keys() | second.config.keys())
    pairs = [(key, first.config.get(key), second.config.get(key)) for key in keys if not key.startswith(_ELSEWHERE)]
    splits = ("dev", "test") if but else ("train", "dev", "test")
    for split in splits:
        pairs.append((f"{split} data", *(run.result["data"][split]["digest"] for run in (first, second))))
    pairs.append(("upstream", _upstream(first), _upstream(second)))
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
    one("the upstream", lambda run: run.cell.upstream, _upstream)
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
        columns = read_confusion(folder / "confusion.csv")[0]
        names += [name for name in columns if name not in names]
        order = [columns.index(name) for name in names]
        llrs = metrics.detection_llrs(np.array([line["log_posteriors"] for line in lines]))[:, order]
    number = {name: index for index, name in enumerate(names)}
    spoken, predicted = ([number[name] for name in of] for of in (references, predictions))
    return stats.identification(spoken, predicted, clusters, llrs), kind


def read_confusion(path: Path) -> tuple[list[str], Any]:
    """``confusion.csv``: its classes, and an array of (reference, prediction) counts.

    Raises:
        ValueError: it is no confusion matrix.
    """
    with open(path, newline="", encoding="utf-8") as file:
        (_, *names), *rows = csv.reader(file)
    if [row[0] for row in rows] != names:
        raise ValueError(f"{path} is no confusion matrix: its rows are not its columns")
    return names, np.array([row[1:] for row in rows], dtype=float)


def det_curve(folder: Path) -> metrics.DetCurve | None:
    """Of verification trials, or of each class against each other; ``None`` where a run kept neither's scores.

    Raises:
        OSError, ValueError, LookupError, TypeError, BenchmarkError: a file is not as expected.
    """
    if (folder / "scores.txt").exists():
        rows = [line.split() for line in (folder / "scores.txt").read_text(encoding="utf-8").splitlines()]
        return metrics.det_curve([int(label) for label, *_ in rows], [float(score) for *_, score in rows])
    if not ((folder / "predictions.jsonl").exists() and (folder / "confusion.csv").exists()):
        return None
    names = read_confusion(folder / "confusion.csv")[0]
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    if not lines or "log_posteriors" not in lines[0]:
        return None
    references = np.array([names.index(line["reference"]) for line in lines])
    llrs = metrics.detection_llrs(np.array([line["log_posteriors"] for line in lines]))
    return metrics.det_curve(*metrics.language_pairs(references, llrs))


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
    probes: dict[tuple[str, str, str], dict[int, dict[int, Run]]]
    """(upstream, regime, budget) -> state -> seed -> run."""
    contrasts: list[Contrast] = field(default_factory=list)
    compositions: list[Composition] = field(default_factory=list)

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
        view = TaskView(task, METRICS.get(key, Metric(key.replace("_", " "))), seconds, series, probes)
        for second in series:
            first = _baseline(second, series)
            if first is not None:
                view.contrasts.append(_contrast(view, first, second, bootstrap))
        for second in series:
            others = [one for one in series if (one.regime, one.kind) == (second.regime, second.kind)]
            if others[0].upstream != second.upstream:
                view.contrasts.append(_contrast(view, others[0], second, bootstrap))
        view.compositions = list(_compositions(series, bootstrap))
        views.append(view)
    return views


def _compositions(series: Sequence[Series], bootstrap: Bootstrap) -> Iterator[Composition]:
    for second in series:
        first = next(one for one in series if (one.upstream, one.regime) == (second.upstream, second.regime))
        one, other = ([budget for budget in of.points if _kind(budget)] for of in (first, second))
        if first is second or not one or not other:
            continue
        difference = bootstrap.difference(other[-1], first.points[one[-1]], second.points[other[-1]])
        if difference is not None:
            yield Composition(first, second, (one[-1], other[-1]), difference)


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


def normalised_areas(view: TaskView) -> dict[str, tuple[float, list[float], tuple[float, float]]]:
    """Series -> normalised area of the mean curve, of single seeds, and the budgets (seconds) that it is over: those
    that all series of one upstream with two budgets share."""
    found: dict[str, tuple[float, list[float], tuple[float, float]]] = {}
    for upstream in dict.fromkeys(series.upstream for series in view.series):
        curves = [series for series in view.series if series.upstream == upstream and len(series.points) > 1]
        if view.metric.ceiling is None or not curves:
            continue
        low = max(view.seconds[next(iter(series.points))] for series in curves)
        high = min(view.seconds[series.largest] for series in curves)
        if low < high:
            found |= {series.name: _area(view, series, list(series.points), (low, high)) for series in curves}
    return found


def _area(
    view: TaskView, series: Series, among: Sequence[str], budgets: tuple[float, float]
) -> tuple[float, list[float], tuple[float, float]]:
    errors = (0.0, view.metric.ceiling or 0.0)
    mean = stats.area(_curve(view, series, among), errors=errors, budgets=budgets).value
    seeds = [
        stats.area(_curve(view, series, among, seed), errors=errors, budgets=budgets).value
        for seed in _complete(series, among)
    ]
    return mean, seeds, budgets


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


def interval_text(interval: stats.Interval) -> str:
    """``[low, high]``."""
    return f"[{number_text(interval.low)}, {number_text(interval.high)}]"


def sentences(view: TaskView, contrast: Contrast) -> list[str]:
    """What a regime buys against another, in a few sentences."""
    said = [_at_the_largest_budget(view, contrast)] if contrast.differences else []
    common = list(contrast.differences)
    if len(common) < 2:
        if len(contrast.first.points) == len(contrast.second.points) == 1:
            return said
        pair = f"{contrast.second.name} and {contrast.first.name}"
        return [*said, f"Fewer than two budgets in common of {pair}: nothing is said of sample efficiency."]
    said += _over_budgets(view, contrast)
    budgets = (view.seconds[common[0]], view.seconds[common[-1]])
    if view.metric.ceiling is not None and budgets[0] < budgets[1]:
        one, other = (_area(view, series, common, budgets)[0] for series in (contrast.first, contrast.second))
        said.append(
            f"Area under the error curve from {duration_text(budgets[0])} to {duration_text(budgets[1])}: "
            f"{contrast.second.name} {number_text(other)}, {contrast.first.name} {number_text(one)} (lower is better)."
        )
    return said


def _at_the_largest_budget(view: TaskView, contrast: Contrast) -> str:
    metric = view.metric
    budget, difference = list(contrast.differences.items())[-1]
    one, other = contrast.values(budget)
    first, second = (of.name if _kind(budget) else of.plain for of in (contrast.first, contrast.second))
    return (
        f"With {_labels(budget, view.seconds[budget])}, {second} has {metric.label} {metric.text(other)} where "
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
    """Of two budgets or more: label multiplier, labels to the first's best result, crossings."""
    metric, first, second = view.metric, contrast.first, contrast.second
    said = []
    if contrast.multiplier is None:
        said.append(
            f"The curves of {second.name} and {first.name} have no error in common over these budgets, so that there "
            "is no label multiplier."
        )
    else:
        seeds = ""
        if len(contrast.multipliers) > 1:
            seeds = f" ({number_text(min(contrast.multipliers))} to {number_text(max(contrast.multipliers))} by seed)"
        elif len(contrast.multipliers) == 1:
            seeds = " (one seed)"
        said.append(
            f"For the same error {first.name} needs {number_text(contrast.multiplier)} times the labels of "
            f"{second.name}{seeds}."
        )
    target = contrast.target
    assert target is not None
    largest = list(contrast.differences)[-1]
    goal = (
        f"{metric.text(metric.error(target.error))}, the result of {first.name} with "
        f"{_labels(largest, view.seconds[largest])}"
    )
    needed = duration_text(target.budget or 0)
    if not target.reached:
        said.append(f"{second.name} does not reach {goal}, with any of these budgets.")
    elif target.at_smallest:
        said.append(f"{second.name} reaches {goal}, already with the smallest budget, {needed}.")
    else:
        said.append(f"{second.name} reaches {goal}, with about {needed}.")
    said.append(_crossing(view, contrast))
    uneven = [name for name in contrast.differences if first.points[name].keys() != second.points[name].keys()]
    if uneven:
        pair = f"{second.name} and {first.name}"
        said.append(f"At {', '.join(uneven)} {pair} have different seeds, of which the mean curves use all.")
    return said


def _crossing(view: TaskView, contrast: Contrast) -> str:
    first, second, crossings = contrast.first.name, contrast.second.name, contrast.crossovers
    if len(crossings) == 1:
        before, after = (first, second) if crossings[0].second_better_after else (second, first)
        where = duration_text(crossings[0].budget)
        return f"The mean curves cross at about {where}: {before} is better below, {after} above."
    if crossings:
        where = ", ".join(duration_text(crossing.budget) for crossing in crossings)
        return f"The mean curves cross {len(crossings)} times (at about {where}): neither is better throughout."
    gains = [difference.seeds.mean * (1 if view.metric.higher else -1) for difference in contrast.differences.values()]
    if all(gain == 0 for gain in gains):
        return f"The mean curves of {second} and {first} lie on each other."
    return f"The mean curves do not cross: {second if sum(gains) > 0 else first} is better at every budget compared."


def sentences_without_contrasts(view: TaskView) -> list[str]:
    """What can be said of a task without two regimes of one upstream: results at the largest budget."""
    return [
        f"{series.name}, budget {series.largest}: {view.metric.label} {view.metric.text(series.mean(series.largest))} "
        f"({plural(len(series.points[series.largest]), 'seed')})."
        for series in view.series
    ]


def sentences_on_compositions(view: TaskView) -> list[str]:
    """What it makes to have one's labels composed in one way or another."""
    said = []
    for composition in view.compositions:
        metric, difference = view.metric, composition.difference
        first, second = (_labels(budget, view.seconds[budget]) for budget in composition.budgets)
        one, other = map(metric.text, composition.values())
        said.append(
            f"{composition.first.plain} has {metric.label} {other} with {second} and {one} with {first}: "
            f"{_difference_text(difference, metric)}"
        )
    return said


def sentences_on_states(view: TaskView) -> list[str]:
    """The best single state of each upstream, regime and budget that was probed."""
    said = []
    for (upstream, _, budget), states in view.probes.items():
        means = {state: float(np.mean([run.value for run in of.values()])) for state, of in states.items()}
        best = (max if view.metric.higher else min)(means, key=means.__getitem__)
        said.append(
            f"{upstream}, budget {budget}: of {plural(len(states), 'single state')}, state {best} has the best mean "
            f"on test, {view.metric.label} {view.metric.text(means[best])} ({plural(len(states[best]), 'seed')}). "
            "Being the best of several on test, it flatters itself a little."
        )
    return said
