"""The report of made-up studies: what it says, what it refuses, and how a browser shows it."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmark import metrics, plots, report, results
from benchmark import statistics as stats
from benchmark.errors import BenchmarkError

STATES = 4
HOURS = {"10min": 1 / 6, "1h": 1.0, "all": 5.2}
LEVELS = {"frozen": (18.0, 12.0, 9.0), "finetuned": (22.0, 9.0, 4.0)}
"""About the errors in percent at the three budgets: the curves cross, and fine-tuning is better from 1 h on."""


def study_yaml(**changes: Any) -> dict[str, Any]:
    return {
        "name": "toy",
        "question": "What does fine-tuning <buy>?",
        "upstreams": {"tiny": {"name": "some_upstream"}},
        "tasks": {
            "verify": {"budgets": list(HOURS), "targets": {"frozen, EER": 6.02, "source": "somebody (2021)"}},
            "languages": {"budgets": list(HOURS)},
            "words": {"budgets": list(HOURS)},
        },
        "regimes": {
            "frozen": {"regime": "frozen", "search": {"optim.lr": [0.1, 0.2]}},
            "finetuned": {"regime": "finetune", "search": {"optim.upstream_lr": [0.1, 0.2]}},
            "layers": {
                "regime": "probe", "states": "all", "budgets": ["all"], "seeds": [0],
                "search": {"optim.lr": [0.1, 0.2]},
            },
        },
        "seeds": [0, 1],
        **changes,
    }  # fmt: skip


def trial_files(error: float, random: np.random.RandomState) -> tuple[dict[str, float], dict[str, str]]:
    """Trials of 24 speakers, a list that is always the same, and scores with about that EER."""
    order = np.random.RandomState(5)
    lines, labels, scores = [], [], []
    distance = 2 * abs(float(stats_ppf(error / 100)))
    offset = order.normal(size=24) * 0.4
    for speaker in range(24):
        for trial in range(40):
            label = trial % 2
            other = speaker if label else int((speaker + 1 + order.randint(23)) % 24)
            ids = [f"id1{who:04d}/video{order.randint(5)}/{trial:05d}.wav" for who in (speaker, other)]
            score = random.normal() + distance * label + offset[speaker] * label
            lines.append(f"{label} {ids[0]} {ids[1]} {score:.9g}\n")
            labels.append(label)
            scores.append(float(f"{score:.9g}"))
    return {"eer": metrics.eer(labels, scores)}, {"scores.txt": "".join(lines)}


def stats_ppf(share: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(share)


def language_files(error: float, random: np.random.RandomState) -> tuple[dict[str, float], dict[str, str]]:
    names = ["aa", "bb", "cc", "dd"]
    references = np.arange(160) % 4
    wrong = random.uniform(size=160) < error / 100
    best = np.where(wrong, (references + 1 + random.randint(3, size=160)) % 4, references)
    logits = random.normal(size=(160, 4)) * 0.3 + 3.0 * np.eye(4)[best]
    logs = np.round(logits - np.log(np.exp(logits).sum(1, keepdims=True)), 5)
    lines = [
        {"id": f"{names[r]}/test/s{k % 16}/{k}.wav", "reference": names[r], "prediction": names[b],
         "log_posteriors": row.tolist()}
        for k, (r, b, row) in enumerate(zip(references, best, logs, strict=True))
    ]  # fmt: skip
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["reference", *names])
    matrix = metrics.confusion_matrix(references, best, 4)
    writer.writerows([name, *row] for name, row in zip(names, matrix.tolist(), strict=True))
    found = {"macro_accuracy": metrics.macro_accuracy(references, best)}
    return found, {"predictions.jsonl": jsonl(lines), "confusion.csv": table.getvalue()}


def word_files(error: float, random: np.random.RandomState) -> tuple[dict[str, float], dict[str, str]]:
    lines = []
    for k in range(80):
        wrong = int(random.binomial(10, min(1.0, error / 100)))
        reference = " ".join(f"w{j}" for j in range(10))
        hypothesis = " ".join(["x"] * wrong + [f"w{j}" for j in range(wrong, 10)])
        lines.append({"id": f"{k % 9}-1-{k:04d}", "reference": reference, "prediction": hypothesis,
                      "substitutions": wrong, "deletions": 0, "insertions": 0})  # fmt: skip
    wer = 100 * sum(line["substitutions"] for line in lines) / 800
    return {"wer": wer}, {"predictions.jsonl": jsonl(lines)}


def jsonl(lines: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


FILES: dict[str, Callable[..., tuple[dict[str, float], dict[str, str]]]] = {
    "verify": trial_files, "languages": language_files, "words": word_files
}  # fmt: skip


def write_cell(root: Path, task: str, regime: str, budget: str, seed: int, *, state: int | None = None,
               error: float | None = None, config: dict[str, Any] | None = None) -> Path:  # fmt: skip
    """A finished cell; returns the folder of its chosen run."""
    random = np.random.RandomState([seed, state or 0, list(HOURS).index(budget), len(regime), len(task)])
    level = LEVELS.get(regime, (30.0,) * 3)[list(HOURS).index(budget)] - 4 * (state or 0)
    values, files = FILES[task](level if error is None else error, random)
    name = regime if state is None else f"{regime}-{state}"
    cell = root / "tiny" / task / name / budget / f"seed{seed}"
    folder = cell / "lr=0.1"
    folder.mkdir(parents=True)
    ((metric, value),) = values.items()
    key = "optim.upstream_lr" if regime == "finetuned" else "optim.lr"
    tried = [{"name": f"lr={lr}", "candidate": {key: lr}, "dev": value + lr, "step": 100} for lr in (0.1, 0.2)]
    outcome = {"study": "toy", "regime": regime, "chosen": "lr=0.1", "metric": metric, "tried": tried}
    (cell / "cell.json").write_text(json.dumps(outcome))
    kind = {"frozen": "frozen", "finetuned": "finetune", "layers": "probe"}[regime]
    weights = np.exp(random.normal(size=STATES) + (regime == "finetuned") * np.arange(STATES))
    weights = (weights / weights.sum()).tolist() if state is None else None
    seconds = 3600 * HOURS[budget]
    result = {
        "schema": results.SCHEMA,
        "upstream": {"name": "some_upstream", "checkpoint": "tiny.pt", "sha256": "ab12"},
        "downstream": {"name": task, "protocol_version": 1, "task": task, "corpus": "c", "evaluated": "test"},
        "regime": kind,
        "state": state,
        "budget": {"name": budget, "seed": None if budget == "all" else seed},
        "seed": seed,
        "selected": {"step": 100, "metric": metric, "value": value + 0.1},
        "metrics": {"dev": {metric: value + 0.1}, "test": values},
        "layer_weights": weights,
        "layer_norms": None if weights is None else [1.0] * STATES,
        "layer_shares": weights,
        "cost": {
            "updates": 100, "audio_seconds_seen": seconds * 3, "upstream_audio_seconds": seconds * 4,
            "wall_seconds": 60.0 * (3 if regime == "finetuned" else 1), "peak_memory_bytes": 10**9,
            "trainable_parameters": 10**6 if regime == "finetuned" else 10**4,
        },
        "data": {
            split: {"utterances": 100, "seconds": seconds, "speakers": 9, "languages": 0,
                    "digest": f"{split}{budget if split == 'train' else ''}"}
            for split in ("train", "dev", "test")
        },
        "provenance": {
            "commit": "0123456789abcdef", "dirty": False, "versions": {"python": "3.11"}, "device": "cpu, 1 threads",
            "started": "2026-11-22T10:00:00+00:00", "command": "wavbench recipe toy.yaml",
        },
    }  # fmt: skip
    results.write(folder / "result.json", result)
    run = {
        "regime": kind, "seed": seed, "budget": budget, "featurizer": {"state": state, "normalize": True},
        "optim": {"lr": 0.1, "upstream_lr": 0.1}, "data": {"root": "/nowhere", "crop_seconds": 2.0}, "device": "cpu",
        **(config or {}),
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(run))
    for file, content in files.items():
        (folder / file).write_text(content)
    return folder


def write_study(root: Path, *, tasks: Sequence[str] = tuple(FILES), seeds: Sequence[int] = (0, 1), probes: bool = True,
                **changes: Any) -> Path:  # fmt: skip
    root.mkdir(parents=True)
    recipe = study_yaml(**changes)
    recipe["tasks"] = {task: recipe["tasks"][task] for task in tasks}
    (root / "study.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    for task in tasks:
        for budget in HOURS:
            for seed in seeds:
                for regime in LEVELS:
                    write_cell(root, task, regime, budget, seed)
        for state in range(STATES) if probes else ():
            write_cell(root, task, "layers", "all", 0, state=state)
    return root


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("whole") / "toy", synthetic=True)


@pytest.fixture(scope="module")
def made(whole: Path) -> report.Report:
    return report.make([whole], replicates=100)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are laid out by another test; drawing them takes most of a report's time."""
    monkeypatch.setattr(plots, "_png", lambda figure: plots.plt.close(figure) or b"png")


