"""Studies by the real command, with the smallest upstream, task and corpus."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from support import REPOSITORY, Cli

from benchmark import registry, results
from benchmark.engine.prepare import Preparer
from benchmark.errors import BenchmarkError
from benchmark.study import recipe as recipes
from benchmark.study import runner

PLUGIN = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from toys import ToyTask, ToyUpstream
from benchmark.interfaces import Corpus, Utterance
from benchmark.registry import corpora, downstreams, tasks, upstreams

class StudyTask(ToyTask):
    @classmethod
    def strata(cls, config):
        return ()

def corpus(root):
    names = dict((split, [split + str(i) for i in range(10)]) for split in ("train", "dev", "test"))
    return Corpus("toy", dict(
        (split, [Utterance(n, str(root / (n + ".wav")), speaker="high" if int(n[-1]) % 2 else "low") for n in of])
        for split, of in names.items()
    ))

if "study_toy" not in upstreams.names():
    upstreams.register("study_toy", ToyUpstream)
    tasks.register("study_task", StudyTask)
    corpora.register("study_corpus", corpus)
    card = dict(name="study_down", task="study_task", corpus="study_corpus", config=dict())
    downstreams.register("study_down", lambda: card)
"""

RECIPE = """
name: toy
question: does it run?
plugins: [plugin.py]
seeds: [0, 1]
upstreams: {up: {name: study_toy}}
tasks:
  study_down:
    budgets: [4utt, all]
    config: {device: cpu, trainer: {max_steps: 40, eval_every: 10, save_every: 3, batch_size: 4, log_every: 1000}}
regimes:
  frozen: {regime: frozen, search: {optim.lr: [0.001, 0.1]}, config: {features: {keep: true}}}
  layers: {regime: single_layer, layers: all, search: {optim.lr: [0.001, 0.1]}, budgets: [all], seeds: [0]}
  finetuned: {regime: finetune, search: {optim.upstream_lr: [0.0, 0.01]}, tasks: {study_down: {optim: {lr: 0.1}}}}
"""
CELLS = 4 + 3 + 4


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    sys.path.insert(0, str(REPOSITORY / "tests" / "unit"))
    from toys import toy_corpus

    (tmp_path / "data").mkdir()
    toy_corpus(tmp_path / "data")
    plugin = PLUGIN.format(tests=str(REPOSITORY / "tests" / "unit"))
    (tmp_path / "plugin.py").write_text(plugin)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


def command(recipe: Path, output: str, *more: str) -> list[str]:
    root = str(recipe.parent / "data")
    arguments = ["recipe", str(recipe), "-o", output, "--data-root", root, *more]
    return [sys.executable, "-m", "benchmark", *arguments]


def environment(recipe: Path, cache: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(REPOSITORY), "BENCHMARK_CACHE": str(recipe.parent / cache)}


def outcomes(folder: Path) -> dict[str, Any]:
    """What the cells found, without what may differ from run to run."""
    found = {}
    for path in sorted(folder.rglob("cell.json")):
        cell = json.loads(path.read_text())
        result = results.read(path.parent / cell["chosen"] / "result.json")
        found[str(path.parent.relative_to(folder))] = (
            cell,
            result["metrics"],
            result["layer_weights"],
            result["budget"],
        )
    return found


def logged(folder: Path) -> int:
    """Evaluations on dev that the cells' logs tell of: how far a study is."""
    return sum(path.read_text().count(": dev ") for path in folder.rglob("log.txt"))


