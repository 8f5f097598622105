"""What is read from made-up studies, what is refused, what is compared, and what is said of it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_studies import HOURS, LEVELS, change, study_yaml, write_cell, write_study

from benchmark import metrics
from benchmark import statistics as stats
from benchmark.errors import BenchmarkError
from benchmark.files import MARKER
from benchmark.metrics import METRICS, Metric
from benchmark.report import collect, compare, page, sentences
from benchmark.tables import number_text

# --- What was run -----------------------------------------------------------------------------------------------------


def test_a_cell_that_is_there_twice(tmp_path: Path) -> None:
    first = write_study(tmp_path / "a", tasks=["words"], layers=False)
    second = tmp_path / "b"
    shutil.copytree(first, second)
    gathered = collect.gather([first, second])
    assert len(gathered.runs) == 12
    assert gathered.notices == ["12 cells found more than once with the same result; shown once."]
    assert all(first in run.folder.parents for run in gathered.runs.values())
    change(second / "tiny/words/frozen/all/seed0/lr=0.1/result.json", "metrics", "test", "wer", to=99.0)
    assert any(
        "with a different result (wer 99 instead of" in notice for notice in collect.gather([first, second]).notices
    )
    path = second / "tiny/words/frozen/1h/seed0/lr=0.1/config.yaml"
    run = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**run, "device": "cuda", "data": {**run["data"], "root": "/elsewhere"}}))
    collect.gather([first, second])  # where it ran does not matter
    path.write_text(yaml.safe_dump({**run, "data": {**run["data"], "crop_seconds": 3.0}}))
    with pytest.raises(BenchmarkError, match=r"(?s)both tiny, words, frozen, budget 1h.*crop_seconds: 2.0 -> 3.0"):
        collect.gather([first, second])


def test_cells_of_one_regime_must_have_one_configuration(tmp_path: Path) -> None:
    root = write_study(tmp_path / "a", tasks=["words"], layers=False)
    path = root / "tiny/words/frozen/1h/seed0/lr=0.1/config.yaml"
    run = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**run, "optim": {**run["optim"], "lr": 0.2}}))
    collect.gather([root])  # searched
    path.write_text(yaml.safe_dump({**run, "featurizer": {"layer": None, "normalize": False}}))
    with pytest.raises(BenchmarkError, match=r"(?s)have one regime but different configurations.*normalize"):
        collect.gather([root])


@pytest.mark.parametrize(
    ("keys", "to", "said"),
    [
        (("schema",), 2, "has result schema 2; this version of wavbench reads schema 1"),
        (("data", "test", "digest"), "other", "the test set"),
        (("downstream", "protocol_version"), 2, "the protocol's version differs"),
        (("upstream", "sha256"), "other", "upstream differs, sha256 ab12 and sha256 other"),
        (("selected", "metric"), "cer", "the metric differs, wer and cer"),
    ],
)
def test_what_is_not_comparable_is_refused(keys: tuple[str, ...], to: Any, said: str, tmp_path: Path) -> None:
    root = write_study(tmp_path / "a", tasks=["words"], layers=False)
    change(root / "tiny/words/finetuned/1h/seed1/lr=0.1/result.json", *keys, to=to)
    with pytest.raises(BenchmarkError, match=said):
        collect.gather([root])


def test_regimes_chosen_by_different_rules_are_refused(tmp_path: Path) -> None:
    root = write_study(tmp_path / "a", tasks=["words"], layers=False)

    def rule(regime: str, selection: str) -> None:
        for path in root.glob(f"tiny/words/{regime}/*/*/*/config.yaml"):
            run = yaml.safe_load(path.read_text())
            path.write_text(yaml.safe_dump({**run, "task": {**run.get("task", {}), "selection": selection}}))

    rule("frozen", "wer")
    collect.gather([root])  # what chose where the configuration does not say is the metric
    rule("frozen", "wer_or_cer")
    with pytest.raises(BenchmarkError, match="what chooses on dev differs"):
        collect.gather([root])
    rule("finetuned", "wer_or_cer")
    collect.gather([root])


def test_a_result_that_lacks_fields_is_refused(tmp_path: Path) -> None:
    root = write_study(tmp_path / "a", tasks=["words"], layers=False)
    path = root / "tiny/words/frozen/1h/seed0/lr=0.1/result.json"
    result = json.loads(path.read_text())
    del result["downstream"]["evaluated"]
    path.write_text(json.dumps(result))
    with pytest.raises(BenchmarkError, match="lacks fields of result schema 1"):
        collect.gather([root])


@pytest.mark.parametrize(
    ("part", "name", "said"),
    [
        ("downstream", "task", "downstream.task is missing"),
        ("downstream", "protocol_version", "downstream.protocol_version is missing"),
        ("upstream", "sha256", "upstream.sha256 is missing"),
        ("downstream", None, "lacks fields of result schema 1"),
    ],
)
def test_a_result_of_another_shape_is_refused(part: str, name: str | None, said: str, tmp_path: Path) -> None:
    root = write_study(tmp_path / "a", tasks=["words"], layers=False)
    path = root / "tiny/words/frozen/1h/seed0/lr=0.1/result.json"
    result = json.loads(path.read_text())
    if name is None:
        result[part] = None
    else:
        del result[part][name]
    path.write_text(json.dumps(result))
    with pytest.raises(BenchmarkError, match=said):
        collect.gather([root])


def test_a_data_root_that_no_folder_can_have(tmp_path: Path) -> None:
    root = write_study(tmp_path / "a", tasks=["words"], layers=False)
    path = root / "tiny/words/frozen/1h/seed0/lr=0.1/config.yaml"
    run = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**run, "data": {**run["data"], "root": "9" * 5000}}))
    assert not collect.gather([root]).synthetic


def test_nothing_to_report_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="no folder"):
        collect.gather([tmp_path / "nowhere"])
    with pytest.raises(BenchmarkError, match="no finished cell"):
        collect.gather([tmp_path])


def test_a_marker_in_the_data_makes_results_synthetic(tmp_path: Path) -> None:
    root = write_study(tmp_path / "a", tasks=["words"], layers=False)
    assert not collect.gather([root]).synthetic
    (tmp_path / "data" / "corpus").mkdir(parents=True)
    path = root / "tiny/words/frozen/1h/seed0/lr=0.1/config.yaml"
    run = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**run, "data": {**run["data"], "root": str(tmp_path / "data")}}))
    assert not collect.gather([root]).synthetic
    (tmp_path / "data" / "corpus" / MARKER).write_text("{}")
    assert collect.gather([root]).synthetic


# --- The test set, from a run's own files -----------------------------------------------------------------------------


def test_statistics_are_the_results(whole_study: Path) -> None:
    gathered = collect.gather([whole_study])
    for task, clusters in (("verify", 24), ("languages", 16), ("words", 9)):
        run = next(run for run in gathered.runs.values() if run.cell.task == task)
        statistic, over = compare.statistic(run)
        assert statistic is not None, over
        assert over == "speakers"
        assert statistic.clusters == clusters
        assert statistic.values()[run.metric] == pytest.approx(run.value)


def rewritten(whole_study: Path, tmp_path: Path, task: str, change: Callable[[str], str]) -> collect.Run:
    """A run of the study whose file of scores or predictions was changed."""
    folder = tmp_path / "run"
    shutil.copytree(whole_study / "tiny" / task / "frozen" / "all" / "seed0" / "lr=0.1", folder)
    (path,) = [folder / name for name in ("scores.txt", "predictions.jsonl") if (folder / name).exists()]
    path.write_text(change(path.read_text()))
    return next(iter(collect.gather([folder]).runs.values()))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda content: content.replace('"prediction": "', '"prediction": "x x x '), "the run's files give"),
        (lambda content: "not json\n" + content, "cannot be read: JSONDecodeError"),
        (lambda content: content.replace('"id": "0-1', '"id": "7-7'), "cannot be read: KeyError"),
        (lambda content: "", "at least 2 clusters"),
    ],
)
def test_files_that_are_not_the_results_give_no_interval(
    change: Callable[[str], str], why: str, whole_study: Path, tmp_path: Path
) -> None:
    statistic, reason = compare.statistic(rewritten(whole_study, tmp_path, "words", change))
    assert statistic is None
    assert why in reason


def test_a_metric_of_posteriors_that_were_not_kept(whole_study: Path, tmp_path: Path) -> None:
    run = rewritten(whole_study, tmp_path, "languages", str)
    run.result["metrics"]["test"]["top5_accuracy"] = 100.0
    assert compare.statistic(run, "top5_accuracy")[0] is not None
    change(run.folder / "evaluation.json", "classes", to=None)
    reason = "no value of 'top5_accuracy': predictions.jsonl of the run has no log-posteriors"
    assert compare.statistic(run, "top5_accuracy") == (None, reason)


def test_clusters_are_those_that_the_run_names(whole_study: Path, tmp_path: Path) -> None:
    run = rewritten(whole_study, tmp_path, "words", str)
    path = run.folder / "evaluation.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"cluster": "session", "clusters": {name: name for name in about["clusters"]}}))
    statistic, over = compare.statistic(run)
    assert statistic is not None
    assert (over, statistic.clusters) == ("sessions", 80)


def test_a_run_that_says_nothing_has_no_interval(whole_study: Path, tmp_path: Path) -> None:
    run = rewritten(whole_study, tmp_path, "words", str)
    (run.folder / "evaluation.json").unlink()
    assert compare.statistic(run) == (None, "the run does not say what its metrics are computed from")


def with_metric(root: Path, name: str, value: Callable[[float], float], **declared: Any) -> None:
    """Rename the metric of a study's runs, and declare it in their files."""
    for path in root.rglob("result.json"):
        result = json.loads(path.read_text())
        result["selected"]["metric"] = name
        for values in result["metrics"].values():
            values[name] = value(values.pop("wer"))
        path.write_text(json.dumps(result))
        change(path.parent / "evaluation.json", "metrics", to={name: declared})


