"""``wavbench doctor`` on a healthy and on broken installations, which packages earlier on the path stand for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from support import REPOSITORY, Cli

from benchmark.commands import doctor
from benchmark.commands.doctor import Report

REAL_SOUNDFILE = """
import importlib.util, os, sys
from importlib.machinery import PathFinder
here = os.path.dirname(os.path.abspath(__file__))
spec = PathFinder.find_spec("soundfile", [path for path in sys.path if os.path.abspath(path) != here])
real = importlib.util.module_from_spec(spec)
sys.modules["soundfile"] = real
spec.loader.exec_module(real)
write = real.write
def without_mpeg(*arguments, format=None, **options):
    if format == "MP3":
        raise ValueError("Unknown format: 'MP3'")
    write(*arguments, format=format, **options)
real.write = without_mpeg
"""


def diagnose(tmp_path: Path, *arguments: str, **environment: str) -> tuple[int, dict[str, Any]]:
    """The exit status and what ``wavbench doctor --json`` prints, in a process of its own."""
    clean = {name: value for name, value in os.environ.items() if name not in ("BENCHMARK_DATA", "PYTHONPATH")}
    command = [sys.executable, "-c", "import sys; from wavbench.__main__ import main; sys.exit(main())"]
    done = subprocess.run(
        [*command, "doctor", "--json", *arguments],
        cwd=tmp_path,
        env=clean | {"BENCHMARK_CACHE": str(tmp_path / "cache")} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def package(folder: Path, name: str, code: str, version: str = "", entry_points: str = "") -> None:
    """A package in a folder, and its metadata if there is a version."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(code)
    if version:
        information = folder / f"{name}-{version}.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (information / "entry_points.txt").write_text(entry_points)


def problems(found: dict[str, Any]) -> list[str]:
    return [f"{problem['problem']}. {problem['advice']}" for problem in found["problems"]]


@pytest.mark.medium  # imports everything in a second process
def test_a_healthy_installation(tmp_path: Path) -> None:
    (tmp_path / "corpora" / "A corpus").mkdir(parents=True)
    (tmp_path / "corpora" / "Made").mkdir()
    (tmp_path / "corpora" / "Made" / "synthetic.json").write_text("{}")
    (tmp_path / "cache" / "features").mkdir(parents=True)
    (tmp_path / "cache" / "features" / "x.safetensors").write_bytes(bytes(2_000_000))
    code, found = diagnose(tmp_path, BENCHMARK_DATA=str(tmp_path / "corpora"))
    assert problems(found) == []
    assert code == 0
    assert found["wavbench"]["folder"] == str(REPOSITORY)
    assert found["versions"]["torch"].startswith("2.11")
    assert found["platform"]["python"].startswith(sys.version.split()[0])
    assert {"wav", "flac", "mp3", "ogg vorbis", "ogg opus", "nist sphere"} <= set(found["audio"]["reads"])
    assert found["audio"]["libsndfile"]
    assert found["names"]["upstream names"] > 50
    assert found["data"]["holds"] == ["A corpus", "Made (synthetic)"]
    assert found["cache"]["features"] == "2.0 MB"
    assert found["cache"]["writable"].startswith("writable")
    assert "torch is built for" in found["devices"]
    assert {"demo", "lhotse", "lora"} <= set(found["extras"])