def test_a_study_killed_again_and_again_ends_as_one_left_alone(recipe: Path, tmp_path: Path) -> None:
    alone = subprocess.run(
        command(recipe, str(tmp_path / "alone"), "--jobs", "2"),
        env=environment(recipe, "cache"), capture_output=True, text=True, timeout=300, cwd=tmp_path,
    )  # fmt: skip
    assert alone.returncode == 0, alone.stderr
    expected = outcomes(tmp_path / "alone")
    assert len(expected) == CELLS
    assert "| study_down | study_toy | single_layer, layer 1 |" in alone.stdout
    for folder, (cell, metrics, _, budget) in expected.items():
        assert len(cell["tried"]) == 2
        chosen = next(one for one in cell["tried"] if one["name"] == cell["chosen"])
        assert chosen["dev"] == min(one["dev"] for one in cell["tried"]) == metrics["dev"]["toy_error"]
        scored = list((tmp_path / "alone" / folder).rglob("result.json"))
        assert [path.parent.name for path in scored] == [cell["chosen"]]  # test is scored with the chosen one only
        assert budget["name"] in ("all", "4utt")

    done: dict[Path, int] = {}
    killed = 0
    while True:
        process = subprocess.Popen(
            command(recipe, str(tmp_path / "killed"), "--jobs", "2"),
            env=environment(recipe, "other"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        )  # fmt: skip
        if killed < 5:
            target = logged(tmp_path / "killed") + (1, 3, 6, 4, 8)[killed]
            deadline = time.monotonic() + 120
            while logged(tmp_path / "killed") < target and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            killed += 1
        _, errors = process.communicate(timeout=300)
        for path, changed in done.items():
            assert path.stat().st_mtime_ns == changed, f"{path} was written twice"
        done = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").rglob("cell.json")}
        if process.returncode == 0 and killed >= 5:
            break
        assert process.returncode in (-signal.SIGKILL, 0), errors
    assert outcomes(tmp_path / "killed") == expected


def test_a_recipe_is_planned_run_and_guarded(recipe: Path, tmp_path: Path, cli: Cli) -> None:
    recipe.write_text(
        RECIPE.replace("seeds: [0, 1]\n", "seeds: [0]\n").replace("budgets: [4utt, all]", "budgets: [all]")
    )

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return cli(*command(recipe, str(tmp_path / "out"), "--jobs", "1", *more)[3:])

    planned = run("--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "| study_down | layers | 3 | 6 | 240 |" in planned.stdout
    assert "5 cells" in planned.stdout
    assert not (tmp_path / "out").exists()

    text = recipe.read_text()
    recipe.write_text(text.replace("budgets: [all]", "budgets: [10h, all]"))
    planned = run("--dry-run")
    assert planned.returncode == 1
    assert "budget '10h' asks for 36000 seconds" in planned.stderr

    # a broken cell is named and takes nothing else down
    recipe.write_text(text.replace("layers: all", "layers: [0, 7]"))
    broken = run()
    assert broken.returncode == 1
    assert "layer 7 does not exist" in broken.stderr
    assert len(outcomes(tmp_path / "out")) == 3
    assert "layer 7" in (tmp_path / "out" / "up/study_down/layers-7/all/seed0/error.txt").read_text()

    recipe.write_text(text.replace("max_steps: 40", "max_steps: 50"))
    changed = run()
    assert changed.returncode == 1
    assert "trainer.max_steps: 40 -> 50" in changed.stderr
    assert "max_steps: 40" in (tmp_path / "out" / "study.yaml").read_text()  # still that of the runs that are there


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("optim.upstream_lr: [0.0, 0.01]", "optim.upstream_lr: [0.0]", "try different numbers of candidates"),
        ("name: study_toy", "name: study_toi", "unknown upstream 'study_toi'. Did you mean 'study_toy'"),
        ("study_down:\n    budgets", "study_up:\n    budgets", "unknown downstream 'study_up'"),
        ("seeds: [0, 1]", "seeds: []", "names no seeds"),
        ("budgets: [4utt, all]", "budgets: [4utt, [all]]", r'budgets.study_down\[1\] must be text, found \["all"\]'),
        ("question:", "questoin:", "questoin"),
        ("tasks: {study_down:", "tasks: {study_dwn:", "names 'study_dwn' among its tasks. Did you mean 'study_down'"),
        ("name: study_toy}", "name: study_toy, regimes: [frozn]}", "'up' names 'frozn' among its regimes.*'frozen'"),
        ("budgets: [all], seeds", "budgets: [al], seeds", "'layers' names 'al' among its budgets.*'all'"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(recipe: Path, old: str, new: str, message: str) -> None:
    assert old in RECIPE
    recipe.write_text(RECIPE.replace(old, new))
    with pytest.raises(BenchmarkError, match=message):
        recipes.read(recipe)


def test_values_may_lie_in_files(recipe: Path) -> None:
    inline = recipes.read(recipe)
    (recipe.parent / "frozen.yaml").write_text("features: {keep: true}\n")
    recipe.write_text(RECIPE.replace("config: {features: {keep: true}}", "config: frozen.yaml"))
    assert recipes.read(recipe) == inline
    recipe.write_text(RECIPE.replace("config: {features: {keep: true}}", "config: frzn.yaml"))
    with pytest.raises(BenchmarkError, match=r"frzn\.yaml"):
        recipes.read(recipe)


def test_nothing_but_the_test_metrics_depends_on_the_test_split(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was tried, chosen and trained is the same when the test set's labels are turned around."""
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path / "cache"))
    read = recipes.read(recipe)
    turned = tmp_path / "turned"
    shutil.copytree(recipe.parent / "data", turned)
    for digit in range(0, 10, 2):  # a toy's label is in its name, and what it sounds like in its file
        for name, other in ((digit, digit + 1), (digit + 1, digit)):
            shutil.copy(recipe.parent / "data" / f"test{other}.wav", turned / f"test{name}.wav")
    preparer = Preparer()
    for cell in recipes.cells(read):
        if cell.seed == 1 or cell.layer:
            continue
        kept = []
        for root in (recipe.parent / "data", turned):
            outcome = runner.run_cell(read, cell, tmp_path / root.name, str(root), preparer)
            folder = tmp_path / root.name / cell.folder / outcome["chosen"]
            result = results.read(folder / "result.json")
            best = torch.load(folder / "checkpoints" / "best.pt", weights_only=True)["pairing"]
            kept.append((outcome, result["metrics"].pop("dev"), result["layer_weights"], best, result["metrics"]))
        first, second = kept
        assert first[:3] == second[:3]
        assert first[3].keys() == second[3].keys()
        assert all(torch.equal(first[3][name], second[3][name]) for name in first[3])
        assert first[4] != second[4]


def test_cells_have_folders_of_their_own(recipe: Path) -> None:
    read = recipes.read(recipe)
    cells = recipes.cells(read)
    assert len(cells) == CELLS
    assert len({cell.folder for cell in cells}) == CELLS
    read.tasks["study_down"].budgets = ["8utt/speaker", "5%"]
    assert {part for cell in recipes.cells(read) for part in cell.folder.parts if "8" in part or "5" in part} == {
        "8utt-per-speaker",
        "5pct",
    }
    read.upstreams["up"].regimes, read.upstreams["up"].budgets = ["frozen"], ["5%"]
    assert [(cell.regime, cell.budget, cell.seed) for cell in recipes.cells(read)] == [
        ("frozen", "5%", 0),
        ("frozen", "5%", 1),
    ]
    read.seeds = [0, 0]
    with pytest.raises(BenchmarkError, match="has duplicate cells"):
        recipes.cells(read)
    assert registry.upstreams.get("study_toy")


def test_an_unexpected_error_of_a_cell_keeps_its_traceback(cli: Cli, data_root: Path) -> None:
    Path("broken.py").write_text(
        "from benchmark.registry import upstreams\n"
        "from upstream.fbank import Fbank\n\n\n"
        "@upstreams.register('broken')\n"
        "class Broken(Fbank):\n"
        "    def forward(self, wavs, wav_lens, *, keep=None):\n"
        "        raise ZeroDivisionError('a bug of mine')\n"
    )
    recipe = {
        "name": "broken",
        "plugins": ["broken.py"],
        "upstreams": {"mine": {"name": "broken"}},
        "tasks": {"voxceleb1_sid": {}},
        "regimes": {"frozen": {}},
        "config": {"trainer": {"max_steps": 2, "batch_size": 2, "accumulate": 1}},
    }
    Path("recipe.yaml").write_text(json.dumps(recipe))
    done = cli("recipe", "recipe.yaml", "--data-root", data_root, "--jobs", 1)
    assert done.returncode == 1
    cell = Path("results/broken/mine/voxceleb1_sid/frozen/all/seed0")
    assert (cell / "error.txt").read_text() == "ZeroDivisionError: a bug of mine\n"
    trace = (cell / "traceback.txt").read_text()
    assert trace.startswith("Traceback")
    assert "broken.py" in trace