def rows(table: report.Table) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table.csv())))


def table(of: report.Report, name: str) -> report.Table:
    (found,) = [one for one in of.tables if one.name == name]
    return found


def text(page: str) -> str:
    """What is read: no tags, no pictures, single spaces."""
    return " ".join(html.unescape(re.sub(r"<style.*?</style>|<[^>]+>", " ", page, flags=re.S)).split())


# --- The page ---------------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    VOID = frozenset({"meta", "img", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        named = dict(attrs)
        if "id" in named:
            self.ids.append(str(named["id"]))
        self.references += [str(named[key]) for key in ("src", "href", "srcset", "data", "action") if key in named]
        if tag == "img":
            assert named["alt"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone(made: report.Report) -> None:
    tags = Tags()
    tags.feed(made.page)
    assert not tags.open
    assert len(set(tags.ids)) == len(tags.ids)
    for reference in tags.references:
        assert reference.startswith("data:image/png;base64,") or reference.removeprefix("#") in tags.ids
    assert not {"script", "link", "iframe"} & set(tags.seen)
    assert "url(" not in made.page
    assert "@import" not in made.page
    assert "content=\"default-src 'none'; img-src data:" in made.page
    assert "What does fine-tuning &lt;buy&gt;?" in made.page
    assert tags.seen.count("img") == len(made.pictures)


def test_all_figures_and_tables_are_there(made: report.Report, tmp_path: Path) -> None:
    pictures = {picture.name for picture in made.pictures}
    for task in FILES:
        assert {f"{task}_{kind}" for kind in ("curves", "layers", "cost")} <= pictures
    assert {"verify_det", "languages_det", "languages_confusion_frozen", "languages_confusion_finetuned",
            "layer_weights_tiny", "layer_shares_tiny"} <= pictures  # fmt: skip
    assert len(pictures) == len(made.pictures) == 15
    report.write(made, tmp_path / "page.html")
    assert {path.stem for path in (tmp_path / "page_figures").iterdir()} == pictures
    for one in made.tables:
        for suffix in ("csv", "tex"):
            assert (tmp_path / "page_tables" / f"{one.name}.{suffix}").stat().st_size > 50
    for part in [*made.pictures, *made.tables]:
        if part.name not in ("targets", "absent", "layer_weights", "runs"):
            assert "commit 0123456789" in part.caption, part.name
            assert "seeds 0" in part.caption, part.name


def test_the_answer_says_what_statistics_say(whole: Path, made: report.Report) -> None:
    """Against values worked out from the cells, without the report's own reading."""

    def eer(regime: str, budget: str, seed: int) -> float:
        path = whole / "tiny" / "verify" / regime / budget / f"seed{seed}" / "lr=0.1" / "result.json"
        return float(json.loads(path.read_text())["metrics"]["test"]["eer"])

    def system(regime: str, seed: int) -> stats.Statistic:
        path = whole / "tiny" / "verify" / regime / "all" / f"seed{seed}" / "lr=0.1" / "scores.txt"
        lines = [line.split() for line in path.read_text().splitlines()]
        sides = [[line[k].split("/")[0] for line in lines] for k in (1, 2)]
        return stats.verification([int(line[0]) for line in lines], [float(line[3]) for line in lines], *sides)

    of = stats.compare(*([system(regime, seed) for seed in (0, 1)] for regime in LEVELS), replicates=100)["eer"]
    read = text(made.page)
    number = report._number
    assert (
        f"{number(of.seeds.mean)} points (95 % interval over the 24 speakers of the test set "
        f"[{number(of.test_set.low)}, {number(of.test_set.high)}]; SD over 2 seeds {number(of.seeds.sd)})" in read
    )
    (row,) = [row for row in rows(table(made, "verify_differences")) if row["budget"] == "all"]
    assert float(row["EER"]) == pytest.approx(eer("finetuned", "all", 0) / 2 + eer("finetuned", "all", 1) / 2
                                              - eer("frozen", "all", 0) / 2 - eer("frozen", "all", 1) / 2)  # fmt: skip
    assert float(row["test set: 95 % from"]) == of.test_set.low
    assert float(row["P(improvement)"]) == of.probability_of_improvement

    frozen, tuned = (
        stats.learning_curve({3600 * HOURS[budget]: [eer(regime, budget, seed) for seed in (0, 1)] for budget in HOURS})
        for regime in LEVELS
    )
    (crossing,) = stats.crossovers(frozen, tuned)
    assert crossing.second_better_after
    assert f"cross at about {report._duration(crossing.budget)}: frozen is better below, finetuned above" in read
    multiplier = stats.label_multiplier(frozen, tuned).mean
    assert f"For the same error frozen needs {number(multiplier)} times the labels of finetuned (" in read
    needed = stats.labels_to_target(tuned, frozen.errors[-1]).budget
    assert f"the result of frozen with all labels (5.2 h), with about {report._duration(needed)}." in read
    efficiency = {row["regime"]: row for row in rows(table(made, "verify_efficiency"))}
    assert float(efficiency["frozen"]["ALC"]) == pytest.approx(stats.area(frozen).value)
    assert float(efficiency["finetuned"]["ALC"]) == pytest.approx(stats.area(tuned).value)
    assert float(efficiency["finetuned"]["trained parameters (M)"]) == 1.0


def test_accuracies_become_errors_for_areas_and_multipliers(made: report.Report) -> None:
    efficiency = {row["regime"]: row for row in rows(table(made, "languages_efficiency"))}
    assert 0 < float(efficiency["finetuned"]["ALC"]) < float(efficiency["frozen"]["ALC"]) < 0.3
    assert float(efficiency["finetuned"]["label multiplier"]) > 1
    assert float(rows(table(made, "glance"))[1]["difference"]) > 0
    assert "macro accuracy (%), higher is better" in text(made.page)


def test_tables_hold_full_precision_and_latex_is_escaped(made: report.Report) -> None:
    every = rows(table(made, "runs"))
    assert len(every) == 3 * (2 * 3 * 2 + STATES)
    assert {row["state"] for row in every} == {"", "0", "1", "2", "3"}
    (row,) = [r for r in every if (r["task"], r["regime"], r["budget"], r["seed"]) == ("words", "frozen", "1h", "1")]
    assert float(row["test: wer"]) == float(row["dev: wer"]) - 0.1 or math.isclose(
        float(row["test: wer"]), float(row["dev: wer"]) - 0.1
    )
    awkward = report.Table("t", "50 % & more_", ["a_b", "c#"], [["x^2 {~} \\", -1.5], ["≤ 1", None]], "")
    tex = awkward.latex()
    assert r"\caption{50 \% \& more\_}" in tex
    assert r"x\textasciicircum{}2 \{\textasciitilde{}\} \textbackslash{} & $-$1.50 \\" in tex
    assert r"\begin{tabular}{lr}" in tex
    assert r"$\le$ 1 & -- \\" in tex
    assert awkward.csv() == "a_b,c#\nx^2 {~} \\,-1.5\n≤ 1,\n"
    assert '<td class="text">≤ 1</td>' in awkward.html()
    for one in made.tables:
        assert all(
            line.count(" & ") == len(one.columns) - 1 for line in one.latex().splitlines() if line.endswith(r"\\")
        )


def test_published_results_stand_beside_ours(made: report.Report) -> None:
    (row,) = rows(table(made, "targets"))
    assert (row["published result"], row["value"], row["source"]) == ("frozen, EER", "6.02", "somebody (2021)")
    assert "frozen, all: " in row["measured here, largest budget"]


# --- Words ------------------------------------------------------------------------------------------------------------


def interval(low: float, high: float, bias: float = 0.0) -> stats.Interval:
    return stats.Interval((low + high) / 2, low, high, 0.95, (high - low) / 4, bias, 200, 20)


def difference(values: Sequence[float], over: stats.Interval | None) -> report.Difference:
    return report.Difference("all", stats.seed_spread(values), over, None, "speakers")


FEW = "too few or too different to speak for others"


@pytest.mark.parametrize(
    ("values", "over", "metric", "expected"),
    [
        ([-2.0, -2.1, -1.9], interval(-3, -1), "eer", "better"),
        ([-2.0, -2.1, -1.9], interval(-3, -1), "accuracy", "worse"),
        ([2.0, 2.1, 1.9], interval(1, 3), "eer", "worse"),
        ([2.0, 2.1, 1.9], interval(1, 3), "accuracy", "better"),
        ([-2.0, -2.1, -1.9], interval(-3, 0.1), "eer", "not told apart by this test set"),
        ([-2.0], interval(-3, -1), "eer", "better with this seed; one seed does not tell the luck of training"),
        ([-2.0, -0.1], interval(-3, -1), "eer", f"better with these 2 seeds, {FEW}"),
        ([-2.0, -2.1, -1.9], interval(-3, -1, bias=0.4), "eer", "better on this test set; its interval is unreliable"),
        ([-2.0, -2.1, -1.9], None, "eer", "better on this test set; how it would be on another is not known"),
        ([0.0], None, "eer", "no difference"),
    ],
)  # fmt: skip
def test_a_verdict_says_no_more_than_the_numbers(
    values: list[float], over: stats.Interval | None, metric: str, expected: str
) -> None:
    assert report.verdict(difference(values, over), report.METRICS[metric]) == expected


def only(root: Path) -> report.TaskView:
    found = report.gather([root])
    (view,) = report.tasks(found, report.Bootstrap(100))
    return view


def levels(root: Path, of: dict[str, tuple[float, ...]], seeds: Sequence[int] = (0,)) -> report.TaskView:
    """A study of one task whose errors are these, at the three budgets (``None``: not run)."""
    root.mkdir()
    recipe = study_yaml()
    recipe["tasks"] = {"words": recipe["tasks"]["words"]}
    (root / "study.yaml").write_text(yaml.safe_dump(recipe))
    for regime, errors in of.items():
        for budget, error in zip(HOURS, errors, strict=True):
            for seed in seeds:
                if error is not None:
                    folder = write_cell(root, "words", regime, budget, seed)
                    path = folder / "result.json"
                    result = json.loads(path.read_text())
                    result["metrics"]["test"]["wer"] = error
                    path.write_text(json.dumps(result))
    return only(root)


def said(view: report.TaskView) -> str:
    return " ".join(report.sentences(view, view.contrasts[0]))


def test_a_target_that_is_not_reached_is_said(tmp_path: Path) -> None:
    read = said(levels(tmp_path / "a", {"frozen": (20, 12, 8), "finetuned": (40, 20, 10)}))
    assert (
        "finetuned does not reach 8.00 %, the result of frozen with all labels (5.2 h), with any of these budgets."
        in read
    )
    assert "do not cross: frozen is better at every budget" in read
    assert "(one seed)" in read
    assert "one seed)" in read
    assert "no interval over the test set: the run's files give" in read


def test_curves_without_a_common_error_have_no_multiplier(tmp_path: Path) -> None:
    read = said(levels(tmp_path / "a", {"frozen": (40, 35, 30), "finetuned": (20, 12, 10)}))
    assert "no error in common" in read
    assert "times the labels" not in read
    assert (
        "reaches 30.0 %, the result of frozen with all labels (5.2 h), already with the smallest budget, 10 min."
        in read
    )
    assert "do not cross: finetuned is better at every budget" in read


def test_one_budget_says_nothing_of_sample_efficiency(tmp_path: Path) -> None:
    view = levels(tmp_path / "a", {"frozen": (None, None, 8), "finetuned": (None, None, 10)})  # type: ignore[arg-type]
    assert "Fewer than two budgets in common" in said(view)
    assert report._areas(view) == {}


def test_curves_that_cross_twice(tmp_path: Path) -> None:
    read = said(levels(tmp_path / "a", {"frozen": (20, 12, 8), "finetuned": (19, 13, 7)}))
    assert "cross 2 times" in read
    assert "neither is better throughout" in read


def test_areas_are_over_the_budgets_that_all_share(tmp_path: Path) -> None:
    view = levels(tmp_path / "a", {"frozen": (20, 10, 10), "finetuned": (None, 10, 10)})  # type: ignore[arg-type]
    areas = report._areas(view)
    assert [value[0] for value in areas.values()] == pytest.approx([0.1, 0.1])
    assert areas["frozen"][2] == (3600.0, 3600.0 * 5.2)


# --- What was run -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
def test_two_machines_make_the_same_report(whole: Path, made: report.Report, tmp_path: Path) -> None:
    halves = [tmp_path / "one" / "toy", tmp_path / "two" / "toy"]
    for half, seed in zip(halves, (0, 1), strict=True):
        shutil.copytree(whole, half)
        for folder in list(half.rglob(f"seed{1 - seed}")):
            shutil.rmtree(folder)
    shutil.rmtree(halves[0] / "tiny" / "words")  # the second machine has all of one task
    shutil.rmtree(halves[1] / "tiny" / "words")
    shutil.copytree(whole / "tiny" / "words", halves[1] / "tiny" / "words")
    merged = report.make([tmp_path / "one", tmp_path / "two"], replicates=100)
    assert [one.name for one in merged.tables] == [one.name for one in made.tables]
    for one, other in zip(merged.tables, made.tables, strict=True):
        assert sorted(one.csv().splitlines()) == sorted(other.csv().splitlines()), one.name
    assert "0 without" in text(merged.page)


def test_a_cell_that_is_there_twice(tmp_path: Path) -> None:
    first = write_study(tmp_path / "a", tasks=["words"], probes=False)
    second = tmp_path / "b"
    shutil.copytree(first, second)
    found = report.gather([first, second])
    assert len(found.runs) == 12
    assert found.notices == ["12 cells found twice, with the same result; shown once."]
    assert all(first in run.folder.parents for run in found.runs.values())
    change(second / "tiny/words/frozen/all/seed0/lr=0.1/result.json", "metrics", "test", "wer", to=99.0)
    assert any("with another result (wer 99 instead of" in one for one in report.gather([first, second]).notices)
    path = second / "tiny/words/frozen/1h/seed0/lr=0.1/config.yaml"
    run = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**run, "device": "cuda", "data": {**run["data"], "root": "/elsewhere"}}))
    report.gather([first, second])  # where it ran does not matter
    path.write_text(yaml.safe_dump({**run, "data": {**run["data"], "crop_seconds": 3.0}}))
    with pytest.raises(BenchmarkError, match=r"(?s)both tiny, words, frozen, budget 1h.*crop_seconds: 2.0 -> 3.0"):
        report.gather([first, second])


