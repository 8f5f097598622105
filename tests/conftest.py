"""What tests share: synthetic corpora, a made-up study, the README's plug-in, the command line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import REPOSITORY, Cli, called, shared_folder

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; processes started by tests inherit it


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is remembered of files and downloaded stays out of the user's cache."""
    os.environ["BENCHMARK_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the smallest synthetic VoxCeleb1."""
    from downstream.corpora.synthetic import synthesise

    return shared_folder(
        tmp_path_factory, "voxceleb1", lambda root: synthesise(root, corpora=("VoxCeleb1",), size="test", workers=1)
    )


@pytest.fixture(scope="session")
def corpora_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the smallest synthetic tree of every corpus."""
    from downstream.corpora.synthetic import synthesise

    return shared_folder(tmp_path_factory, "corpora", lambda root: synthesise(root, size="test", workers=1))


@pytest.fixture(scope="session")
def whole_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up study of three tasks, all of its cells finished. Change a copy."""
    from made_studies import write_study

    return shared_folder(tmp_path_factory, "study", lambda root: write_study(root / "toy", synthetic=True)) / "toy"


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plug-in upstream that the README shows, as a file; it registers ``log_spectrum``."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(# my_upstream\.py\n.*?)```", readme, re.DOTALL)
    path = tmp_path_factory.mktemp("plugin") / "my_upstream.py"
    path.write_text(code, encoding="utf-8")
    return path


@pytest.fixture
def registries() -> Iterator[None]:
    """What a test registers, by plug-ins too, is forgotten after it."""
    from benchmark import metrics, registry

    declared = dict(metrics.METRICS)
    tables = [value for value in vars(registry).values() if isinstance(value, registry.Registry)]
    before = [(table, None if table._entries is None else dict(table._entries)) for table in tables]
    modules = set(sys.modules)
    yield
    metrics.METRICS.clear()
    metrics.METRICS.update(declared)
    for table, entries in before:
        table._entries = entries
    for name in set(sys.modules) - modules:
        if name.startswith("wavbench_plugin_"):
            del sys.modules[name]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registries: None) -> Cli:
    """``cli("-u", …)``: run_downstream.py, ``cli("predict", …)``: wavbench predict; in this process, in an empty
    folder and with no cache."""
    from benchmark.cli import main, run_downstream

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BENCHMARK_DATA", raising=False)

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return called(run_downstream if str(arguments[0]).startswith("-") else main, arguments)

    return run


@pytest.fixture
def process(tmp_path: Path) -> Cli:
    """``python run_downstream.py ARGUMENTS`` in a process of its own, in an empty folder and with no cache. Starting
    Python and torch takes seconds: for what ends processes or cannot be seen from inside."""

    def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"BENCHMARK_CACHE": str(tmp_path / "cache")}
        environment.pop("BENCHMARK_DATA", None)
        environment |= options.pop("env", {})  # type: ignore[arg-type]
        command = [sys.executable, str(REPOSITORY / "run_downstream.py"), *map(str, arguments)]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, **options
        )  # type: ignore[call-overload,no-any-return]

    return run
