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

from benchmark.report import findings, page as report
from benchmark import statistics as stats
from benchmark.errors import BenchmarkError

# --- What was run -----------------------------------------------------------------------------------------------------


def test_a_cell_that_is_there_twice(tmp_path: Path) -> None:
    first = write_study(tmp_path / "a", tasks=["words"], probes=False)
    second = tmp_path / "b"
    shutil.copytree(first, second)
    found = findings.gather([first, second])
    assert len(found.runs) == 12
    assert found.notices == ["12 cells found twice, with the same result; shown once."]
    assert all(first in run.folder.parents for run in found.runs.values())
    change(second / "tiny/words/frozen/all/seed0/lr=0.1/result.json", "metrics", "test", "wer", to=99.0)
    assert any("with another result (wer 99 instead of" in one for one in findings.gather([first, second]).notices)
    path = second / "tiny/words/frozen/1h/seed0/lr=0.1/config.yaml"
    run = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**run, "device": "cuda", "data": {**run["data"], "root": "/elsewhere"}}))
    findings.gather([first, second])  # where it ran does not matter
    path.write_text(yaml.safe_dump({**run, "data": {**run["data"], "crop_seconds": 3.0}}))
    with pytest.raises(BenchmarkError, match=r"(?s)both tiny, words, frozen, budget 1h.*crop_seconds: 2.0 -> 3.0"):
        findings.gather([first, second])


def test_cells_of_one_regime_must_have_one_configuration(tmp_path: Path) -> None:
    root = write_study(tmp_path / "a", tasks=["words"], probes=False)
    path = root / "tiny/words/frozen/1h/seed0/lr=0.1/config.yaml"
    run = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**run, "optim": {**run["optim"], "lr": 0.2}}))
    findings.gather([root])  # searched
    path.write_text(yaml.safe_dump({**run, "featurizer": {"state": None, "normalize": False}}))
    with pytest.raises(BenchmarkError, match=r"(?s)of one regime, of different configurations.*normalize"):
        findings.gather([root])


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
    root = write_study(tmp_path / "a", tasks=["words"], probes=False)
    change(root / "tiny/words/finetuned/1h/seed1/lr=0.1/result.json", *keys, to=to)
    with pytest.raises(BenchmarkError, match=said):
        findings.gather([root])


def test_a_result_that_lacks_fields_is_refused(tmp_path: Path) -> None:
    root = write_study(tmp_path / "a", tasks=["words"], probes=False)
    path = root / "tiny/words/frozen/1h/seed0/lr=0.1/result.json"
    result = json.loads(path.read_text())
    del result["downstream"]["evaluated"]
    path.write_text(json.dumps(result))
    with pytest.raises(BenchmarkError, match="lacks fields of result schema 1"):
        findings.gather([root])


def test_nothing_to_report_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="no folder"):
        findings.gather([tmp_path / "nowhere"])
    with pytest.raises(BenchmarkError, match="no finished cell"):
        findings.gather([tmp_path])


def test_a_marker_in_the_data_makes_results_synthetic(tmp_path: Path) -> None:
    root = write_study(tmp_path / "a", tasks=["words"], probes=False)
    assert not findings.gather([root]).synthetic
    (tmp_path / "data" / "corpus").mkdir(parents=True)
    path = root / "tiny/words/frozen/1h/seed0/lr=0.1/config.yaml"
    run = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**run, "data": {**run["data"], "root": str(tmp_path / "data")}}))
    assert not findings.gather([root]).synthetic
    (tmp_path / "data" / "corpus" / findings.MARKER).write_text("{}")
    assert findings.gather([root]).synthetic


# --- The test set, from a run's own files -----------------------------------------------------------------------------


def test_statistics_are_the_results(whole_study: Path) -> None:
    found = findings.gather([whole_study])
    for task, clusters in (("verify", 24), ("languages", 16), ("words", 9)):
        run = next(run for run in found.runs.values() if run.cell.task == task)
        made, over = findings.statistic(run)
        assert made is not None, over
        assert over == "speakers"
        assert made.clusters == clusters
        assert made.values()[run.metric] == pytest.approx(run.value)