def test_metrics_of_plug_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's declaration is read; the interval needs the metric itself."""
    root = write_study(tmp_path / "a", tasks=["words"], layers=False, seeds=(0,))
    declared = {"label": "right words", "unit": "%", "higher_is_better": True, "ceiling": 100.0}
    with_metric(root, "right_words", lambda wer: 100 - wer, **declared)
    view = only(root)
    assert view.metric == Metric("right_words", "right words", "%", True, 100.0)
    (contrast,) = view.contrasts
    reason = "no interval over the test set: the metric 'right_words' is not declared in this process (--plugin)"
    assert reason in sentences.sentences(view, contrast)[0]
    monkeypatch.setattr(metrics, "METRICS", dict(METRICS))
    metrics.metric("right_words", kind="edits", **declared)(lambda items: 100 - metrics.edit_rate(items.words))
    (contrast,) = only(root).contrasts
    interval = contrast.differences["all"].test_set
    assert interval is not None
    assert (interval.low <= interval.value <= interval.high, interval.clusters) == (True, 9)


def test_a_metric_that_nobody_declares_is_an_error(tmp_path: Path) -> None:
    root = write_study(tmp_path / "a", tasks=["words"], layers=False, seeds=(0,))
    with_metric(root, "odd_rate", float)
    for path in root.rglob("evaluation.json"):
        change(path, "metrics", to={})
    gathered = collect.gather([root])
    (view,) = compare.tasks(gathered, compare.Bootstrap(100))
    assert (view.metric.label, view.metric.higher_is_better) == ("odd rate", False)
    assert gathered.notices == ["The metric 'odd_rate' is not declared; it is treated as an error (lower is better)."]


