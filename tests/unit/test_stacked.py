"""Probes that train together are what each would have been alone."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor
from toys import ToyUpstream

from benchmark import registry
from benchmark.engine import stacked
from benchmark.engine.feature_store import FeatureStore
from benchmark.engine.prepare import Preparer
from benchmark.engine.probes import CannotStack, Probe
from benchmark.engine.stacked import Probes
from benchmark.engine.trainer import Interrupted, StopRequest
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Corpus, Head, HiddenStates, Utterance
from benchmark.study import recipe, runner
from benchmark.study.recipe import Cell, Study
from downstream.sid.task import SpeakerIdentification

TOLERANCE = 1e-4
"""Of metrics (percent, costs) and, relative to the largest, of parameters."""
CORPUS: dict[str, Corpus] = {}
NOT_COMPARED = {"wall_seconds", "peak_memory_bytes", "provenance", "upstream_audio_seconds"}


class CountingUpstream(ToyUpstream):
    ran_over = 0

    def forward(self, wavs: Tensor, wav_lens: Tensor, *, keep: Any = None) -> HiddenStates:
        CountingUpstream.ran_over += len(wavs)
        return super().forward(wavs, wav_lens, keep=keep)


class NoisyHeadTask(SpeakerIdentification):
    """Its head draws random numbers, which cannot be stacked."""

    @classmethod
    def make_head(cls, config: Any, vocabulary: Mapping[str, Any], feature_size: int) -> Head:
        head = super().make_head(config, vocabulary, feature_size)
        head.embedder.connector = torch.nn.Sequential(head.embedder.connector, torch.nn.Dropout(0.1))  # type: ignore
        return head


def corpus(_: Path) -> Corpus:
    return CORPUS["tones"]


def tones(root: Path) -> Corpus:
    """Ten speakers, each with a tone of their own; a language has two of them."""
    counts = {"train": 6, "dev": 2, "test": 2}
    splits: dict[str, list[Utterance]] = {name: [] for name in counts}
    generator = np.random.default_rng(0)
    for speaker in range(10):
        for split, count in counts.items():
            for i in range(count):
                time = np.arange(generator.integers(2400, 4800)) / 16000
                noise = 0.3 * generator.standard_normal(len(time))
                wav = 0.2 * np.sin(2 * np.pi * (300 + 150 * speaker) * time) + noise
                name = f"{split}-{speaker}-{i}"
                soundfile.write(root / f"{name}.wav", wav.clip(-1, 1), 16000)
                labels: dict[str, Any] = {"speaker": f"s{speaker}", "language": f"l{speaker % 5}", "session": name}
                splits[split].append(Utterance(name, str(root / f"{name}.wav"), **labels))
    return Corpus("tones", splits)


CARDS: dict[str, dict[str, Any]] = {
    "tone_sid": {"task": "sid", "config": {"task": {"head": {"name": "mean", "size": 6}}}},
    "tone_lid": {
        "task": "lid",
        "config": {"task": {"head": {"name": "mean", "size": 6}, "shared_speakers": True, "buckets": [0.2]}},
    },
    "tone_sv": {
        "task": "sv",
        "config": {
            "task": {
                "test_split": "dev", "trials": "none", "more_trials": [], "dev_speakers": 2, "dev_utterances": 6,
                "head": {"name": "mean", "size": 6}, "loss": {"name": "aamsoftmax"},
            }
        },
    },
    "tone_noisy": {"task": "test_stacked:NoisyHeadTask", "config": {"task": {"head": {"name": "mean", "size": 6}}}},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _registered(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not CORPUS:
        CORPUS["tones"] = tones(tmp_path_factory.mktemp("tones"))
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path / "cache"))
    for of in (registry.upstreams, registry.downstreams):
        monkeypatch.setattr(of, "_entries", dict(of._load()))
    registry.upstreams.register("tone_upstream", CountingUpstream)
    for name, card in CARDS.items():
        registry.downstreams.register(
            name, lambda card=card, name=name: card | {"name": name, "corpus": "test_stacked:corpus"}
        )
    CountingUpstream.ran_over = 0


def study(*tasks: str, regimes: Mapping[str, Any] | None = None, **config: Any) -> Study:
    common: dict[str, Any] = {
        "device": "cpu",
        "features": {"keep": True},
        "optim": {"name": "adam", "schedule": "linear", "warmup_steps": 3, "weights_lr": 0.1, "clip": 0.5},
        "trainer": {"max_steps": 25, "eval_every": 10, "batch_size": 8, "log_every": 5, "trackers": []},
    }
    for key, values in config.items():
        common[key] = common.get(key, {}) | values
    search = {"search": {"optim.lr": [0.003, 0.1]}}
    values = {
        "name": "tones",
        "seeds": [0, 1],
        "upstreams": {"up": {"name": "tone_upstream"}},
        "tasks": {task: {"budgets": ["40utt", "all"]} for task in tasks},
        "config": common,
        "regimes": regimes or {"sum": {"regime": "frozen", **search}, "layer": {"regime": "single_layer", "layers": [0, 2], **search}},
    }  # fmt: skip
    return recipe.parse(values, Path("tones.yaml"))


def differences(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Where two contents of ``result.json`` or a checkpoint differ by more than the tolerance."""
    if path.rpartition("/")[2] in NOT_COMPARED:
        return []
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        return [one for key in ours for one in differences(ours[key], theirs[key], f"{path}/{key}")]
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple) and len(ours) == len(theirs):
        return [
            one for i, pair in enumerate(zip(ours, theirs, strict=True)) for one in differences(*pair, f"{path}/{i}")
        ]
    if isinstance(ours, Tensor):
        same = float((ours - theirs).abs().max()) <= TOLERANCE * float(theirs.abs().max())
    elif isinstance(ours, float):
        same = abs(ours - theirs) <= TOLERANCE
    else:
        same = ours == theirs
    return [] if same else [f"{path}: {ours} != {theirs}"]


