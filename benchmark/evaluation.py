"""What metrics are computed from, by kind of task, and how a run keeps it for intervals over its test set.

Three kinds exist: ``trials`` (verification), ``classes`` (classification) and ``edits`` (recognition). A run keeps the
items of its ``test`` set in the files that people read anyway (``scores.txt``, ``predictions.jsonl``) and, beside them,
``evaluation.json``::

    {"schema": 1, "kind": "trials", "metrics": {"eer": {"label": "EER", "unit": "%", "higher_is_better": false,
     "ceiling": 100.0}}, "cluster": "speaker", "clusters": {"id10001/…/00001.wav": "id10001"}, "classes": null,
     "calibration": {"scale": 21.7, "offsets": [-9.3]}}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from benchmark import metrics, registry, shapes, text
from benchmark.calibration import Calibration
from benchmark.errors import BenchmarkError
from benchmark.metrics import Edits as EditCount
from benchmark.metrics import Metric

if TYPE_CHECKING:
    from benchmark.interfaces import Utterance

SCHEMA = 1
FILE = "evaluation.json"


@dataclass(frozen=True, eq=False)
class _Clustered:
    """Items of utterances that are not independent: several of one speaker, or of one recording."""

    columns: ClassVar[tuple[str, ...]]
    """The fields that have an entry for each item."""
    ids: Sequence[str]
    """The utterances that occur."""
    clusters: Sequence[str]
    """(utterance,) speaker, session or the utterance itself."""
    cluster: str
    """What the clusters are: ``speaker``, ``session`` or ``utterance``."""

    def __len__(self) -> int:
        return len(getattr(self, self.columns[0]))

    def take(self, index: NDArray[Any]) -> Self:
        """These items, as often as they occur in ``index``."""
        return replace(self, **{name: _take(getattr(self, name), index) for name in self.columns})


def _take(values: Any, index: NDArray[Any]) -> Any:
    if values is None or isinstance(values, np.ndarray):
        return None if values is None else values[index]
    return [values[i] for i in index]


@dataclass(frozen=True, eq=False)
class Trials(_Clustered):
    """Verification trials with their scores. The clusters are speakers."""

    kind: ClassVar[str] = "trials"
    file: ClassVar[str] = "scores.txt"
    columns = ("labels", "enrolment", "test", "scores")
    labels: NDArray[Any]
    """(trial,) 1 same speaker, 0 different."""
    enrolment: NDArray[Any]
    """(trial,) index in :attr:`ids`."""
    test: NDArray[Any]
    """(trial,) index in :attr:`ids`."""
    scores: NDArray[Any]
    """(trial,) higher = more alike."""
    calibration: Calibration | None = None
    """From the scores to log-likelihood ratios, fitted on dev; ``None``: there is none."""


@dataclass(frozen=True, eq=False)
class Classes(_Clustered):
    """Classified utterances."""

    kind: ClassVar[str] = "classes"
    file: ClassVar[str] = "predictions.jsonl"
    columns = ("ids", "clusters", "references", "predictions", "log_posteriors")
    names: Sequence[str]
    """Of the classes. Those that the head knows come first, in the order of its outputs."""
    references: NDArray[Any]
    """(utterance,) classes, whole numbers from 0."""
    predictions: NDArray[Any]
    """(utterance,) the most probable class."""
    log_posteriors: NDArray[Any] | None = None
    """(utterance, class) of the classes that the head knows; ``None``: the run did not keep them."""
    calibration: Calibration | None = None
    """From the log-posteriors to log-likelihoods, fitted on dev; ``None``: there is none."""

    @cached_property
    def llrs(self) -> NDArray[np.float64] | None:
        """(utterance, class), see :func:`benchmark.metrics.detection_llrs`; ``None`` without posteriors, or where a
        class of the references is not among those that the head knows."""
        logs = self.log_posteriors
        if logs is None or logs.shape[1] < 2 or int(self.references.max()) >= logs.shape[1]:
            return None
        return metrics.detection_llrs(logs)

    def take(self, index: NDArray[Any]) -> Self:
        """As of all items; what is known of each utterance is taken with it."""
        taken = super().take(index)
        if self.llrs is not None:
            taken.__dict__["llrs"] = self.llrs[index]
        return taken


@dataclass(frozen=True, eq=False)
class Edits(_Clustered):
    """Recognised utterances."""

    kind: ClassVar[str] = "edits"
    file: ClassVar[str] = "predictions.jsonl"
    columns = ("ids", "clusters", "references", "hypotheses")
    references: Sequence[str]
    hypotheses: Sequence[str]

    def take(self, index: NDArray[Any]) -> Self:
        """These utterances, as often as they occur in ``index``."""
        taken = super().take(index)
        for name in ("words", "characters"):  # not aligned again
            taken.__dict__[name] = _take(getattr(self, name), index)
        return taken

    @cached_property
    def words(self) -> list[EditCount]:
        """(utterance,) edits of words."""
        return [metrics.word_edits(*pair) for pair in zip(self.references, self.hypotheses, strict=True)]

    @cached_property
    def characters(self) -> list[EditCount]:
        """(utterance,) edits of characters."""
        return [metrics.character_edits(*pair) for pair in zip(self.references, self.hypotheses, strict=True)]


Items = Trials | Classes | Edits


def clusters_of(utterances: Sequence[Utterance]) -> tuple[str, list[str]]:
    """What the clusters of utterances are, and that of each: the speaker where all are known, else the session, else
    the utterance itself."""
    for name in ("speaker", "session"):
        values = [utterance.label(name) for utterance in utterances]
        if all(value is not None for value in values):
            return name, [str(value) for value in values]
    return "utterance", [utterance.id for utterance in utterances]


def describe(items: Items, names: Sequence[str]) -> str:
    """The content of ``evaluation.json``.

    Args:
        items: of the set ``test``.
        names: of the metrics that were computed from them.
    """
    logs = items.log_posteriors if isinstance(items, Classes) else None
    fitted = None if isinstance(items, Edits) else items.calibration
    about = {
        "schema": SCHEMA,
        "kind": items.kind,
        "metrics": {name: metrics.METRICS[name].declaration() for name in names if name in metrics.METRICS},
        "cluster": items.cluster,
        "clusters": dict(zip(items.ids, items.clusters, strict=True)),
        "classes": list(items.names[: logs.shape[1]]) if isinstance(items, Classes) and logs is not None else None,
        "calibration": None if fitted is None else fitted.plain(),
    }
    return json.dumps(about, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class About:
    """``evaluation.json``."""

    kind: str
    metrics: Mapping[str, Metric]
    cluster: str
    clusters: Mapping[str, str]
    classes: Sequence[str] | None
    calibration: Calibration | None = None


_SHAPE = {"kind": str, "metrics": {...: {}}, "cluster": str, "clusters": {...: str}, "classes": ([str], None)}
"""What :func:`read_about` asks of ``evaluation.json``, which others may have made."""


def read_about(folder: Path) -> About | None:
    """What a run's folder says of its evaluation; ``None`` where it was written by a version that did not say.

    Raises:
        BenchmarkError: the file is not one of this schema.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        about = json.loads(text.read(path))
        if about["schema"] != SCHEMA:
            raise ValueError(f"it has schema {about['schema']}, this version reads {SCHEMA}")
        if wrong := shapes.problem(about, _SHAPE):
            raise ValueError(wrong)
        declared = {name: Metric(name=name, **values) for name, values in about["metrics"].items()}
        fitted = Calibration.read(about.get("calibration"))
        return About(about["kind"], declared, about["cluster"], about["clusters"], about["classes"], fitted)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise BenchmarkError(f"{path} cannot be read: {error}") from error


