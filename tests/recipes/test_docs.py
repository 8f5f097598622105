"""What README.md and docs/ say can be typed: commands parse, names exist, and the examples of docs/extending.md run."""

from __future__ import annotations

import csv
import dataclasses
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import REPOSITORY, SMALL, Cli

import benchmark.commands
from benchmark import config, registry
from benchmark.cli import COMMANDS, main
from downstream.protocols import read_card
from upstream.wav2vec2.cards import Card

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
EXTENDING = REPOSITORY / "docs" / "extending.md"


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in a language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [content for name, content in found if name == language]


def commands(page: Path) -> list[list[str]]:
    """The arguments of every ``wavbench`` (or ``run_downstream.py``) command that a page shows."""
    lines = [line for language in ("sh", "") for block in blocks(page, language) for line in block.splitlines()]
    lines = [line.replace("python run_downstream.py", "wavbench run") for line in lines]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("wavbench ")]


def test_there_are_commands() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 40


class Parsed(BaseException):
    """A command has read its arguments."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_are_understood(
    page: Path, monkeypatch: pytest.MonkeyPatch, registries: None, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []

    class Reader(benchmark.commands.Parser):
        def parse_args(self, *arguments: Any) -> Any:  # type: ignore[override]
            seen.append(super().parse_args(*arguments))
            raise Parsed

    for name in COMMANDS:
        monkeypatch.setattr(f"benchmark.commands.{name.replace('-', '_')}.Parser", Reader)
    registered = {name for block in blocks(page, "python") for name in re.findall(r'\.register\(\s*"(\w+)"', block)}
    for command in commands(page):
        try:
            status = main(command)
        except Parsed:
            options = vars(seen[-1])
        except SystemExit:
            pytest.fail(f"{page.name}: wavbench {shlex.join(command)}\n{capsys.readouterr().err}")
        else:
            pytest.fail(f"{page.name}: wavbench {shlex.join(command)}: status {status}")
        for key, table in (("upstream", registry.upstreams), ("downstream", registry.downstreams)):
            name = options.get(key)
            if name and not name.startswith("<") and name not in registered:
                table.get(name)
        files = [options.get("recipe"), options.get("config")]
        for file in filter(None, files):
            assert not file.startswith("recipes/") or "<" in file or (REPOSITORY / file).exists(), file


def test_pages_link_to_what_exists() -> None:
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page}: {target}"


def test_the_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.fixture
def workplace(tmp_path: Path, corpora_root: Path) -> Path:
    """A folder with the files of docs/extending.md and the data that its commands name."""
    for block in (*blocks(EXTENDING, "python"), *blocks(EXTENDING, "yaml")):
        named = re.match(r"# (\w+\.(?:py|yaml))\n", block)
        if named:
            block = re.sub(r"max_steps: \d+", "max_steps: 2", block)
            block = block.replace("layers: [0, 3, 6]", "layers: [6]")
            (tmp_path / named[1]).write_text(block.replace("eval_every: 100", "eval_every: 2"), encoding="utf-8")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "demo").symlink_to(corpora_root)
    (tmp_path / "models").mkdir()
    shutil.copy(REPOSITORY / "upstream/wav2vec2/wav2vec2_tiny.pt", tmp_path / "models/ours.pt")
    files = sorted((corpora_root / "VoxCeleb1" / "dev").rglob("*.wav"))
    speakers = sorted({file.parts[-3] for file in files})
    for name in ("clip.wav", "a.wav", "b.wav"):
        shutil.copy(files[0], tmp_path / name)
    values = {".": ("emotion", "happy", "sad"), "data/ActedEmotions": ("emotion", "happy", "sad")}
    for folder, (label, *named) in {**values, "ages": ("age", "31", "58.5")}.items():
        for split, chosen in (("train", speakers[2:]), ("dev", speakers[:1]), ("test", speakers[1:2])):
            path = tmp_path / folder / f"{split}.csv"
            path.parent.mkdir(exist_ok=True)
            with open(path, "w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(["path", "speaker", label])
                audio = [path for path in files if path.parts[-3] in chosen]
                writer.writerows([path, path.parts[-3], named[k % 2]] for k, path in enumerate(audio))
    return tmp_path


TINY = ["trainer.batch_size=4", "trainer.accumulate=1", "optim.warmup_steps=0", "data.crop_seconds=1.0"]


def test_the_examples_of_extending_run(cli: Cli, workplace: Path) -> None:
    ran = commands(EXTENDING)
    assert len(ran) > 12
    for command in ran:
        arguments = list(command)
        if arguments[0] == "run":
            arguments += ["--max-steps", "2", "-o", *(SMALL if "voxceleb1_sv" in arguments else TINY)]
        done = cli(*arguments)
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stderr}"
    assert (workplace / "results/worst/evaluation.json").read_text().count("worst recall") == 1
    assert "worst recall" in (workplace / "worst.html").read_text()
    assert '"age": ' in cli("predict", "results/age", "clip.wav").stdout


@pytest.mark.parametrize(
    "page", [REPOSITORY / "README.md", REPOSITORY / "docs" / "python.md"], ids=lambda page: page.stem
)
def test_the_python_of_a_page_runs(
    page: Path, workplace: Path, corpora_root: Path, monkeypatch: pytest.MonkeyPatch, registries: None
) -> None:
    """All blocks of a page, one after the other; quick runs are made quicker."""
    monkeypatch.chdir(workplace)
    quick: dict[str, Any] = {"data": {"root": str(corpora_root), "crop_seconds": 1.0, "min_seconds": 0.0}}
    quick |= {"task": {"dev_speakers": 2, "head": {"size": 16, "pooled": 32}}}
    quick |= {"trainer": {"max_steps": 2, "batch_size": 4, "accumulate": 1}}
    monkeypatch.setattr("benchmark.engine.prepare.quick_values", lambda downstream: quick)
    code = [block for block in blocks(page, "python") if not block.startswith("# ")]
    assert code
    scope: dict[str, Any] = {}
    for block in code:
        exec(compile(block, str(page), "exec"), scope)
    assert scope["result"]["metrics"]["test"]["eer"] >= 0
    assert len(scope["hidden"].states) == 7


def test_the_cards_of_extending_are_cards(tmp_path: Path) -> None:
    protocol, checkpoint = (
        next(block for block in blocks(EXTENDING, "yaml") if key in block) for key in ("extends:", "sha256:")
    )
    shutil.copytree(REPOSITORY / "downstream" / "protocols", tmp_path / "protocols")
    path = tmp_path / "protocols" / "call_centre_er.yaml"
    path.write_text(protocol, encoding="utf-8")
    run = configure_card(read_card(path))
    assert (run.task.label, run.task.selection, run.trainer.max_steps) == ("emotion", "macro_accuracy", 5000)
    (card,) = yaml.safe_load(checkpoint).values()
    assert card.keys() <= {field.name for field in dataclasses.fields(Card)} | {"normalize"}


def configure_card(card: dict[str, Any]) -> Any:
    upstream = ("upstream", {"upstream": {"name": "wav2vec2_tiny"}})
    return config.compose(card, registry.tasks.get(card["task"]).load().Config, [upstream])  # type: ignore[attr-defined]
