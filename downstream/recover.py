"""What runs of release 0.1 say of their evaluation: they have no ``evaluation.json``, and their speakers are read from
the ids of their utterances. Tasks call these functions in :meth:`benchmark.interfaces.Task.recover`.

All functions take a run's folder, return ``None`` where it does not hold the task's files, and raise ``OSError``,
``ValueError``, ``LookupError`` or ``TypeError`` where these are not as expected.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmark import text
from benchmark.evaluation import About, Classes, Edits, Trials
from benchmark.interfaces import Trial
from benchmark.metrics import METRICS
from downstream.sv.trials import TrialList, connected

_SPEAKER = [
    re.compile(r"(id\d+)/.+"),
    re.compile(r"(\d+)-\d+-\d+"),
    re.compile(r"(.+/(?:train|dev|test)/.+)/[^/]+"),
]
"""Ids of utterances that name their speaker: VoxCeleb's ``id00001/<video>/<file>``, LibriSpeech's
``<speaker>-<chapter>-<number>``, CommonLanguage's ``<language>/<split>/<speaker>/<file>``."""


def speaker_of(utterance: str) -> str | None:
    """The speaker that an utterance's id names, if it is one of the known corpora's."""
    return next((match[1] for pattern in _SPEAKER if (match := pattern.fullmatch(utterance))), None)


def trials(folder: Path) -> About | None:
    """Of verification trials. Where ids do not name the speakers, utterances that target trials connect share one."""
    path = folder / Trials.file
    if not path.exists():
        return None
    rows = [text.words(line) for _, line in text.lines(path)]
    listed = TrialList(Trial(int(label), one, other) for label, one, other, _ in rows)
    speakers = np.array([speaker_of(name) for name in listed.ids], dtype=object)
    same = speakers[listed.enrolment] == speakers[listed.test]
    if all(speakers) and np.array_equal(same, listed.labels == 1):
        return _about(Trials.kind, "speaker", dict(zip(listed.ids, speakers, strict=True)))
    clusters = dict(zip(listed.ids, connected(listed), strict=True))
    return _about(Trials.kind, "speaker (utterances that target trials connect)", clusters)


def classes(folder: Path) -> About | None:
    """Of classified utterances; the head's classes are the columns of ``confusion.csv``."""
    path = folder / Classes.file
    if not path.exists():
        return None
    lines = _lines(path)
    table, names = folder / "confusion.csv", None
    if "log_posteriors" in lines[0] and table.exists():
        names = next(text.records(table, ",", []))[1][1:]
    return _of_utterances(Classes.kind, lines, names)


def edits(folder: Path) -> About | None:
    """Of recognised utterances."""
    path = folder / Edits.file
    return _of_utterances(Edits.kind, _lines(path)) if path.exists() else None


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for _, line in text.lines(path)]


def _of_utterances(kind: str, lines: Sequence[dict[str, Any]], names: Sequence[str] | None = None) -> About:
    ids = [str(line["id"]) for line in lines]
    speakers = [line.get("speaker") or speaker_of(name) for line, name in zip(lines, ids, strict=True)]
    if all(speakers):
        return _about(kind, "speaker", {name: str(own) for name, own in zip(ids, speakers, strict=True)}, names)
    return _about(kind, "utterance (their ids name no speaker)", {name: name for name in ids}, names)


def _about(kind: str, cluster: str, clusters: dict[str, str], names: Sequence[str] | None = None) -> About:
    metrics = {metric.name: metric for metric in METRICS.values() if kind in metric.compute}
    return About(kind, metrics, cluster, clusters, names)