def test_cells_of_one_regime_must_have_one_configuration(tmp_path: Path) -> None:
    root = write_study(tmp_path / "a", tasks=["words"], probes=False)
    path = root / "tiny/words/frozen/1h/seed0/lr=0.1/config.yaml"
    run = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**run, "optim": {**run["optim"], "lr": 0.2}}))
    report.gather([root])  # searched
    path.write_text(yaml.safe_dump({**run, "featurizer": {"state": None, "normalize": False}}))
    with pytest.raises(BenchmarkError, match=r"(?s)of one regime, of different configurations.*normalize"):
        report.gather([root])


def change(path: Path, *keys: str, to: Any) -> None:
    result = json.loads(path.read_text())
    inner = result
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    path.write_text(json.dumps(result))


@pytest.mark.parametrize(
    ("keys", "to", "said"),
    [
        (("schema",), 2, "has result schema 2; this version of wavbench reads schema 1"),
        (("data", "test", "digest"), "other", "the test set"),
        (("downstream", "protocol_version"), 2, "the protocol's version differs"),
        (("upstream", "sha256"), "other", "sha256 differs"),
        (("selected", "metric"), "cer", "the metric differs, wer and cer"),
    ],
)
def test_what_is_not_comparable_is_refused(keys: tuple[str, ...], to: Any, said: str, tmp_path: Path) -> None:
    root = write_study(tmp_path / "a", tasks=["words"], probes=False)
    change(root / "tiny/words/finetuned/1h/seed1/lr=0.1/result.json", *keys, to=to)
    with pytest.raises(BenchmarkError, match=said):
        report.gather([root])