def rewritten(whole_study: Path, tmp_path: Path, task: str, change: Callable[[str], str]) -> findings.Run:
    """A run of the study whose file of scores or predictions was changed."""
    folder = tmp_path / "run"
    shutil.copytree(whole_study / "tiny" / task / "frozen" / "all" / "seed0" / "lr=0.1", folder)
    (path,) = [folder / name for name in ("scores.txt", "predictions.jsonl") if (folder / name).exists()]
    path.write_text(change(path.read_text()))
    return next(iter(findings.gather([folder]).runs.values()))


def test_speakers_that_no_id_names_are_found_by_target_trials(whole_study: Path, tmp_path: Path) -> None:
    def rename(content: str) -> str:  # each speaker's utterances become one name without a speaker
        return re.sub(r"id1(\d+)/\S+", lambda match: f"u{match[1]}", content)

    made, over = findings.statistic(rewritten(whole_study, tmp_path, "verify", rename))
    assert made is not None
    assert over == "speakers (utterances that target trials connect)"
    assert made.clusters == 24


def test_ids_without_a_speaker_are_clusters_of_their_own(whole_study: Path, tmp_path: Path) -> None:
    made, over = findings.statistic(
        rewritten(whole_study, tmp_path, "words", lambda content: re.sub(r'"id": "\d-1-', '"id": "u', content))
    )
    assert made is not None
    assert over == "utterances (their ids name no speaker)"
    assert made.clusters == 80


