"""What tests share: small corpora, a made-up study, the README's plug-in, the command line in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import REPOSITORY, Cli

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; processes started by tests inherit it


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the smallest synthetic VoxCeleb1."""
    from downstream.corpora.synthetic import synthesise

    root = tmp_path_factory.mktemp("data")
    synthesise(root, corpora=("VoxCeleb1",), size="test")
    return root


@pytest.fixture(scope="session")
def whole_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up study of three tasks, all of its cells finished. Change a copy."""
    from made_studies import write_study

    return write_study(tmp_path_factory.mktemp("whole") / "toy", synthetic=True)


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plug-in upstream that the README shows, as a file; it registers ``log_spectrum``."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(# my_upstream\.py\n.*?)```", readme, re.DOTALL)
    path = tmp_path_factory.mktemp("plugin") / "my_upstream.py"
    path.write_text(code, encoding="utf-8")
    return path


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run ``python run_downstream.py ARGUMENTS`` in an empty folder, with no cache and no proxies to the network."""

    def run(*arguments: object, cwd: Path | None = None, **more: object) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"BENCHMARK_CACHE": str(tmp_path / "cache")}
        environment.pop("BENCHMARK_DATA", None)
        environment |= more.pop("env", {})  # type: ignore[arg-type]
        command = [sys.executable, str(REPOSITORY / "run_downstream.py"), *map(str, arguments)]
        return subprocess.run(
            command, cwd=cwd or tmp_path, env=environment, capture_output=True, text=True, timeout=600, **more
        )  # type: ignore[call-overload,no-any-return]

    return run
