"""Ranks of made-up studies, in the report's words and by ``wavbench compare``."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import Cli
from made_studies import change, write_cell, write_study

from benchmark import statistics as stats
from benchmark.errors import BenchmarkError
from benchmark.report import ranking
from benchmark.report.collect import gather
from benchmark.report.compare import Bootstrap, TaskView, statistic, task_view
from benchmark.report.ranking import Ranking, gather_by_folder, ranks, sentences, tables


def view(*folders: Path, task: str = "verify") -> TaskView:
    return task_view(gather(folders), task)


def ranked(*folders: Path, task: str = "verify", budget: str | None = None) -> Ranking:
    return ranks(view(*folders, task=task), budget, Bootstrap(100))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """WER of three regimes: two are close to each other, the third is far from both."""
    root = tmp_path_factory.mktemp("three") / "toy"
    regimes = {name: {"regime": "frozen"} for name in ("frozen", "other", "worst")}
    regimes["other"] = {"regime": "finetune", "title": "the other one"}
    write_study(root, tasks=(), layers=False, regimes=regimes)
    for name, like, error in (("worst", "frozen", 30.0), ("other", "finetuned", 10.5), ("frozen", "frozen", 10.0)):
        for seed in (0, 1, 2):
            write_cell(root, "words", like, "1h", seed, error=error)
        (root / "tiny" / "words" / like).rename(root / "tiny" / "words" / name)
    recipe = root / "study.yaml"
    recipe.write_text(recipe.read_text().replace("tasks: {}", "tasks: {words: {title: read speech, budgets: [1h]}}"))
    return root


def test_ranks_are_those_of_paired_comparisons(whole_study: Path) -> None:
    found = ranked(whole_study)
    assert (found.budget, found.seeds, found.noun, found.clusters) == ("all", (0, 1), "speakers", 24)
    assert [(place.rank, place.name) for place in found.ranks.places] == [("1", "finetuned"), ("2", "frozen")]
    of = {
        regime: [
            statistic(run)[0]
            for cell, run in gather([whole_study]).runs.items()
            if (cell.task, cell.regime, cell.budget) == ("verify", regime, "all")
        ]
        for regime in ("finetuned", "frozen")
    }
    expected = stats.compare(of["finetuned"], of["frozen"])["eer"]  # type: ignore[arg-type]
    (tested,) = found.ranks.pairs
    assert tested.pair.p_value == tested.adjusted_p == pytest.approx(expected.p_value)
    assert (tested.low, tested.high) == pytest.approx((expected.test_set.low, expected.test_set.high))
    assert tested.better == "finetuned"
    text = " ".join(sentences(found))
    assert text.startswith("This test set (24 speakers) separates all systems: finetuned (")
    assert re.search(r"%\), then frozen \([\d.]+ %\), best first\.", text)
    assert "one comparison" in text
    assert "The 2 training seeds" in text


def test_ties_in_words_and_tables(three: Path) -> None:
    found = ranked(three, task="words")
    assert {place.name: place.rank for place in found.ranks.places} == {
        "frozen": "1–2", "the other one": "1–2", "worst": "3",
    }  # fmt: skip
    answer, chance, detectable, needed, *more = sentences(found)
    names = " and ".join(place.name for place in found.ranks.places[:2])
    assert answer == f"{names} are better than worst; this test set (9 speakers) does not separate {names}."
    assert "at most 5 % of such test sets (Holm's procedure with Shaffer's multipliers over all 3 pairs)" in chance
    assert "is found on 80 % of such test sets (two-sided 5 %); as one of 3 pairs, one of" in detectable
    assert needed.startswith(f"If {names} truly differ by the ")
    assert needed.endswith(" speakers instead of 9.")
    assert not any("seed" in text for text in more)
    first, second = tables(found, "words")
    assert [row[-1] for row in first.rows] == ["a", "a", "b"]
    assert [row[5] for row in second.rows] == ["not separated", found.ranks.places[0].name, found.ranks.places[1].name]
    assert second.rows[2][4] == "< 0.0001"
    strict = ranks(view(three, task="words"), None, Bootstrap(100), level=1 - 1e-12)
    assert re.search(r"separates no two of .*, .* and worst \(.*\): any order may be chance\.", sentences(strict)[0])
    assert (first.name, second.name) == ("words_ranks", "words_pairs")


def test_no_order_at_all(tmp_path: Path) -> None:
    root = write_study(tmp_path / "toy", tasks=("words",), layers=False)
    for regime in ("frozen", "finetuned"):
        shutil.rmtree(root / "tiny" / "words" / regime / "all" / "seed0")
        write_cell(root, "words", regime, "all", 0, error=10.0)
    shutil.rmtree(root / "tiny" / "words" / "frozen" / "all" / "seed1")
    found = ranked(root, task="words", budget="all")
    assert found.seeds == (0,)
    text = " ".join(sentences(found))
    assert re.search(r"does not separate (frozen|finetuned) \(.* %\): either may be better\.", text)
    assert "One training seed" in text
    assert "Only the seeds that all systems have are used; more were run of finetuned." in text


def test_equal_runs_are_told_apart_by_nothing(three: Path, tmp_path: Path) -> None:
    root = tmp_path / "toy"
    shutil.copytree(three, root)
    for seed in (0, 1, 2):
        folders = [root / "tiny" / "words" / name / "1h" / f"seed{seed}" / "lr=0.1" for name in ("frozen", "other")]
        for name in ("predictions.jsonl", "result.json"):
            shutil.copy(folders[0] / name, folders[1] / name)
    found = ranked(root, task="words")
    assert found.ranks.pairs[0].clusters_needed is None
    assert sum("truly differ" in text for text in sentences(found)) == 0
    assert [place.rank for place in found.ranks.places] == ["1–2", "1–2", "3"]
    json.dumps(found.as_dict(), allow_nan=False)
    assert all(table.text() and table.latex() for table in tables(found, "words"))


def test_titles_name_systems_unless_two_have_the_same(whole_study: Path) -> None:
    of = view(whole_study)
    for series, title in zip(of.series, ("same", "same"), strict=True):
        series.title = title
    assert list(ranking.systems(of, "all")) == ["frozen", "finetuned"]
    of.series[1].title = "tuned"
    assert list(ranking.systems(of, "all")) == ["same", "tuned"]


def test_what_cannot_be_ranked(whole_study: Path, tmp_path: Path) -> None:
    of, bootstrap = view(whole_study), Bootstrap(100)
    for options, message in (
        ({"budget": "7h"}, "no runs with budget '7h'; there are 10min, 1h, all"),
        ({"names": ["frozn"]}, "unknown system 'frozn'. Did you mean 'frozen'. available: 'frozen', 'finetuned'$"),
        ({"names": ["frozen"]}, "one system .frozen.; a comparison needs two"),
        ({"metric": "ear"}, "no metric 'ear' is declared"),
        ({"metric": "wer"}, "no intervals: metric 'wer' is not defined on trials"),
    ):
        with pytest.raises(BenchmarkError, match=message):
            ranks(of, **{"budget": None, "bootstrap": bootstrap, **options})  # type: ignore[arg-type]
    alone = dataclasses.replace(of, series=of.series[:1])
    assert ranking.widest_budget(alone) is None
    with pytest.raises(BenchmarkError) as error:
        ranks(alone, None, bootstrap)
    assert str(error.value) == (
        "verify: no budget has two systems to compare (budget 10min: frozen; budget 1h: frozen; budget all: frozen). "
        "Left out: single layers (tiny, layers: 0, 1, 2, 3); with --by-folder each is a system"
    )
    with pytest.raises(BenchmarkError, match=r"budget all: no system; .* Left out: single layers"):
        ranks(dataclasses.replace(of, series=[]), "all", bootstrap)


# --- wavbench compare -------------------------------------------------------------------------------------------------


def test_the_command(cli: Cli, whole_study: Path) -> None:
    done = cli("compare", whole_study, "--task", "verify", "--budget", "1h")
    assert done.returncode == 0, done.stderr
    assert "verify: ranks." in done.stdout
    assert "verify: all pairs." in done.stdout
    assert "budgets 1h; seeds 0, 1" in done.stdout
    assert "- " in done.stdout


def test_the_command_reads_single_runs_and_other_metrics(cli: Cli, whole_study: Path) -> None:
    runs = [whole_study / "tiny" / "verify" / regime / "all" / "seed0" for regime in ("frozen", "finetuned")]
    folders = []
    for number, run in enumerate(runs):  # outside of their study
        folders.append(Path(f"run{number}"))
        shutil.copytree(run / "lr=0.1", folders[-1])
    done = cli("compare", *folders, "--metric", "min_dcf_p05", "--level", "0.9", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["metric"]["name"] == "min_dcf_p05"
    assert (found["level"], found["seeds"], found["clusters_are"]) == (0.9, [0], "speakers")
    assert {place["name"] for place in found["places"]} == {"frozen", "finetune"}
    assert {*found["pairs"][0]} >= {"first", "second", "value", "se", "p_value", "adjusted_p", "clusters_needed"}


def test_runs_with_other_settings_are_told_apart_by_folder(cli: Cli, whole_study: Path) -> None:
    run = whole_study / "tiny" / "verify" / "frozen" / "all"
    for name, seed in (("slow", 0), ("fast", 1)):
        shutil.copytree(run / f"seed{seed}" / "lr=0.1", name)
        change(Path(name) / "result.json", "seed", to=0)
        config = Path(name) / "config.yaml"
        config.write_text(config.read_text().replace("lr: 0.1", f"lr: 0.{seed + 1}").replace("seed: 1", "seed: 0"))
    done = cli("compare", "slow", "fast")
    assert done.returncode == 1
    assert "different configurations" in done.stderr
    done = cli("compare", "slow", "fast", "--by-folder", "--json")
    assert done.returncode == 0, done.stderr
    assert {place["name"] for place in json.loads(done.stdout)["places"]} == {"slow, frozen", "fast, frozen"}
    Path("others").mkdir()
    shutil.copytree("fast", "others/fast")
    both = gather_by_folder([Path("fast"), Path("others/fast")])
    assert [cell.upstream for cell in both.runs] == ["fast", "others/fast"]
    change(Path("fast") / "result.json", "data", "test", "digest", to="another")
    done = cli("compare", "slow", "fast", "--by-folder")
    assert done.returncode == 1
    assert "the test set (its digest) differs" in done.stderr


def test_single_layers_are_systems_by_folder(cli: Cli, whole_study: Path) -> None:
    done = cli("compare", whole_study, "--task", "verify", "--json")
    assert done.returncode == 0, done.stderr
    assert {place["name"] for place in json.loads(done.stdout)["places"]} == {"frozen", "finetuned"}
    left = "Left out: single layers (tiny, layers: 0, 1, 2, 3); with --by-folder each is a system.\n"
    assert done.stderr == left
    done = cli("compare", whole_study, "--task", "verify", "--by-folder", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    names = {place["name"] for place in json.loads(done.stdout)["places"]}
    assert names == {"frozen", "finetuned", *(f"layers, layer {layer}" for layer in range(4))}
    for layer in (1, 2):  # outside of their study
        shutil.copytree(whole_study / "tiny" / "verify" / f"layers-{layer}" / "all" / "seed0" / "lr=0.1", f"l{layer}")
    done = cli("compare", "l1", "l2", "--by-folder", "--json")
    assert done.returncode == 0, done.stderr
    names = {place["name"] for place in json.loads(done.stdout)["places"]}
    assert names == {"l1, single_layer, layer 1", "l2, single_layer, layer 2"}


def test_costs_in_bits_are_not_points(whole_study: Path) -> None:
    texts = " ".join(sentences(ranks(view(whole_study), None, Bootstrap(100), metric="cllr")))
    assert re.search(r"difference in Cllr of [\d.]+ bit is found", texts)
    assert "points" not in texts


def test_the_command_explains_what_is_missing(cli: Cli, whole_study: Path) -> None:
    for arguments, message in (
        ([], "results of 3 tasks; choose one by --task: languages, verify, words"),
        (["--task", "verfy"], "no results of task 'verfy'. Did you mean 'verify'"),
        (["--task", "verify", "--metric", "eeer"], "Did you mean 'eer'"),
        (["--task", "verify", "--metric", "cllr_calibrated"], "'cllr_calibrated': the run has no calibration"),
    ):
        done = cli("compare", whole_study, *arguments)
        assert done.returncode == 1
        assert message in done.stderr
    done = cli("compare", whole_study, "--task", "words", "--level", "95")
    assert done.returncode == 2
    assert "between 0 and 1" in done.stderr
