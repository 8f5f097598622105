"""A study of probes by the real command: together, and one by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support import REPOSITORY, Cli

from benchmark import results

PLUGIN = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_stacked
from benchmark import registry
if not test_stacked.CORPUS:
    test_stacked.CORPUS["tones"] = test_stacked.tones(Path({data!r}))
if "tone_upstream" not in registry.upstreams:
    test_stacked.register()
"""

RECIPE = """
name: tones
plugins: [plugin.py]
upstreams: {up: {name: tone_upstream}}
tasks: {tone_sid: {}, tone_noisy: {}}
config:
  device: cpu
  features: {keep: true}
  trainer: {max_steps: 20, eval_every: 10, batch_size: 8, trackers: []}
regimes:
  sum: {regime: frozen, search: {optim.lr: [0.003, 0.1]}}
  layers: {regime: single_layer, layers: [1, 2], search: {optim.lr: [0.003, 0.1]}}
"""


def outcomes(folder: Path) -> dict[str, Any]:
    found = {}
    for path in sorted(folder.rglob("cell.json")):
        cell = json.loads(path.read_text())
        metrics = results.read(path.parent / cell["chosen"] / "result.json")["metrics"]["test"]
        found[str(path.parent.relative_to(folder))] = (cell, metrics["accuracy"])
    return found


def test_a_study_of_probes_together_and_one_by_one(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "data").mkdir()
    plugin = PLUGIN.format(tests=str(REPOSITORY / "tests" / "unit"), data=str(tmp_path / "data"))
    (tmp_path / "plugin.py").write_text(plugin)
    (tmp_path / "recipe.yaml").write_text(RECIPE)

    def run(output: str, *more: str) -> str:
        done = cli("recipe", str(tmp_path / "recipe.yaml"), "-o", str(tmp_path / output), "--jobs", "1", *more)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    said = run("together")
    assert "the probes of 6 cells train together (--one-by-one: each by itself)" in said
    assert "3 cells are run one by one: its head's loss is not computed for several runs at a time" in said
    assert "train together" not in run("alone", "--one-by-one")
    together = outcomes(tmp_path / "together")
    assert len(together) == 6
    assert together == outcomes(tmp_path / "alone")
    logs = [path.read_text() for path in (tmp_path / "together").rglob("tone_sid/**/log.txt")]
    assert len(logs) == 6
    assert all("trained together with" in text and "update 20: dev" in text for text in logs)