# --- Comparisons and words --------------------------------------------------------------------------------------------


def interval(low: float, high: float) -> stats.Interval:
    return stats.Interval((low + high) / 2, low, high, 0.95, (high - low) / 4, 20)


def difference(values: Sequence[float], over: stats.Interval | None) -> compare.Difference:
    return compare.Difference("all", stats.seed_spread(values), over, None, "speakers")


FEW = "which are too few or vary too much to generalise"


@pytest.mark.parametrize(
    ("values", "over", "metric", "expected"),
    [
        ([-2.0, -2.1, -1.9], interval(-3, -1), "eer", "better"),
        ([-2.0, -2.1, -1.9], interval(-3, -1), "accuracy", "worse"),
        ([2.0, 2.1, 1.9], interval(1, 3), "eer", "worse"),
        ([2.0, 2.1, 1.9], interval(1, 3), "accuracy", "better"),
        ([-2.0, -2.1, -1.9], interval(-3, 0.1), "eer", "no clear difference on this test set"),
        ([-2.0], interval(-3, -1), "eer", "better with this seed; the variation between seeds is unknown"),
        ([-2.0, -0.1], interval(-3, -1), "eer", f"better with these 2 seeds, {FEW}"),
        ([-2.0, -2.1, -1.9], None, "eer", "better on this test set; no interval says whether this extends to others"),
        ([0.0], None, "eer", "no difference"),
    ],
)  # fmt: skip
def test_a_verdict_says_no_more_than_the_numbers(
    values: list[float], over: stats.Interval | None, metric: str, expected: str
) -> None:
    assert sentences.verdict(difference(values, over), METRICS[metric]) == expected