def test_a_speaker_in_the_line_wins(whole_study: Path, tmp_path: Path) -> None:
    made, over = findings.statistic(
        rewritten(
            whole_study,
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
    change: Callable[[str], str], why: str, whole_study: Path, tmp_path: Path
) -> None:
    made, said = findings.statistic(rewritten(whole_study, tmp_path, "words", change))
    assert made is None
    assert why in said


def test_speakers_by_id() -> None:
    assert findings.speaker_of("id10270/5r0dWxy17C8/00001.wav") == "id10270"
    assert findings.speaker_of("1089-134686-0000") == "1089"
    assert findings.speaker_of("Dutch/test/nld_tst_sp_1/a.wav") == "Dutch/test/nld_tst_sp_1"
    assert findings.speaker_of("nl_nl/test/123.wav") is None
    assert findings.speaker_of("abc") is None


# --- Comparisons and words --------------------------------------------------------------------------------------------


def interval(low: float, high: float, bias: float = 0.0) -> stats.Interval:
    return stats.Interval((low + high) / 2, low, high, 0.95, (high - low) / 4, bias, 200, 20)


def difference(values: Sequence[float], over: stats.Interval | None) -> findings.Difference:
    return findings.Difference("all", stats.seed_spread(values), over, None, "speakers")


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
    assert findings.verdict(difference(values, over), findings.METRICS[metric]) == expected


def only(root: Path) -> findings.TaskView:
    found = findings.gather([root])
    (view,) = findings.tasks(found, findings.Bootstrap(100))
    return view


def levels(root: Path, of: dict[str, tuple[float, ...]], seeds: Sequence[int] = (0,)) -> findings.TaskView:
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


def said(view: findings.TaskView) -> str:
    return " ".join(findings.sentences(view, view.contrasts[0]))


def test_a_budgets_length_is_not_said_twice() -> None:
    assert findings._labels("25min", 1498.5) == "25 min of labels"
    assert findings._labels("9min", 538.2) == "a budget of 9min (8.97 min)"
    assert findings._labels("all", 18720.0) == "all labels (5.2 h)"


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
    assert len(findings.sentences(view, view.contrasts[0])) == 1  # nobody asked for it
    assert findings.normalised_areas(view) == {}
    view = levels(tmp_path / "b", {"frozen": (9, 9, 8), "finetuned": (None, None, 10)})  # type: ignore[arg-type]
    assert said(view).endswith(
        "Fewer than two budgets in common of finetuned and frozen: nothing is said of sample efficiency."
    )


def test_curves_that_cross_twice(tmp_path: Path) -> None:
    read = said(levels(tmp_path / "a", {"frozen": (20, 12, 8), "finetuned": (19, 13, 7)}))
    assert "cross 2 times" in read
    assert "neither is better throughout" in read


def test_areas_are_over_the_budgets_that_all_share(tmp_path: Path) -> None:
    view = levels(tmp_path / "a", {"frozen": (20, 10, 10), "finetuned": (None, 10, 10)})  # type: ignore[arg-type]
    areas = findings.normalised_areas(view)
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
    finetuned, frozen = sorted(findings.sentences_on_compositions(view))
    series = {series.name: series for series in view.series}
    few = series["frozen, utt/speaker"].mean("8utt/speaker")
    many = series["frozen, speakers"].mean("100speakers")
    text, number = view.metric.text, findings.number_text
    assert (
        f"frozen has WER {text(many)} with a budget of 100speakers (1 h) and {text(few)} with a budget of 8utt/speaker "
        f"(10 min): {number(many - few)} points (95 % interval over the"
    ) in frozen
    assert finetuned.startswith("finetuned has WER ")
    alike = {findings.sentences(view, contrast)[0] for contrast in view.contrasts}
    assert len(alike) == 1  # with all labels the kind of budgets is nothing
    assert "finetuned has WER" in alike.pop()
    answer = report.make([root], replicates=100).page.split("</section>", 1)[0]
    assert answer.count("With all labels") == 1
    assert answer.count("with a budget of 8utt/speaker") == 2


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
    assert findings.verdict(view.contrasts[2].differences["all"], view.metric) == "not told apart by this test set"
    assert "At 1h random, finetuned and tiny, finetuned have different seeds" in " ".join(
        findings.sentences(view, view.contrasts[3])
    )
    assert "different seeds" not in " ".join(findings.sentences(view, view.contrasts[0]))


def test_a_restricted_upstream_does_not_change_what_is_said_of_another(tmp_path: Path) -> None:
    alone = write_study(tmp_path / "alone", tasks=["words"], probes=False)
    tiny = {"name": "x"}
    few = {
        "name": "y",
        "options": {"random_weights": True},
        "budgets": ["10min", "1h"],
        "regimes": ["frozen", "finetuned"],
    }
    root = write_study(tmp_path / "a", tasks=["words"], probes=False, upstreams={"tiny": tiny, "random": few})
    shutil.rmtree(root / "tiny")
    shutil.copytree(alone / "tiny", root / "tiny")
    shutil.copytree(root / "tiny", root / "random")
    for regime in LEVELS:
        shutil.rmtree(root / "random/words" / regime / "all")
    expected, view = only(alone), only(root)
    own = findings.sentences(view, view.contrasts[0])
    assert [one.replace("tiny, ", "") for one in own] == findings.sentences(expected, expected.contrasts[0])
    assert "Area under the error curve from 10 min to 5.2 h: finetuned" in own[-1].replace("tiny, ", "")
    assert "from 10 min to 1 h" in findings.sentences(view, view.contrasts[1])[-1]
    between = findings.sentences(view, view.contrasts[2])[-1]  # of runs that are the same where both have them
    one, other = re.findall(r"(?:random|tiny), frozen ([0-9.]+)", between)
    assert one == other
    areas = findings.normalised_areas(view)
    assert areas["tiny, frozen"] == findings.normalised_areas(expected)["frozen"]
    assert areas["random, frozen"][2] == (600.0, 3600.0)


def test_random_weights_are_an_upstream_of_their_own_outside_of_studies(tmp_path: Path) -> None:
    root = write_study(tmp_path / "a", tasks=["words"], seeds=[0], probes=False)
    for name, drawn in (("trained", False), ("drawn", True)):
        folder = tmp_path / "runs" / name
        shutil.copytree(root / "tiny/words/frozen/all/seed0/lr=0.1", folder)
        change(folder / "result.json", "upstream", "random_weights", to=drawn)
        if drawn:
            change(folder / "result.json", "upstream", "sha256", to=None)
    found = findings.gather([tmp_path / "runs"])
    assert [run.cell.upstream for run in found.runs.values()] == ["some_upstream, random weights", "some_upstream"]
