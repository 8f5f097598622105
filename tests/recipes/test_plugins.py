"""What a user adds in files outside of the project: a regime and a metric. (Upstreams: tests/recipes/test_run.py.)"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from support import Cli

from upstream import load_upstream

REGIME = '''
from benchmark.interfaces import Regime
from benchmark.registry import regimes


@regimes.register("biases", summary="the biases of the transformer blocks alone (Ben Zaken et al., 2022)")
class BitFit(Regime):
    """Trains the biases of the blocks."""

    def apply(self, upstream, tune):
        for block in upstream.blocks:
            for name, parameter in block.named_parameters():
                parameter.requires_grad_(name.endswith("bias"))
'''
METRIC = """
import numpy as np
from benchmark.metrics import metric


@metric("top2_error", kind="classes", label="errors of two", unit="%", ceiling=100.0)
def errors_of_two(items):
    if items.log_posteriors is None:
        return None
    best = np.argsort(-items.log_posteriors, axis=1)[:, :2]
    return 100 * float((best != items.references[:, None]).all(axis=1).mean())
"""
QUICK = ["trainer.max_steps=2", "trainer.batch_size=2", "trainer.accumulate=1"]


def test_a_regime(cli: Cli, corpora_root: Path, tmp_path: Path) -> None:
    Path("biases.py").write_text(REGIME)
    base = ["-u", "wav2vec2_tiny", "-d", "voxceleb1_sid", "--data-root", corpora_root, "--plugin", "biases.py"]
    assert "biases" in cli("--list", "--plugin", "biases.py").stdout
    fast = ["optim.lr=0.01", "optim.upstream_lr=0.01", "tune.freeze_updates=0", "optim.warmup_steps=0"]
    done = cli(*base, "--regime", "biases", "-p", "run", "-o", *QUICK, *fast)
    assert done.returncode == 0, done.stderr
    result = json.loads(Path("run/result.json").read_text())
    assert result["regime"] == "biases"
    assert cli("export", "run", "-o", "tuned.pt").returncode == 0
    before, after = load_upstream("wav2vec2_tiny"), load_upstream("wav2vec2_local", checkpoint="tuned.pt")
    names = {name for name, _ in before.blocks[0].named_parameters(prefix="encoder.layers.0")}
    states = before.state_dict(), after.state_dict()
    changed = {name for name, value in states[0].items() if not torch.equal(value, states[1][name])}
    assert changed
    assert all(name.startswith("encoder.layers.") and name.endswith("bias") for name in changed)
    assert any(name in changed for name in names)
    wrong = cli(*base, "--regime", "biase", "-p", "other")
    assert wrong.returncode == 1
    assert "Did you mean 'biases'" in wrong.stderr


def test_a_metric(cli: Cli, corpora_root: Path) -> None:
    Path("errors.py").write_text(METRIC)
    arguments = ["-u", "wav2vec2_tiny", "-d", "voxlingua107_lid", "--data-root", corpora_root, "--plugin", "errors.py"]
    done = cli(*arguments, "-p", "run", "-o", *QUICK)
    assert done.returncode == 0, done.stderr
    result = json.loads(Path("run/result.json").read_text())
    for name in ("dev", "test"):
        assert 0 <= result["metrics"][name]["top2_error"] <= 100 - result["metrics"][name]["accuracy"]
    about = json.loads(Path("run/evaluation.json").read_text())
    assert about["metrics"]["top2_error"] == {
        "label": "errors of two", "unit": "%", "higher_is_better": False, "ceiling": 100.0,
    }  # fmt: skip
    assert "top2_error" in cli("table", "run").stdout
    again = cli(*arguments, "-p", "chosen", "-o", *QUICK, "task.selection=top2_error")
    assert again.returncode == 0, again.stderr
    assert json.loads(Path("chosen/result.json").read_text())["selected"]["metric"] == "top2_error"
    report = cli("report", "chosen", "-o", "page.html", "--plugin", "errors.py", "--replicates", "200")
    assert report.returncode == 0, report.stderr
    assert "errors of two (%), lower is better" in Path("page.html").read_text()