def about_run(folder: Path, task: str) -> About | None:
    """What a run says of its evaluation, or what its task recovers where an earlier release did not write it; ``None``:
    the run does not say what its metrics are computed from.

    Args:
        folder: the experiment folder.
        task: ``downstream.task`` of its result.

    Raises:
        BenchmarkError: a file of the run cannot be read.
    """
    about = read_about(folder)
    if about is not None or task not in registry.tasks:
        return about
    try:
        recovered: About | None = registry.tasks.get(task).load().recover(folder)  # type: ignore[attr-defined]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise BenchmarkError(f"the files of {folder} cannot be read ({type(error).__name__}: {error})") from error
    return recovered


def det_curve(items: Items) -> metrics.DetCurve | None:
    """Of verification trials, or of each class against each other; ``None`` for items without detection scores."""
    if isinstance(items, Trials):
        return metrics.det_curve(items.labels, items.scores)
    if isinstance(items, Classes) and items.llrs is not None:
        return metrics.det_curve(*metrics.language_pairs(items.references, items.llrs))
    return None


def read_items(folder: Path, about: About) -> Items:
    """The items of a run's ``test`` set, in the order of their ids (trials: in the list's order).

    Raises:
        BenchmarkError: a file is missing or not as expected.
    """
    readers: dict[str, Callable[[Path, About], Items]]
    readers = {"trials": _read_trials, "classes": _read_classes, "edits": _read_edits}
    if about.kind not in readers:
        raise BenchmarkError(f"{folder / FILE}: unknown kind '{about.kind}'; known: {', '.join(readers)}")
    try:
        return readers[about.kind](folder, about)
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise BenchmarkError(f"the {about.kind} of {folder} cannot be read: {type(error).__name__}: {error}") from error


def _clustered(ids: list[str], about: About) -> tuple[list[str], list[str], str]:
    return ids, [about.clusters[name] for name in ids], about.cluster


def _read_trials(folder: Path, about: About) -> Trials:
    names = text.Names(about.clusters)
    rows = []
    for number, line in text.lines(folder / Trials.file):
        row = text.trial(line, names, columns=4)
        if row is None:
            raise ValueError(f"line {number}, {line!r}, is not 'label enrolment test score'")
        rows.append(row)
    labels, first, second, scores = zip(*rows, strict=True)
    ids, index = np.unique([*first, *second], return_inverse=True)
    return Trials(
        *_clustered(ids.tolist(), about),
        labels=np.array(labels, dtype=int),
        enrolment=index[: len(rows)],
        test=index[len(rows) :],
        scores=np.array(scores, dtype=float),
        calibration=about.calibration,
    )


def _lines(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for _, line in text.lines(folder / Classes.file)]
    return sorted(lines, key=lambda line: str(line["id"]))


def _read_classes(folder: Path, about: About) -> Classes:
    lines = _lines(folder)
    references, predictions = ([str(line[name]) for line in lines] for name in ("reference", "prediction"))
    names = list(dict.fromkeys([*(about.classes or ()), *sorted({*references, *predictions})]))
    number = {name: index for index, name in enumerate(names)}
    logs = None if about.classes is None else np.array([line["log_posteriors"] for line in lines])
    return Classes(
        *_clustered([str(line["id"]) for line in lines], about),
        names=names,
        references=np.array([number[name] for name in references]),
        predictions=np.array([number[name] for name in predictions]),
        log_posteriors=logs,
        calibration=about.calibration,
    )


def _read_edits(folder: Path, about: About) -> Edits:
    lines = _lines(folder)
    return Edits(
        *_clustered([str(line["id"]) for line in lines], about),
        references=[str(line["reference"]) for line in lines],
        hypotheses=[str(line["prediction"]) for line in lines],
    )