def test_a_result_that_lacks_fields_is_refused(tmp_path: Path) -> None:
    root = write_study(tmp_path / "a", tasks=["words"], probes=False)
    path = root / "tiny/words/frozen/1h/seed0/lr=0.1/result.json"
    result = json.loads(path.read_text())
    del result["downstream"]["evaluated"]
    path.write_text(json.dumps(result))
    with pytest.raises(BenchmarkError, match="lacks fields of result schema 1"):
        report.gather([root])


@pytest.mark.usefixtures("undrawn")
def test_missing_and_failed_cells_are_listed(tmp_path: Path) -> None:
    root = write_study(tmp_path / "a", tasks=["words"])
    cells = root / "tiny" / "words"
    shutil.rmtree(cells / "finetuned" / "1h" / "seed1")
    (cells / "finetuned/10min/seed0/lr=0.1/result.json").unlink()
    (cells / "frozen/10min/seed1/cell.json").unlink()
    (cells / "frozen/10min/seed1/error.txt").write_text("out of <memory>\n")
    shutil.rmtree(cells / "layers-2")
    made = report.make([root], replicates=100)
    absent = {
        (row["regime"], row["budget"], row["seed"], row["state"]): row["why"] for row in rows(table(made, "absent"))
    }
    assert absent == {
        ("finetuned", "1h", "1", ""): "not run",
        ("finetuned", "10min", "0", ""): "not finished",
        ("frozen", "10min", "1", ""): "failed: out of <memory>",
        ("layers", "all", "0", "2"): "not run",
    }
    assert "out of &lt;memory&gt;" in made.page
    read = text(made.page)
    assert "Of 16 cells, 4 without a result" in read
    assert "no cell of its recipe chose" in read  # the result of the cell that failed afterwards
    (row,) = [r for r in rows(table(made, "words_results")) if (r["regime"], r["budget"]) == ("finetuned", "1h")]
    assert row["seeds"] == "1"
    assert row["SD over seeds"] == ""