def only(root: Path) -> compare.TaskView:
    (view,) = compare.tasks(collect.gather([root]), compare.Bootstrap(100))
    return view


def levels(root: Path, of: dict[str, tuple[float, ...]], seeds: Sequence[int] = (0,)) -> compare.TaskView:
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


def said(view: compare.TaskView) -> str:
    return " ".join(sentences.sentences(view, view.contrasts[0]))


def test_a_budgets_length_is_not_repeated() -> None:
    assert sentences.labels_text("25min", 1498.5) == "25 min of labels"
    assert sentences.labels_text("9min", 538.2) == "a budget of 9min (8.97 min)"
    assert sentences.labels_text("all", 18720.0) == "all labels (5.2 h)"


def test_a_target_that_is_not_reached_is_said(tmp_path: Path) -> None:
    read = said(levels(tmp_path / "a", {"frozen": (20, 12, 8), "finetuned": (40, 20, 10)}))
    assert (
        "finetuned does not reach 8.00 %, the result of frozen with all labels (5.2 h), with any of these budgets."
        in read
    )
    assert "do not cross: frozen is better at every shared budget" in read
    assert "(one seed)" in read
    assert "one seed)" in read
    assert "no interval over the test set: the run's files give" in read


def test_curves_without_a_common_error_have_no_multiplier(tmp_path: Path) -> None:
    read = said(levels(tmp_path / "a", {"frozen": (40, 35, 30), "finetuned": (20, 12, 10)}))
    assert "reach no common error" in read
    assert "times the labels" not in read
    assert (
        "reaches 30.0 %, the result of frozen with all labels (5.2 h), already with the smallest budget (10 min)."
        in read
    )
    assert "do not cross: finetuned is better at every shared budget" in read


def test_one_budget_says_nothing_of_sample_efficiency(tmp_path: Path) -> None:
    view = levels(tmp_path / "a", {"frozen": (None, None, 8), "finetuned": (None, None, 10)})  # type: ignore[arg-type]
    assert len(sentences.sentences(view, view.contrasts[0])) == 1  # nobody asked for it
    assert compare.normalised_areas(view) == {}
    view = levels(tmp_path / "b", {"frozen": (9, 9, 8), "finetuned": (None, None, 10)})  # type: ignore[arg-type]
    assert said(view).endswith(
        "finetuned and frozen share fewer than two budgets, so sample efficiency cannot be compared."
    )


def test_curves_that_cross_twice(tmp_path: Path) -> None:
    read = said(levels(tmp_path / "a", {"frozen": (20, 12, 8), "finetuned": (19, 13, 7)}))
    assert "cross 2 times" in read
    assert "neither is better throughout" in read


