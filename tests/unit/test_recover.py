"""What is recovered of runs that were written before ``evaluation.json`` existed."""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark import evaluation, metrics
from benchmark import statistics as stats
from benchmark.evaluation import About, Classes, read_about, read_items
from downstream import recover

RECOVER: dict[str, Callable[[Path], About | None]] = {
    "verify": recover.trials, "languages": recover.classes, "words": recover.edits
}  # fmt: skip


def old_run(study: Path, tmp_path: Path, task: str, change: Callable[[str], str] = str) -> Path:
    """A run of the made-up study as release 0.1 kept it; ``change`` is made to its scores or predictions."""
    folder = tmp_path / "run"
    shutil.copytree(study / "tiny" / task / "frozen" / "all" / "seed0" / "lr=0.1", folder)
    about = read_about(folder)
    assert about is not None
    if about.classes is not None:
        items: Any = read_items(folder, about)
        matrix = metrics.confusion_matrix(items.references, items.predictions, len(about.classes))
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["reference", *about.classes])
        writer.writerows([name, *row] for name, row in zip(about.classes, matrix.tolist(), strict=True))
        (folder / "confusion.csv").write_text(table.getvalue())
    (folder / evaluation.FILE).unlink()
    (path,) = [folder / name for name in ("scores.txt", "predictions.jsonl") if (folder / name).exists()]
    path.write_text(change(path.read_text()))
    return folder


def recovered(folder: Path, task: str) -> tuple[About, stats.Statistic]:
    about = RECOVER[task](folder)
    assert about is not None
    name = next(iter(stats.of(read_items(folder, about), {}).names))
    return about, stats.of(read_items(folder, about), {name: about.metrics[name]})


@pytest.mark.parametrize("task", RECOVER)
def test_it_is_what_the_run_would_have_said(task: str, whole_study: Path, tmp_path: Path) -> None:
    about, statistic = recovered(old_run(whole_study, tmp_path, task), task)
    run = whole_study / "tiny" / task / "frozen" / "all" / "seed0" / "lr=0.1"
    expected = read_about(run)
    assert expected is not None
    for field in ("kind", "cluster", "clusters", "classes"):
        assert getattr(about, field) == getattr(expected, field), field
    assert expected.metrics.items() <= dict(about.metrics).items()
    items = read_items(run, expected)
    said = stats.summarise([stats.of(items, {name: metrics.find(name) for name in expected.metrics})], replicates=100)
    assert stats.summarise([statistic], replicates=100) == said


def test_speakers_that_no_id_names_are_found_by_target_trials(whole_study: Path, tmp_path: Path) -> None:
    def rename(content: str) -> str:  # each speaker's utterances become one name without a speaker
        return re.sub(r"id1(\d+)/\S+", lambda match: f"u{match[1]}", content)

    about, statistic = recovered(old_run(whole_study, tmp_path, "verify", rename), "verify")
    assert about.cluster == "speaker (utterances that target trials connect)"
    assert statistic.clusters == 24


def test_ids_without_a_speaker_are_clusters_of_their_own(whole_study: Path, tmp_path: Path) -> None:
    folder = old_run(whole_study, tmp_path, "words", lambda content: re.sub(r'"id": "\d-1-', '"id": "u', content))
    about, statistic = recovered(folder, "words")
    assert about.cluster == "utterance (their ids name no speaker)"
    assert statistic.clusters == 80


def test_a_speaker_in_the_line_wins(whole_study: Path, tmp_path: Path) -> None:
    def change(content: str) -> str:
        return re.sub(r'"id": "(\d)-1-', r'"speaker": "s\1", "id": "u\1_', content)

    about, statistic = recovered(old_run(whole_study, tmp_path, "words", change), "words")
    assert (about.cluster, statistic.clusters) == ("speaker", 9)


def test_classes_without_posteriors(whole_study: Path, tmp_path: Path) -> None:
    folder = old_run(whole_study, tmp_path, "languages")
    (folder / "confusion.csv").unlink()  # identification of speakers kept none
    about, _ = recovered(folder, "languages")
    assert about.classes is None
    items = read_items(folder, about)
    assert isinstance(items, Classes)
    assert items.llrs is None
    assert np.unique(items.references).size == 4


@pytest.mark.parametrize("function", RECOVER.values())
def test_a_folder_without_the_files_says_nothing(function: Callable[[Path], About | None], tmp_path: Path) -> None:
    assert function(tmp_path) is None


def test_speakers_by_id() -> None:
    assert recover.speaker_of("id10270/5r0dWxy17C8/00001.wav") == "id10270"
    assert recover.speaker_of("1089-134686-0000") == "1089"
    assert recover.speaker_of("Dutch/test/nld_tst_sp_1/a.wav") == "Dutch/test/nld_tst_sp_1"
    assert recover.speaker_of("nl_nl/test/123.wav") is None
    assert recover.speaker_of("abc") is None