def test_nothing_to_report_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="no folder"):
        report.gather([tmp_path / "nowhere"])
    with pytest.raises(BenchmarkError, match="no finished cell"):
        report.gather([tmp_path])


def test_synthetic_data_are_said(tmp_path: Path, made: report.Report) -> None:
    assert "Synthetic data." in made.page
    assert "cannot be held against" in table(made, "targets").caption
    root = write_study(tmp_path / "a", tasks=["words"], probes=False)
    assert not report.gather([root]).synthetic
    (tmp_path / "data" / "corpus").mkdir(parents=True)
    path = root / "tiny/words/frozen/1h/seed0/lr=0.1/config.yaml"
    run = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**run, "data": {**run["data"], "root": str(tmp_path / "data")}}))
    assert not report.gather([root]).synthetic
    (tmp_path / "data" / "corpus" / report.MARKER).write_text("{}")
    assert report.gather([root]).synthetic


@pytest.mark.usefixtures("undrawn")
def test_runs_outside_of_a_study(tmp_path: Path) -> None:
    for regime in LEVELS:
        folder = write_cell(tmp_path / "made", "words", regime, "all", 0)
        shutil.move(folder, tmp_path / "runs" / regime)
    other = tmp_path / "runs" / "other"
    shutil.copytree(tmp_path / "runs" / "frozen", other)
    change(other / "result.json", "downstream", "evaluated", to="dev-other")
    again = tmp_path / "runs" / "frozen" / "evaluations" / "test"
    again.mkdir(parents=True)
    shutil.copy(tmp_path / "runs" / "frozen" / "result.json", again)
    made = report.make([tmp_path / "runs"], replicates=100)
    assert [row["regime"] for row in rows(table(made, "words_results"))] == ["finetune", "frozen"]
    assert "finetune against frozen" in made.page
    assert "is an evaluation of 'dev-other' beside the run's own; left out." in text(made.page)
    assert "is an evaluation of 'test' beside the run's own; left out." in text(made.page)


