"""Results of release 0.1 give the same report as they did then.

``results-0.1`` is a study that commit ecb9a63 ran with the smallest synthetic corpora, without checkpoints and logs;
``tables`` is what its ``wavbench report --replicates 500`` wrote. The hypotheses of speech recognition are made up:
six updates recognise nothing; their error rates were computed by that commit.
"""

from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path

import pytest

from benchmark import evaluation, plots, results
from benchmark.report import collect, page

FOLDER = Path(__file__).parent / "results-0.1"
WORDS = {
    "state": "layer",
    "not told apart by this test set": "no clear difference on this test set",
    "too few or too different to speak for others": "which are too few or vary too much to generalise",
}
"""What tables said -> what they say now."""
ANOTHER_METHOD = {
    "95 % from", "to", "test set: 95 % from", "95 % over test set", "P(improvement)", "verdict",
}  # fmt: skip
"""Columns of intervals over the test set, which 0.1 drew by a bootstrap that covered too little."""


@pytest.fixture(scope="module")
def report() -> page.Report:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "png", lambda figure: b"")
        return page.make([FOLDER], replicates=500)


def cells(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def same(old: str, new: str) -> bool:
    try:
        return math.isclose(float(old), float(new), rel_tol=1e-9, abs_tol=1e-9)
    except ValueError:
        return re.sub("|".join(WORDS), lambda match: WORDS[match[0]], old) == new


def test_it_is_a_folder_of_then() -> None:
    assert not list(FOLDER.rglob(evaluation.FILE))
    assert "states:" in (FOLDER / "study.yaml").read_text()
    assert {'"regime": "probe"', '"regime": "frozen"', '"regime": "finetune"'} == {
        line.strip(" ,\n") for path in FOLDER.rglob("result.json") for line in path.open() if '"regime"' in line
    }


@pytest.mark.parametrize("name", sorted(path.stem for path in (FOLDER / "tables").glob("*.csv")))
def test_every_table_has_the_same_figures(name: str, report: page.Report) -> None:
    (table,) = [table for table in report.tables if table.name == name]
    old, new = cells((FOLDER / "tables" / f"{name}.csv").read_text(encoding="utf-8")), cells(table.csv())
    assert len(new) == len(old)
    kept = [index for index, column in enumerate(old[0]) if column not in ANOTHER_METHOD]
    kept += [index for index, column in enumerate(old[0]) if column == "to" and old[0][index - 1] == "seeds: 95 % from"]
    for before, after in zip(old, new, strict=True):
        assert len(before) == len(after)
        assert all(same(before[index], after[index]) for index in kept), (before, after)


def test_there_is_an_interval_where_there_was_one(report: page.Report) -> None:
    for task, clusters in (("voxceleb1_sv", "4 speakers"), ("commonlanguage_lid", "6 speakers"),
                           ("librispeech_asr", "2 speakers")):  # fmt: skip
        (table,) = [table for table in report.tables if table.name == f"{task}_results"]
        rows = list(csv.DictReader(io.StringIO(table.csv())))
        assert len(rows) == 4
        for row in rows:
            assert row["interval over"] == clusters
            assert float(row["95 % from"]) <= float(row["to"])
    (table,) = [table for table in report.tables if table.name == "voxceleb1_sv_metrics"]
    others = list(csv.DictReader(io.StringIO(table.csv())))
    assert {row["metric"] for row in others} >= {"min_dcf_p01", "min_dcf_p05"}
    for row in others:
        assert float(row["95 % from"]) <= float(row["test"]) <= float(row["to"])
    pictures = {picture.name for picture in report.pictures}
    assert {"voxceleb1_sv_det", "commonlanguage_lid_confusion_frozen"} <= pictures
    assert "commonlanguage_lid_det" not in pictures
    assert {path.stem for path in (FOLDER / "tables").glob("*.csv")} < {table.name for table in report.tables}
    assert "0 without" in report.page


def test_regimes_have_their_current_names() -> None:
    rows = results.rows([FOLDER])
    assert len(rows) == 30
    assert {(row["regime"], row["layer"]) for row in rows} == {
        ("frozen", None), ("finetune", None), ("finetune", 6), ("single_layer", 0), ("single_layer", 2)
    }  # fmt: skip
    runs = collect.gather([FOLDER]).runs.values()
    assert {run.config["regime"] for run in runs} == {"frozen", "finetune", "single_layer"}
    assert {run.config["featurizer.layer"] for run in runs} == {None, 0, 2, -1}
