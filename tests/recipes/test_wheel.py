"""A wheel built from the tree installs and runs elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support import REPOSITORY

PACKAGES = ("wavbench", "benchmark", "upstream", "downstream")
FILES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves a build folder in the tree, whose old files get into later wheels."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for package in PACKAGES:
        shutil.copytree(REPOSITORY / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(REPOSITORY / name, source)
    pip("wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", output, source)
    (path,) = output.glob("wavbench-*.whl")
    return path


def pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_wheel_is_complete(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        path.relative_to(REPOSITORY).as_posix()
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {f"{package}/py.typed" for package in PACKAGES} <= wanted
    assert {"upstream/wav2vec2/wav2vec2_tiny.pt", "upstream/wav2vec2/cards.yaml"} <= wanted
    assert "downstream/protocols/voxceleb1_sv.yaml" in wanted
    assert not wanted - packed
    assert not {name for name in packed - wanted if ".dist-info/" not in name}


def test_the_wheel_runs_elsewhere(wheel: Path, tmp_path: Path) -> None:
    installed, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip("install", "--no-deps", "--no-index", "--target", installed, wheel)
    environment = os.environ | {"PYTHONPATH": str(installed)}  # before site-packages, where the tree is installed

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "-u NAME, --upstream NAME" in run(sys.executable, str(installed / "bin" / "wavbench"), "run", "--help")
    assert "wav2vec2_tiny" in run(sys.executable, "-m", "wavbench", "list")
    code = (
        "import wavbench; print(wavbench.__file__); import torch; "
        "print(len(wavbench.load_upstream('wav2vec2_tiny')([torch.randn(16000)]).states))"
    )
    file, states = run(sys.executable, "-c", code).split()
    assert Path(file).is_relative_to(installed)
    assert int(states) == 7