@pytest.mark.usefixtures("undrawn")
def test_single_states_alone(tmp_path: Path) -> None:
    root = write_study(tmp_path / "a", tasks=["verify"])
    for regime in LEVELS:
        shutil.rmtree(root / "tiny" / "verify" / regime)
    made = report.make([root], replicates=100)
    assert {picture.name for picture in made.pictures} == {"verify_layers"}
    layers = rows(table(made, "verify_layers"))
    best = min(layers, key=lambda row: float(row["test EER"]))
    assert f"of 4 single states, state {best['state']} has the best mean on test" in text(made.page)


def test_budgets_of_different_kinds_are_different_curves(tmp_path: Path) -> None:
    root = tmp_path / "a"
    root.mkdir()
    recipe = study_yaml()
    budgets = {"10min": "8utt/speaker", "1h": "100speakers", "all": "all"}
    recipe["tasks"] = {"words": {"budgets": list(budgets.values())}}
    recipe["regimes"].pop("layers")
    (root / "study.yaml").write_text(yaml.safe_dump(recipe))
    for regime in LEVELS:
        for old, new in budgets.items():
            for seed in (0, 1):
                folder = write_cell(root, "words", regime, old, seed).parent
                change(folder / "lr=0.1" / "result.json", "budget", "name", to=new)
                if new != old:
                    target = folder.parent.parent / new.replace("/", "-per-") / folder.name
                    target.parent.mkdir(exist_ok=True)
                    shutil.move(folder, target)
    view = only(root)
    assert {series.name: list(series.points) for series in view.series} == {
        f"{regime}, {kind}": [budget, "all"]
        for regime in LEVELS
        for kind, budget in (("utt/speaker", "8utt/speaker"), ("speakers", "100speakers"))
    }
    pairs = {(contrast.first.name, contrast.second.name) for contrast in view.contrasts}
    assert pairs == {(f"frozen, {kind}", f"finetuned, {kind}") for kind in ("utt/speaker", "speakers")}


