"""The real tasks on several processes: the must-shows of one run, with the bundled checkpoint and synthetic corpora."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import ended, free_port, start
from support import REPOSITORY

from benchmark import registry
from benchmark.commands import export
from benchmark.commands.run import main
from benchmark.engine.predict import TrainedRun
from benchmark.engine.trainer import Trainer
from benchmark.engine.world import World

LOSSES: list[float] = []
UPDATES = 50
COMMON = [
    "-u", "wav2vec2_tiny", "--device", "cpu", "--max-steps", str(UPDATES), "-o", "trainer.trackers=[]",
    f"trainer.eval_every={UPDATES}", "trainer.save_every=20", "optim.schedule=linear", "optim.warmup_steps=5",
]  # fmt: skip
TUNED = [
    "tune.options.dropout=0.0", "tune.options.attention_dropout=0.0", "tune.options.activation_dropout=0.0",
    "tune.options.apply_mask=true", "tune.options.encoder_layerdrop=0.2", "optim.upstream_lr=1e-4",
]  # fmt: skip
"""What is drawn for whole batches stays; dropout, which each process draws for itself, goes."""
CASES = {
    "sv": [
        # a fresh x-vector's embeddings are all alike: a calibration of their scores follows the last digits of them
        "-d", "voxceleb1_sv", *COMMON, "task.head.name=mean", "task.head.size=16", "task.head.pooled=32",
        "task.dev_speakers=2", "data.crop_seconds=0.6", "data.min_seconds=0.5", "trainer.batch_size=3",
        "trainer.accumulate=1",
    ],
    "asr": [
        "-d", "librispeech_asr", *COMMON, "-f", "-l", "1", "-o", *TUNED, "trainer.batch_size=2", "data.bucket=4",
        "featurizer.normalize=true", "trainer.accumulate=1", "task.selection=cer", "trainer.eval_batch_size=4",
    ],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Trainer._update

    def update(self: Trainer, batches: Any) -> tuple[float, float]:
        loss, norm = original(self, batches)
        LOSSES.append(loss)
        return loss, norm

    monkeypatch.setattr(Trainer, "_update", update)


def train(size: int, folder: Path, arguments: Sequence[str]) -> list[float]:
    """Losses of ``run_downstream.py ARGUMENTS`` on so many processes."""

    def function(_: World) -> list[float]:
        LOSSES.clear()
        assert main([*arguments, "-p", str(folder)]) == 0
        return LOSSES

    if size == 1:
        return list(function(World()))
    output = folder.with_name(f"{folder.name}.output")
    codes = ended(start(size, output, function), 300)
    assert codes == [0] * size, (output / "stderr0").read_text()
    return list(json.loads((output / "value0").read_text()))


def difference(one: Sequence[float], other: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def metrics(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())["metrics"]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_the_losses_and_metrics_of_one(case: str, corpora_root: Path, tmp_path: Path) -> None:
    arguments = ["--data-root", str(corpora_root), *CASES[case]]
    one, two = train(1, tmp_path / "one", arguments), train(2, tmp_path / "two", arguments)
    assert len(one) == UPDATES
    print(f"{case}: losses differ by at most {difference(one, two):.1e}")
    assert difference(one, two) < 1e-5 * max(*one, 1.0)
    for name, values in metrics(tmp_path / "one").items():
        found = metrics(tmp_path / "two")[name]
        for metric, value in values.items():  # a calibration is fitted to few scores, and follows their last digits
            tolerance = 1e-3 if metric.endswith("calibrated") else 1e-5
            assert found[metric] == pytest.approx(value, abs=tolerance), (name, metric)
    if case != "asr":
        return
    shard = [*arguments, "trainer.shard=true", "tune.options.checkpoint_activations=true"]
    sharded = train(2, tmp_path / "sharded", shard)
    print(f"sharded: losses differ by at most {difference(two, sharded):.1e}")
    assert difference(two, sharded) < 1e-5 * max(*two, 1.0)
    assert metrics(tmp_path / "sharded") == metrics(tmp_path / "two")
    assert export.main([str(tmp_path / "sharded"), "-o", str(tmp_path / "tuned.pt")]) == 0
    exported = registry.load_upstream("wav2vec2_local", checkpoint=str(tmp_path / "tuned.pt"))
    tuned, untuned = TrainedRun(tmp_path / "two").upstream, registry.load_upstream("wav2vec2_tiny")
    wavs, lengths = torch.randn(2, 16000), torch.tensor([16000, 9000])
    with torch.no_grad():
        states = [model(wavs, lengths).states[1] for model in (exported, tuned, untuned)]
    assert torch.allclose(states[0], states[1], atol=1e-5)
    assert not torch.allclose(states[0], states[2], atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_launchers_start_it(launcher: str, data_root: Path, tmp_path: Path) -> None:
    if launcher == "accelerate":
        pytest.importorskip("accelerate")
        how = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port"]
    else:
        how = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]
    what = ["-u", "fbank", "--device", "cpu", "-p", str(tmp_path / "run"), "--data-root", str(data_root)]
    small = [option for option in CASES["sv"] if option.startswith("task.")]
    arguments = ["-d", "voxceleb1_sv", *what, "--max-steps", "4", "-o", *small]
    environment = os.environ | {"BENCHMARK_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *how, str(free_port()), str(REPOSITORY / "run_downstream.py"), *arguments],
        capture_output=True, text=True, env=environment, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("result.json") == 1  # the first process alone says so
    assert done.stderr.count("\ntrain: ") == 1
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["provenance"]["device"].endswith("in 2 processes")
