"""What a run keeps of its evaluation, and what is computed from it again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmark import metrics, statistics
from benchmark.errors import BenchmarkError
from benchmark.evaluation import Classes, Edits, Items, Trials, describe, read_about, read_items
from benchmark.metrics import Metric

pytestmark = pytest.mark.usefixtures("registries")  # metrics that a test declares are forgotten after it


def classes(names: list[str], references: list[int], predictions: list[int]) -> Classes:
    ids = [f"u{i}" for i in range(len(references))]
    return Classes(
        ids=ids, clusters=[name[:2] for name in ids], cluster="speaker", names=names,
        references=np.array(references), predictions=np.array(predictions),
    )  # fmt: skip


def trials(ids: list[str]) -> Trials:
    return Trials(
        ids=ids, clusters=["a", "a", "b", "b"], cluster="speaker", labels=np.array([1, 0, 1, 0]),
        enrolment=np.array([0, 1, 2, 3]), test=np.array([1, 2, 3, 0]), scores=np.array([0.9, 0.1, 0.8, 0.3]),
    )  # fmt: skip


def write(folder: Path, items: Items, lines: str) -> None:
    (folder / items.file).write_text(lines, encoding="utf-8")
    (folder / "evaluation.json").write_text(describe(items, ["eer", "accuracy", "wer"]), encoding="utf-8")


@pytest.mark.parametrize(
    "ids",
    [
        ["a1", "a2", "b1", "b2"],
        ["my files/a 1.wav", "my files/a 2.wav", "b", "my files/a"],
        ["a\u2028b", "a\u00a0b", "a\x85", "ä b"],
    ],
    ids=["plain", "spaces", "separators"],
)
def test_trials_of_any_ids_are_read_back(tmp_path: Path, ids: list[str]) -> None:
    items = trials(ids)
    rows = zip(items.labels, items.enrolment, items.test, items.scores, strict=True)
    write(tmp_path, items, "".join(f"{label} {ids[a]} {ids[b]} {score}\n" for label, a, b, score in rows))
    about = read_about(tmp_path)
    assert about is not None
    read = read_items(tmp_path, about)
    assert isinstance(read, Trials)
    for side in ("enrolment", "test"):
        assert [read.ids[i] for i in getattr(read, side)] == [ids[i] for i in getattr(items, side)]
    assert metrics.score(read) == metrics.score(items)
    assert statistics.of(read, {"eer": metrics.METRICS["eer"]}).clusters == 2


def test_a_line_that_is_no_trial_is_named(tmp_path: Path) -> None:
    write(tmp_path, trials(["a", "b", "c", "d"]), "1 a b 0.5\n1 a\n")
    about = read_about(tmp_path)
    assert about is not None
    with pytest.raises(BenchmarkError, match=r"line 2, '1 a', is not 'label enrolment test score'"):
        read_items(tmp_path, about)


def test_systems_that_know_other_classes_are_compared() -> None:
    """A test set is the same whatever a system predicts, and however it numbers the classes."""
    accuracy = {"accuracy": metrics.METRICS["accuracy"]}
    one = statistics.of(classes(["x", "y", "z"], [0, 1, 1, 0], [0, 1, 2, 2]), accuracy)
    two = statistics.of(classes(["w", "x", "y"], [1, 2, 2, 1], [0, 2, 2, 1]), accuracy)
    assert one.test_set == two.test_set
    assert statistics.compare([one], [two], replicates=200)["accuracy"].seeds.mean == 25.0
    other = statistics.of(classes(["x", "y"], [1, 0, 1, 0], [0, 1, 1, 1]), accuracy)
    assert other.test_set != one.test_set


def test_the_fast_and_the_general_bootstrap_agree_on_the_test_set() -> None:
    edits = Edits(
        ids=["a", "b"], clusters=["s", "t"], cluster="speaker", references=["x y", "z"], hypotheses=["x", "z"]
    )
    for items, name in (
        (trials(list("abcd")), "eer"),
        (edits, "wer"),
        (classes(["x", "y"], [0, 1], [0, 0]), "accuracy"),
    ):
        fast = metrics.METRICS[name]
        general = Metric("mine", "mine", compute={items.kind: fast.compute[items.kind]})
        assert statistics.of(items, {name: fast}).test_set == statistics.of(items, {"mine": general}).test_set


def test_metrics_give_plain_numbers() -> None:
    items = classes(["x", "y"], [0, 1, 1], [0, 1, 0])
    values = {"scalar": np.float64(3), "array": np.array(2.5), "nan": float("nan"), "none": None, "infinite": np.inf}
    for name, value in values.items():
        metrics.declare(Metric(name, name, compute={"classes": lambda _, value=value: value}))
    scores = metrics.score(items, list(values))
    assert {name: scores.get(name) for name in values} == {
        "scalar": 3.0, "array": 2.5, "nan": None, "none": None, "infinite": None,
    }  # fmt: skip
    assert {type(value) for value in scores.values()} == {float}
    for name, value in (("text", "x"), ("several", [1, 2])):
        metrics.declare(Metric(name, name, compute={"classes": lambda _, value=value: value}))
        with pytest.raises(BenchmarkError, match=f"metric '{name}' failed with"):
            metrics.score(items, [name])
    metrics.declare(Metric("divides", "divides", compute={"classes": lambda items: 1 / (len(items) - 3)}))
    with pytest.raises(BenchmarkError, match="metric 'divides' failed with ZeroDivisionError"):
        metrics.score(items, ["divides"])
    statistic = statistics.of(classes(["x", "y"], [0, 1, 1, 0], [0, 1, 0, 0]), {"divides": metrics.METRICS["divides"]})
    assert np.isnan(statistic.compute(np.array([[1.0, 1.0, 1.0, 0.0]]))).all()