def test_upstreams_are_compared_in_the_same_regime(tmp_path: Path) -> None:
    root = write_study(
        tmp_path / "a", tasks=["words"], probes=False, upstreams={"tiny": {"name": "x"}, "random": {"name": "y"}}
    )
    shutil.copytree(root / "tiny", root / "random")
    shutil.rmtree(root / "random/words/finetuned/1h/seed1")
    view = only(root)
    assert [(contrast.first.name, contrast.second.name) for contrast in view.contrasts] == [
        ("tiny, frozen", "tiny, finetuned"),
        ("random, frozen", "random, finetuned"),
        ("tiny, frozen", "random, frozen"),
        ("tiny, finetuned", "random, finetuned"),
    ]
    assert report.verdict(view.contrasts[2].differences["all"], view.metric) == "not told apart by this test set"
    assert "At 1h the two have different seeds" in " ".join(report.sentences(view, view.contrasts[3]))
    assert "different seeds" not in " ".join(report.sentences(view, view.contrasts[0]))


# --- The test set, from a run's own files -----------------------------------------------------------------------------


def test_statistics_are_the_results(whole: Path) -> None:
    found = report.gather([whole])
    for task, clusters in (("verify", 24), ("languages", 16), ("words", 9)):
        run = next(run for run in found.runs.values() if run.cell.task == task)
        made, over = report.statistic(run)
        assert made is not None, over
        assert over == "speakers"
        assert made.clusters == clusters
        assert made.values()[run.metric] == pytest.approx(run.value)


def rewritten(whole: Path, tmp_path: Path, task: str, change: Callable[[str], str]) -> report.Run:
    """A run of the study whose file of scores or predictions was changed."""
    folder = tmp_path / "run"
    shutil.copytree(whole / "tiny" / task / "frozen" / "all" / "seed0" / "lr=0.1", folder)
    (path,) = [folder / name for name in ("scores.txt", "predictions.jsonl") if (folder / name).exists()]
    path.write_text(change(path.read_text()))
    return next(iter(report.gather([folder]).runs.values()))


def test_speakers_that_no_id_names_are_found_by_target_trials(whole: Path, tmp_path: Path) -> None:
    def rename(content: str) -> str:  # each speaker's utterances become one name without a speaker
        return re.sub(r"id1(\d+)/\S+", lambda match: f"u{match[1]}", content)

    made, over = report.statistic(rewritten(whole, tmp_path, "verify", rename))
    assert made is not None
    assert over == "speakers (utterances that target trials connect)"
    assert made.clusters == 24


def test_ids_without_a_speaker_are_clusters_of_their_own(whole: Path, tmp_path: Path) -> None:
    made, over = report.statistic(
        rewritten(whole, tmp_path, "words", lambda content: re.sub(r'"id": "\d-1-', '"id": "u', content))
    )
    assert made is not None
    assert over == "utterances (their ids name no speaker)"
    assert made.clusters == 80


def test_a_speaker_in_the_line_wins(whole: Path, tmp_path: Path) -> None:
    made, over = report.statistic(
        rewritten(
            whole,
            tmp_path,
            "words",
            lambda content: re.sub(r'"id": "(\d)-1-', r'"speaker": "s\1", "id": "u\1_', content),
        )
    )
    assert made is not None
    assert (over, made.clusters) == ("speakers", 9)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda content: content.replace('"substitutions": 0', '"substitutions": 5'), "the run's files give"),
        (lambda content: "not json\n" + content, "not as expected"),
        (lambda content: "", "not as expected"),
    ],
)
def test_files_that_are_not_the_results_give_no_interval(
    change: Callable[[str], str], why: str, whole: Path, tmp_path: Path
) -> None:
    made, said = report.statistic(rewritten(whole, tmp_path, "words", change))
    assert made is None
    assert why in said


def test_speakers_by_id() -> None:
    assert report.speaker_of("id10270/5r0dWxy17C8/00001.wav") == "id10270"
    assert report.speaker_of("1089-134686-0000") == "1089"
    assert report.speaker_of("Dutch/test/nld_tst_sp_1/a.wav") == "Dutch/test/nld_tst_sp_1"
    assert report.speaker_of("nl_nl/test/123.wav") is None
    assert report.speaker_of("abc") is None


# --- Figures ----------------------------------------------------------------------------------------------------------


def test_lines_are_told_apart_without_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(plots, "_png", lambda figure: drawn.append(figure) or b"")
    curves = {
        f"line {k}": plots.Points([600, 3600], [10.0 - k, 5.0 - k], [1.0, None], [(4.0, 12.0), None]) for k in range(6)
    }
    plots.learning_curves(curves, {600: "10min", 3600: "1h"}, "EER (%)", "title")
    (axes,) = drawn[0].axes
    lines = [line for line in axes.lines if line.get_label().startswith("line ")]
    assert [line.get_label() for line in lines] == list(curves)
    assert len({(line.get_marker(), line.get_linestyle()) for line in lines}) == 6
    assert axes.get_xscale() == "log"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["10min", "1h"]
    for line in lines:  # moved aside by no more than the legibility of the budget
        assert max(abs(math.log(x / y)) for x, y in zip(line.get_xdata(), (600, 3600), strict=True)) < 0.03 * math.log(
            6
        )
    plots.plt.close("all")