def test_areas_are_over_the_budgets_that_all_share(tmp_path: Path) -> None:
    view = levels(tmp_path / "a", {"frozen": (20, 10, 10), "finetuned": (None, 10, 10)})  # type: ignore[arg-type]
    areas = compare.normalised_areas(view)
    assert [value[0] for value in areas.values()] == pytest.approx([0.1, 0.1])
    assert areas["frozen"][2] == (3600.0, 3600.0 * 5.2)


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
    finetuned, frozen = sorted(sentences.sentences_on_compositions(view))
    series = {series.name: series for series in view.series}
    few = series["frozen, utt/speaker"].mean("8utt/speaker")
    many = series["frozen, speakers"].mean("100speakers")
    text, number = view.metric.text, number_text
    assert (
        f"frozen has WER {text(many)} with a budget of 100speakers (1 h) and {text(few)} with a budget of 8utt/speaker "
        f"(10 min): {number(many - few)} points (95 % interval over the"
    ) in frozen
    assert finetuned.startswith("finetuned has WER ")
    alike = {sentences.sentences(view, contrast)[0] for contrast in view.contrasts}
    assert len(alike) == 1  # with all labels the kind of budgets is nothing
    assert "finetuned has WER" in alike.pop()
    html = page.make([root], replicates=100).page
    assert html.count("<li>With all labels") == 1
    assert html.count("with a budget of 8utt/speaker") == 2


def test_upstreams_are_compared_in_the_same_regime(tmp_path: Path) -> None:
    root = write_study(
        tmp_path / "a", tasks=["words"], layers=False, upstreams={"tiny": {"name": "x"}, "random": {"name": "y"}}
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
    assert (
        sentences.verdict(view.contrasts[2].differences["all"], view.metric) == "no clear difference on this test set"
    )
    assert "At 1h, random, finetuned and tiny, finetuned have different seeds" in " ".join(
        sentences.sentences(view, view.contrasts[3])
    )
    assert "different seeds" not in " ".join(sentences.sentences(view, view.contrasts[0]))


def test_a_restricted_upstream_does_not_change_what_is_said_of_another(tmp_path: Path) -> None:
    alone = write_study(tmp_path / "alone", tasks=["words"], layers=False)
    tiny = {"name": "x"}
    few = {
        "name": "y",
        "options": {"random_weights": True},
        "budgets": ["10min", "1h"],
        "regimes": ["frozen", "finetuned"],
    }
    root = write_study(tmp_path / "a", tasks=["words"], layers=False, upstreams={"tiny": tiny, "random": few})
    shutil.rmtree(root / "tiny")
    shutil.copytree(alone / "tiny", root / "tiny")
    shutil.copytree(root / "tiny", root / "random")
    for regime in LEVELS:
        shutil.rmtree(root / "random/words" / regime / "all")
    expected, view = only(alone), only(root)
    own = sentences.sentences(view, view.contrasts[0])
    assert [one.replace("tiny, ", "") for one in own] == sentences.sentences(expected, expected.contrasts[0])
    assert "Area under the error curve from 10 min to 5.2 h: finetuned" in own[-1].replace("tiny, ", "")
    assert "from 10 min to 1 h" in sentences.sentences(view, view.contrasts[1])[-1]
    between = sentences.sentences(view, view.contrasts[2])[-1]  # of runs that are the same where both have them
    one, other = re.findall(r"(?:random|tiny), frozen ([0-9.]+)", between)
    assert one == other
    areas = compare.normalised_areas(view)
    assert areas["tiny, frozen"] == compare.normalised_areas(expected)["frozen"]
    assert areas["random, frozen"][2] == (600.0, 3600.0)


def test_random_weights_are_an_upstream_of_their_own_outside_of_studies(tmp_path: Path) -> None:
    root = write_study(tmp_path / "a", tasks=["words"], seeds=[0], layers=False)
    for name, drawn in (("trained", False), ("drawn", True)):
        folder = tmp_path / "runs" / name
        shutil.copytree(root / "tiny/words/frozen/all/seed0/lr=0.1", folder)
        change(folder / "result.json", "upstream", "random_weights", to=drawn)
        if drawn:
            change(folder / "result.json", "upstream", "sha256", to=None)
    gathered = collect.gather([tmp_path / "runs"])
    assert [run.cell.upstream for run in gathered.runs.values()] == ["some_upstream, random weights", "some_upstream"]
