"""The tables of benchmarks, tasks and corpora, and every protocol card."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmark.data.manifest import OWN_DATA
from benchmark.errors import BenchmarkError
from benchmark.registry import corpora, downstreams, tasks
from downstream.protocols import read_card

# Cards of plug-ins that happen to be installed are their authors' to test.
CARDS = [entry.name for entry in downstreams if entry.origin == "built in"]

CARD = """
name: toy
version: 1
summary: one line
task: sv
corpus: voxceleb1
"""


@pytest.mark.parametrize("name", CARDS)
def test_a_card_names_things_that_exist(name: str) -> None:
    card: Any = downstreams.get(name).load()()
    assert card["name"] == name
    assert card["source"]
    task = tasks.get(card["task"]).load()
    assert card["corpus"] == OWN_DATA or callable(corpora.get(card["corpus"]).load())
    options = card["config"]["task"]
    assert vars(task.Config(**options)).keys() == options.keys(), "a card spells every option of its task out"
    assert set(card["config"]) <= {"task", "data", "optim", "trainer"}
    assert set(card["finetune"]) <= {"task", "data", "optim", "trainer", "tune", "upstream", "featurizer"}


def test_voxceleb1_sv_has_superbs_values() -> None:
    """s3prl ec8064b5, downstream/sv_voxceleb1/configs/amsoftmax.yaml."""
    config: Any = downstreams.get("sv_voxceleb1").load()()["config"]
    assert config["task"]["head"] == {"name": "xvector", "size": 512, "pooled": 1500}
    assert config["task"]["loss"] == {"name": "amsoftmax", "scale": 30.0, "margin": 0.4}
    assert config["data"] == {"crop_seconds": 128000 / 16000, "min_seconds": 32000 / 16000}
    optim = config["optim"]
    assert (optim["name"], optim["lr"], optim["weight_decay"], optim["clip"]) == ("adamw", 1e-4, 0.01, 1e3)
    trainer = config["trainer"]
    assert (trainer["max_steps"], trainer["batch_size"], trainer["accumulate"]) == (200000, 10, 5)
    assert (trainer["save_every"], trainer["eval_batch_size"]) == (1000, 1)


def test_the_tables_import_nothing_heavy() -> None:
    code = (
        "import sys; from benchmark.registry import corpora, downstreams, tasks; "
        "[list(r) for r in (corpora, downstreams, tasks)]; "
        "print(sorted({'torch', 'numpy', 'scipy', 'sklearn', 'soundfile'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert run.stdout.strip() == "[]", run.stderr


def test_optional_keys_have_defaults(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(CARD)
    card = read_card(tmp_path / "toy.yaml")
    assert (card["aliases"], card["deviations"], card["config"]) == ([], [], {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CARD + "sumary: x", "unknown key 'sumary'. Did you mean 'summary'"),
        (CARD.replace("task: sv", ""), r"key 'task' is missing \(a registered task"),
        (CARD.replace("version: 1", "version: one"), "'version' .* must be int, got 'one'"),
        (CARD + "aliases: sv_toy", "'aliases' .* must be list, got 'sv_toy'"),
        ("- a list", "is not a YAML mapping"),
        (CARD + "config: {a: [", "cannot be read: "),
    ],
)
def test_broken_cards_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "toy.yaml"
    path.write_text(text)
    with pytest.raises(BenchmarkError, match=f"protocol card {path}.*{message}"):
        read_card(path)
    with pytest.raises(BenchmarkError, match="cannot be read"):
        read_card(tmp_path / "absent.yaml")


def test_a_card_extends_another(tmp_path: Path) -> None:
    base = CARD + "aliases: [sv_toy]\nsource: [paper]\nconfig: {optim: {lr: 1.0, eps: 2.0}, seed: 4}\n"
    (tmp_path / "base.yaml").write_text(base)
    (tmp_path / "more.yaml").write_text("name: more\nsummary: s\nextends: base\nconfig: {optim: {lr: 3.0}}\n")
    card = read_card(tmp_path / "more.yaml")
    assert (card["name"], card["aliases"], card["source"], card["task"]) == ("more", [], ["paper"], "sv")
    assert card["config"] == {"optim": {"lr": 3.0, "eps": 2.0}, "seed": 4}
    (tmp_path / "base.yaml").write_text(CARD + "extends: more\n")
    with pytest.raises(BenchmarkError, match="come back to it"):
        read_card(tmp_path / "more.yaml")
    (tmp_path / "more.yaml").write_text("extends: absent")
    with pytest.raises(BenchmarkError, match=r"absent\.yaml cannot be read"):
        read_card(tmp_path / "more.yaml")


def test_a_broken_card_takes_nothing_else_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import downstream

    (tmp_path / "protocols").mkdir()
    (tmp_path / "protocols" / "good.yaml").write_text(CARD)
    (tmp_path / "protocols" / "bad.yaml").write_text("name: [")
    monkeypatch.setattr(downstream, "__file__", str(tmp_path / "__init__.py"))
    bad, good = downstream.entries()
    assert good.load()()["name"] == "toy"
    assert (bad.name, good.problem) == ("bad", None)
    with pytest.raises(BenchmarkError, match=r"'bad' .* cannot be used: protocol card .*bad.yaml cannot be read"):
        bad.load()