def compare(folder: Path, alone: Path) -> int:
    """Compare all files of two cells; returns how many there were."""
    files = sorted(path.relative_to(alone) for path in alone.rglob("*") if path.is_file())
    assert sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file()) == files
    for name in files:
        ours, theirs = folder / name, alone / name
        if name.suffix == ".json" and name.name != "trackers.json":
            found = differences(json.loads(ours.read_text()), json.loads(theirs.read_text()))
        elif name.suffix == ".pt":
            kept = [torch.load(path, weights_only=True) for path in (ours, theirs)]
            for state in kept:
                state.pop("spent", None)
            found = differences(*kept)
        elif name.suffix == ".yaml" or name.name == "budget.txt":
            found = [] if ours.read_bytes() == theirs.read_bytes() else [f"{name} differs"]
        else:
            found = []
        assert not found, (name, found[:5])
    return len(files)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("task", ["tone_sid", "tone_lid", "tone_sv"])
def test_probes_that_train_together_are_what_each_is_alone(task: str, normalize: bool, tmp_path: Path) -> None:
    read = study(task, featurizer={"normalize": normalize}, trainer={"keep": "all"})
    cells = recipe.cells(read)
    done: list[Cell] = []
    assert runner.run_cells(read, cells, tmp_path / "together", None, done=done.append) == {}
    assert sorted(map(repr, done)) == sorted(map(repr, cells))
    assert len(cells) == 12  # sum and two layers, two budgets, two seeds; two rates each
    assert CountingUpstream.ran_over == len({u.id for s in CORPUS["tones"].splits.values() for u in s}) - (
        20 if task == "tone_sv" else 0
    )
    preparer = Preparer()
    for cell in cells[::3]:
        runner.run_cell(read, cell, tmp_path / "alone", None, preparer)
        assert compare(tmp_path / "together" / cell.folder, tmp_path / "alone" / cell.folder) > 10