def test_bars_and_bands_lie_where_they_should(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(plots, "_png", lambda figure: drawn.append(figure) or b"")
    points = plots.Points([0, 1], [10.0, 5.0], [2.0, 1.0], [(7.0, 14.0), (4.5, 5.5)], [[8.0, 12.0], [4.0, 6.0]])
    plots.layer_curves({"a": points}, "EER (%)", "title", {"all": 3.0})
    (axes,) = drawn[0].axes
    band, *bars = axes.collections
    assert [sorted(set(path[:, 1])) for path in (band.get_paths()[0].vertices,)] == [[4.0, 6.0, 8.0, 12.0]]
    ends = [tuple(segment[:, 1]) for bar in bars for segment in bar.get_segments()]
    assert ends == [(7.0, 14.0), (4.5, 5.5)]
    plots.plt.close("all")


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.learning_curves({}, {}, "", ""),
        lambda: plots.learning_curves({"a": plots.Points([0], [1])}, {0: "0"}, "", ""),
        lambda: plots.layer_curves({}, "", ""),
        lambda: plots.heat_map({}, "", ""),
        lambda: plots.heat_map({"a": [1.0], "b": [0.5, 0.5]}, "", ""),
        lambda: plots.costs({}, "", ""),
    ],
)
def test_figures_of_nothing_are_refused(draw: Callable[[], bytes]) -> None:
    with pytest.raises(BenchmarkError):
        draw()


def test_figures_of_little_are_drawn() -> None:
    point = plots.Points([600], [5.0], [None], [None], [[5.0]])
    assert plots.learning_curves({"a": point}, {600: "10min"}, "", "").startswith(b"\x89PNG")
    assert plots.layer_curves({"a": point}, "", "").startswith(b"\x89PNG")
    assert plots.heat_map({"a": [1 / 25] * 25}, "", "").startswith(b"\x89PNG")
    assert plots.costs({"updates": {"a": point}, "free": {"a": plots.Points([0.0], [5.0])}}, "", "").startswith(
        b"\x89PNG"
    )


# --- In a browser -----------------------------------------------------------------------------------------------------

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
PROBE = """<body style="margin:0"><pre id="found">nothing</pre><script>
addEventListener('load', () => {
  const found = [...document.querySelectorAll('iframe')].map(frame => {
    const page = frame.contentDocument, root = page.documentElement;
    const pictures = [...page.images];
    return {
      width: frame.clientWidth, wide: root.scrollWidth,
      broken: pictures.filter(one => !one.complete || one.naturalWidth < 100).length, pictures: pictures.length,
      narrow: Math.min(...pictures.map(one => one.getBoundingClientRect().width)),
      outside: [...page.querySelectorAll('p, li, h1, h2, h3, img, figcaption, dl')].filter(
        one => one.getBoundingClientRect().right > frame.clientWidth + 1).length,
      background: frame.contentWindow.getComputedStyle(page.body).backgroundColor,
      text: parseFloat(frame.contentWindow.getComputedStyle(page.querySelector('li')).fontSize),
    };
  });
  document.getElementById('found').textContent = JSON.stringify(found);
});
</script>"""


def browse(tmp_path: Path, *arguments: str) -> str:
    assert BROWSER is not None
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
               "--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'profile'}", *arguments]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine (Debian: apt-get install chromium)")
def test_a_browser_shows_it_on_desk_and_phone(made: report.Report, tmp_path: Path) -> None:
    frames = "".join(
        f'<iframe width="{width}" height="900" style="border:0" srcdoc="{html.escape(made.page)}"></iframe>'
        for width in (1200, 390, 320)
    )
    (tmp_path / "probe.html").write_text(PROBE + frames)
    shown = browse(tmp_path, "--dump-dom", "--window-size=1400,1000", f"file://{tmp_path / 'probe.html'}")
    match = re.search(r'<pre id="found">(.*?)</pre>', shown, re.S)
    assert match is not None
    found = json.loads(match[1])
    assert [one["width"] for one in found] == [1200, 390, 320]
    for one in found:
        assert one["wide"] <= one["width"], one
        assert one["outside"] == one["broken"] == 0, one
        assert one["pictures"] == len(made.pictures)
        assert one["narrow"] > 0.7 * min(one["width"], 500), one
        assert one["background"] == "rgb(255, 255, 255)"
        assert one["text"] >= 14
    report.write(made, tmp_path / "report.html")
    address = f"file://{tmp_path / 'report.html'}"
    browse(tmp_path, f"--screenshot={tmp_path / 'desk.png'}", "--window-size=1200,2000", address)
    picture = plots.plt.imread(tmp_path / "desk.png")
    assert picture.shape[:2] == (2000, 1200)
    assert picture[..., :3].std() > 0.05
    browse(tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={tmp_path / 'print.pdf'}", address)
    pdf = (tmp_path / "print.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert 5 < len(re.findall(rb"/Type\s*/Page\b", pdf)) < 40


# --- The command ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_study(tmp_path / "a", tasks=["words"], probes=False, seeds=(0,))
    output = tmp_path / "out" / "page.html"
    begun = time.perf_counter()
    assert report.main([str(root), "-o", str(output), "--replicates", "100", "--title", "A & B"]) == 0
    assert time.perf_counter() - begun < 30
    assert "page.html: " in capsys.readouterr().out
    page = output.read_text()
    assert "<title>A &amp; B</title>" in page
    assert "one seed" in text(page)
    assert (tmp_path / "out" / "page_tables" / "words_results.csv").exists()