@pytest.mark.medium
def test_torchaudio_of_another_build_and_a_broken_plug_in(tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    package(packages, "torchaudio", "raise OSError('libtorchaudio.so: undefined symbol: _ZN3c10')", "2.10.0+cpu")
    package(packages, "plug", "1 / 0", "1.0", "[wavbench.upstreams]\nbroken_one = plug:Upstream\n")
    (tmp_path / "own.py").write_text("import nothing_of_this_name")
    code, found = diagnose(tmp_path, "--plugin", "own.py", PYTHONPATH=str(packages))
    said = "\n".join(problems(found))
    assert code == 1
    assert "torchaudio 2.10.0+cpu is installed, but wavbench needs ==2.11.*. pip install 'torchaudio==2.11.*'" in said
    assert "torchaudio 2.10.0+cpu is of another build than torch 2.11" in said
    assert "torchaudio cannot be imported (OSError: libtorchaudio.so: undefined symbol: _ZN3c10)" in said
    assert "upstream 'broken_one' (from package plug) cannot be used" in said
    assert "division by zero" in said
    assert f"plug-in {tmp_path / 'own.py'} cannot be used" in said
    assert found["audio"]["reads"]  # the rest is examined


@pytest.mark.medium
def test_libsndfile_without_mp3_and_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    package(tmp_path / "packages", "soundfile", REAL_SOUNDFILE)
    (tmp_path / "file").touch()
    code, found = diagnose(
        tmp_path,
        PYTHONPATH=str(tmp_path / "packages"),
        BENCHMARK_CACHE=str(tmp_path / "file" / "cache"),
        BENCHMARK_DATA=str(tmp_path / "nowhere"),
    )
    assert code == 1
    audio, data, cache = sorted(problems(found), key=lambda text: ["libsn", "$BENC", "the c"].index(text[:5]))
    assert audio.startswith("libsndfile ")
    assert "cannot read mp3. Use the one that comes with soundfile" in audio
    assert found["audio"]["does not read"] == ["mp3"]
    assert "nowhere, which cannot be read (No such file or directory). Set it to the folder" in data
    assert "cache cannot be written (Not a directory" in cache
    assert "Choose another one by $BENCHMARK_CACHE" in cache


@pytest.mark.medium
@pytest.mark.parametrize("name", ["upstream", "benchmark", "downstream"])
def test_a_package_that_shadows_wavbenchs_own(name: str, tmp_path: Path) -> None:
    (tmp_path / "packages" / name).mkdir(parents=True)
    (tmp_path / "packages" / name / "__init__.py").write_text("raise SystemExit('the wrong one')")
    code, found = diagnose(tmp_path, PYTHONPATH=str(tmp_path / "packages"))
    assert code == 1
    (problem,) = problems(found)
    assert f"another package named '{name}' before wavbench's own: {tmp_path / 'packages' / name}. Run from" in problem


@pytest.mark.medium
def test_a_library_that_crashes_is_named(tmp_path: Path) -> None:
    package(tmp_path / "packages", "torch", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    code, found = diagnose(tmp_path, PYTHONPATH=str(tmp_path / "packages"))
    assert code == 1
    assert "Python dies while it tries torch (exit status -11). Install torch again." in problems(found)


@pytest.fixture
def unprobed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is imported by a second process."""
    monkeypatch.setattr(doctor, "_imports", lambda *_, **__: None)


def test_missing_and_outdated_packages(unprobed: None, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    requires = ["torch==2.11.*", "numpy<3,>=1.26", 'thing<2; extra == "some"', 'other; extra == "more"']
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: requires)
    monkeypatch.setattr(doctor, "_version", {"numpy": "3.1.0", "thing": "1.0"}.get)
    done = cli("doctor")
    assert done.returncode == 1
    assert "torch: MISSING" in done.stdout
    assert "some: installed" in done.stdout
    assert "more: not installed (other)" in done.stdout
    assert done.stdout.splitlines()[-2:] == [
        "problem 1: torch is not installed. pip install 'torch==2.11.*'",
        "problem 2: numpy 3.1.0 is installed, but wavbench needs <3,>=1.26. pip install 'numpy<3,>=1.26'",
    ]


@pytest.mark.parametrize(
    ("torch", "torchaudio", "differ"),
    [
        ("2.11.0", "2.11.0", False),
        ("2.11.0", "2.11.0+cu130", False),  # PyPI's are for CUDA 13.0, too; whether it can be imported is tried
        ("2.11.0+cu130", "2.11.1+cu130", False),
        ("2.11.0+cu130", "2.11.0+cpu", True),
        ("2.11.0", "2.10.0", True),
    ],
)
def test_builds_that_do_not_fit(torch: str, torchaudio: str, differ: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: [])
    monkeypatch.setattr(doctor, "_version", {"torch": torch, "torchaudio": torchaudio}.get)
    report = Report()
    doctor._requirements(report)
    assert bool(report.problems) == differ


def test_locks_that_are_held(unprobed: None, cli: Cli, tmp_path: Path) -> None:
    for name in ("cache/features/a/.lock", "cache/checkpoints/.x.pt.lock", "results/one/.lock", "results/two/.lock"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    with FileLock(tmp_path / "results/two/.lock"), FileLock(tmp_path / "cache/checkpoints/.x.pt.lock"):
        found = json.loads(cli("doctor", "--json").stdout)
    assert found["folders"]["running in results"] == ["results/two"]
    assert found["cache"]["locks held"] == [str(tmp_path / "cache/checkpoints/.x.pt.lock")]
    assert json.loads(cli("doctor", "--json").stdout)["folders"]["running in results"] == []


def test_a_damaged_memory_is_a_problem(unprobed: None, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "memory.sqlite").write_bytes(b"no database" * 100)
    done = cli("doctor")
    assert done.returncode == 1
    assert "memory.sqlite is damaged (file is not a database). Delete it; it is made anew." in done.stdout
