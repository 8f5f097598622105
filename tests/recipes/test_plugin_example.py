"""The package of recipes/plugin_example, installed beside the library, which stays as it is."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import REPOSITORY, Cli

from benchmark import registry

pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package is installed; built from a copy, since setuptools leaves folders in the source."""
    source, target = tmp_path_factory.mktemp("source") / "example", tmp_path_factory.mktemp("site")
    shutil.copytree(REPOSITORY / "recipes" / "plugin_example", source, ignore=shutil.ignore_patterns("__pycache__"))
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*install, "--target", target, source], check=True, capture_output=True, timeout=300)
    return target


def test_the_example_package_is_found_checked_and_run(
    cli: Cli, site: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(site)
    for table in (registry.upstreams, registry.downstreams, registry.regimes):
        monkeypatch.setattr(table, "_entries", None)  # what is installed is looked up once
    listed = cli("list").stdout
    assert all(f"{name}" in listed for name in ("example_cnn", "example_sv", "example_norms"))
    assert "[package wavbench-example]" in listed
    assert "BROKEN" not in listed
    checked = cli("check-upstream", "example_cnn", "--option", "blocks=3")
    assert checked.returncode == 0
    assert "example_cnn: 4 states of 64 features, a frame every 320 samples (20 ms)" in checked.stdout
    run = ["-u", "example_cnn", "-d", "example_sv", "--data-root", data_root, "-p", "run", "--max-steps", 2]
    few = ["optim.warmup_steps=0", "optim.upstream_lr=0.01", "tune.freeze_updates=0"]
    done = cli(*run, "--regime", "example_norms", "-o", *few)
    assert done.returncode == 0, done.stderr
    result = json.loads(Path("run/result.json").read_text())
    assert (result["upstream"]["name"], result["regime"]) == ("example_cnn", "example_norms")
    assert result["upstream"]["origin"] == "package wavbench-example"
    assert 0 <= result["metrics"]["test"]["eer"] <= 100
    superb = ["-d", "voxceleb1_sv", "-p", "superb", "--max-steps", 2, "-o", "task.head.size=16", "task.head.pooled=32"]
    small = ["task.dev_speakers=2", "data.crop_seconds=1.0", "trainer.batch_size=4", "trainer.accumulate=1"]
    frozen = cli("-u", "example_cnn", "--data-root", data_root, *superb, *small)
    assert frozen.returncode == 0, frozen.stderr
