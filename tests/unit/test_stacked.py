"""Probes that train together are what each would have been alone."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor
from toys import ToyUpstream

from benchmark import registry
from benchmark.engine.featurizer import WeightedSum
from benchmark.engine.prepare import Preparer
from benchmark.engine.probes import Probe
from benchmark.engine.run import run
from benchmark.engine.stacked import Probes
from benchmark.engine.stopping import Interrupted, StopRequest
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Corpus, Head, HiddenStates, Utterance
from benchmark.study import recipe, runner
from benchmark.study.recipe import Cell, Study
from downstream.sid.task import SpeakerIdentification

TOLERANCE = 1e-4
"""Of numbers, relative to the larger ones, and of parameters, relative to the largest."""
CORPUS: dict[str, Corpus] = {}
NOT_COMPARED = {"wall_seconds", "peak_memory_bytes", "provenance", "upstream_audio_seconds"}


class CountingUpstream(ToyUpstream):
    ran_over = 0

    def forward(self, wavs: Tensor, wav_lens: Tensor, *, keep: Any = None) -> HiddenStates:
        CountingUpstream.ran_over += len(wavs)
        return super().forward(wavs, wav_lens, keep=keep)


class LouderUpstream(ToyUpstream):
    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, wavs: Tensor, wav_lens: Tensor, *, keep: Any = None) -> HiddenStates:
        return super().forward(self.gain * wavs, wav_lens, keep=keep)


class FrozenHeadTask(SpeakerIdentification):
    """A part of its head is not trained."""

    @classmethod
    def make_head(cls, config: Any, vocabulary: Mapping[str, Any], feature_size: int) -> Head:
        head = super().make_head(config, vocabulary, feature_size)
        next(head.embedder.parameters()).requires_grad_(False)
        return head


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
    """Ten speakers, each with a tone of their own; a language has two of them. Three more to verify."""
    known, unseen = {"train": 6, "dev": 2, "test": 2}, {"unseen": 3}
    splits: dict[str, list[Utterance]] = {name: [] for name in (*known, *unseen)}
    generator = np.random.default_rng(0)
    for speaker in range(13):
        for split, count in (known if speaker < 10 else unseen).items():
            for i in range(count):
                time = np.arange(generator.integers(2400, 4800)) / 16000
                noise = 0.3 * generator.standard_normal(len(time))
                wav = 0.2 * np.sin(2 * np.pi * (300 + 150 * speaker) * time) + noise
                name = f"{split}-{speaker}-{i}"
                if not (root / f"{name}.wav").exists():
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
                "train_split": "train", "test_split": "unseen", "trials": "none", "more_trials": [],
                "dev_speakers": 2, "dev_utterances": 6,
                "head": {"name": "mean", "size": 6}, "loss": {"name": "aamsoftmax"},
            }
        },
    },
    "tone_frozen": {"task": "test_stacked:FrozenHeadTask", "config": {"task": {"head": {"name": "mean", "size": 6}}}},
    "tone_noisy": {"task": "test_stacked:NoisyHeadTask", "config": {"task": {"head": {"name": "mean", "size": 6}}}},
}  # fmt: skip


USED = {"tone_sid": ["train", "dev", "test"], "tone_lid": ["train", "dev", "test"], "tone_sv": ["train", "unseen"]}
"""Splits of the corpus that a task looks at."""


def register() -> None:
    registry.upstreams.register("tone_upstream", CountingUpstream)
    registry.upstreams.register("louder_upstream", LouderUpstream)
    for name, card in CARDS.items():
        whole = card | {"name": name, "corpus": "test_stacked:corpus"}
        registry.downstreams.register(name, lambda card=whole: card)


@pytest.fixture(autouse=True)
def _registered(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not CORPUS:
        CORPUS["tones"] = tones(tmp_path_factory.mktemp("tones"))
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path / "cache"))
    for of in (registry.upstreams, registry.downstreams):
        monkeypatch.setattr(of, "_entries", dict(of._load()))
    register()
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
        "tasks": {task: {"budgets": ["30utt", "all"]} for task in tasks},
        "config": common,
        "regimes": regimes
        or {
            "sum": {"regime": "frozen", **search},
            "layer": {"regime": "single_layer", "layers": [2, 0], **search},
        },
    }
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
        same = abs(ours - theirs) <= TOLERANCE * max(1.0, abs(theirs))
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


@pytest.mark.parametrize(("task", "normalize"), [("tone_sid", False), ("tone_lid", True), ("tone_sv", True)])
def test_probes_that_train_together_are_what_each_is_alone(task: str, normalize: bool, tmp_path: Path) -> None:
    read = study(task, featurizer={"normalize": normalize}, trainer={"keep": "all"})
    cells = recipe.cells(read)
    done: list[Cell] = []
    assert runner.run_cells(read, cells, tmp_path / "together", None, done=done.append) == {}
    assert sorted(map(repr, done)) == sorted(map(repr, cells))
    assert len(cells) == 12  # the sum and two layers, two budgets, two seeds; each of two rates
    splits = CORPUS["tones"].splits
    assert CountingUpstream.ran_over == sum(len(splits[name]) for name in USED[task])
    preparer = Preparer()
    chosen = [next(cell for cell in cells if (cell.layer, cell.seed) == (layer, 1)) for layer in (None, 2, 0)]
    for cell in chosen:
        runner.run_cell(read, cell, tmp_path / "alone", None, preparer)
        assert compare(tmp_path / "together" / cell.folder, tmp_path / "alone" / cell.folder) > 10


def test_batches_passes_and_options_of_the_optimizer(tmp_path: Path) -> None:
    search = {"search": {"optim.lr": [0.01, 0.03], "optim.name": ["adam", "adamw"], "optim.clip": ["null", 0.1]}}
    read = study(
        "tone_sid",
        regimes={"sum": {"regime": "frozen", **search}},
        trainer={"accumulate": 2, "max_steps": 12, "eval_every": 4, "log_every": 3, "trackers": ["tensorboard"]},
        data={"bucket": 2},
    )
    cell = recipe.cells(read)[1]
    assert runner.run_cells(read, [cell], tmp_path / "together", None) == {}
    outcome = runner.run_cell(read, cell, tmp_path / "alone", None)
    assert len(outcome["tried"]) == 8
    events = "events.out.tfevents"
    for folder in ("together", "alone"):
        for path in (tmp_path / folder).rglob(f"*{events}*"):
            path.rename(path.with_name(events))  # named by time and process
    assert compare(tmp_path / "together" / cell.folder, tmp_path / "alone" / cell.folder) > 30
    curves = [(tmp_path / folder / cell.folder).rglob(events) for folder in ("together", "alone")]
    for ours, theirs in zip(*map(sorted, curves), strict=True):
        assert_equal_curves(ours, theirs)


def assert_equal_curves(ours: Path, theirs: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = []
    for path in (ours, theirs):
        events = EventAccumulator(str(path))
        events.Reload()
        read.append({name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]})
    assert len(read[0]) >= 6
    assert not differences(*read)


def test_what_cannot_be_stacked_is_left_to_be_run_by_itself(tmp_path: Path) -> None:
    noisy = study("tone_noisy")
    cells = recipe.cells(noisy)[:2]
    left = runner.run_cells(noisy, cells, tmp_path, None)
    assert list(left) == cells
    assert "for several runs at a time" in left[cells[0]]
    assert not list(tmp_path.rglob("config.yaml"))

    cropped = study("tone_sid", data={"crop_seconds": 1.0})
    cells = recipe.cells(cropped)[:1]
    assert runner.run_cells(cropped, cells, tmp_path, None) == {cells[0]: "training utterances are cropped"}
    assert runner.groups(runner.Work(cropped, tmp_path, None, ""), cells) == {}

    frozen = study("tone_frozen")
    cells = recipe.cells(frozen)[:1]
    left = runner.run_cells(frozen, cells, tmp_path, None)
    assert left == {cells[0]: "not all parameters of its head are trained"}


@pytest.mark.parametrize("by", ["options", "root"])
def test_other_states_are_not_those_of_the_runs_beside(by: str, tmp_path: Path) -> None:
    """They were: of two regimes with other options of the upstream, or other audio, both had the first's states."""
    roots = {}
    for name in ("first", "second"):
        roots[name] = tmp_path / name
        roots[name].mkdir()
        for path in {Path(u.path) for those in CORPUS["tones"].splits.values() for u in those}:
            wav, rate = soundfile.read(path)
            soundfile.write(roots[name] / path.name, wav if name == "first" else 0.1 * wav[::-1], rate)
    whole = CARDS["tone_sid"] | {"name": "tone_rooted", "corpus": "test_stacked:rooted"}
    registry.downstreams.register("tone_rooted", lambda: whole)
    values: dict[str, Any] = {
        "options": [
            {"upstream": {"options": {"gain": gain}}, "data": {"root": str(roots["first"])}} for gain in (0.2, 5.0)
        ],
        "root": [{"data": {"root": str(root)}} for root in roots.values()],
    }[by]
    regimes = {name: {"regime": "frozen", "config": one} for name, one in zip("ab", values, strict=True)}
    read = study("tone_rooted", regimes=regimes, optim={"lr": 0.03})
    read.upstreams["up"].name, read.seeds, read.tasks["tone_rooted"].budgets = "louder_upstream", [0], ["all"]
    first, second = cells = recipe.cells(read)
    groups = runner.groups(runner.Work(read, tmp_path, None, ""), cells)
    assert list(groups.values()) == [[first], [second]]
    left = runner.run_cells(read, cells, tmp_path / "together", None)
    assert list(left) == [second]
    assert "loaded otherwise" in left[second]
    assert runner.run_cells(read, [second], tmp_path / "together", None) == {}
    for cell in cells:
        runner.run_cell(read, cell, tmp_path / "alone", None)
        assert compare(tmp_path / "together" / cell.folder, tmp_path / "alone" / cell.folder) > 5


def rooted(root: Path) -> Corpus:
    def moved(utterance: Utterance) -> Utterance:
        return replace(utterance, path=str(root / Path(utterance.path).name))

    return Corpus("tones", {name: list(map(moved, those)) for name, those in CORPUS["tones"].splits.items()})


def test_states_that_together_do_not_fit_are_computed_by_each(tmp_path: Path) -> None:
    read = study("tone_sid", features={"limit_gb": 9e-6}, regimes={"sum": {"regime": "frozen"}}, optim={"lr": 0.03})
    cells = recipe.cells(read)
    left = runner.run_cells(read, cells, tmp_path, None)
    assert list(left) == cells
    assert all("do not fit under features.limit_gb" in reason for reason in left.values())


def test_a_cell_that_cannot_be_concluded_is_alone_in_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = study("tone_sid", trainer={"max_steps": 4, "eval_every": 4})
    cells = recipe.cells(read)[:4]
    finish = Probe.finish

    def fails(self: Probe, stop: StopRequest, *, chosen: bool) -> None:
        if (tmp_path / cells[1].folder) in self.folder.parents:
            raise BenchmarkError("there is no test set")
        finish(self, stop, chosen=chosen)

    monkeypatch.setattr(Probe, "finish", fails)
    assert runner.run_cells(read, cells, tmp_path, None) == {cells[1]: "there is no test set"}


def test_a_stack_whose_loss_is_another_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WeightedSum, "of_means", lambda self, states: 2 * states.sum(1, keepdim=True))
    read = study("tone_sid")
    cells = recipe.cells(read)[:2]
    left = runner.run_cells(read, cells, tmp_path, None)
    assert list(left) == cells
    assert " alone and " in left[cells[0]]


def test_a_broken_cell_does_not_take_the_others_down(tmp_path: Path) -> None:
    read = study("tone_sid", trainer={"max_steps": 4, "eval_every": 4})
    read.tasks["tone_sid"].budgets = ["1utt", "30utt"]  # one utterance: one speaker
    few, *others = [cell for cell in recipe.cells(read) if cell.layer == 2 and cell.seed == 0]
    left = runner.run_cells(read, [few, *others], tmp_path, None)
    assert list(left) == [few]
    assert "at least 2 speakers" in left[few]
    assert all(recipe.finished(tmp_path / cell.folder) for cell in others)

    read.regimes["layer"].search = {"optim.lr": [1e-2, 1e38]}  # parameters overflow
    cell = recipe.cells(read)[-1]
    left = runner.run_cells(read, [cell], tmp_path / "overflow", None)
    assert "not finite" in left[cell]
    with pytest.raises(BenchmarkError, match="update 2: the loss is nan"):
        runner.run_cell(read, cell, tmp_path / "overflow", None)


def test_stopping_keeps_the_cells_that_are_done(tmp_path: Path) -> None:
    read = study("tone_sid", trainer={"max_steps": 4, "eval_every": 4})
    cells = [cell for cell in recipe.cells(read) if cell.layer is not None]
    with pytest.raises(Interrupted):
        runner.run_cells(read, cells, tmp_path, None, done=lambda cell: signal.raise_signal(signal.SIGTERM))
    done = [cell for cell in cells if recipe.finished(tmp_path / cell.folder)]
    assert len(done) == 1
    assert [path.parent for path in tmp_path.rglob("cell.json")] == [tmp_path / done[0].folder]
    (group,) = runner.groups(runner.Work(read, tmp_path, None, ""), cells).values()
    assert len(group) == len(cells) - 1  # what has begun by itself goes on so

    probes, stop = Probes(Preparer()), StopRequest()
    settings = recipe.run_config(read, cells[-1], {}, None)
    probe = probes.add(settings, tmp_path / "run")
    stop.requested = True
    with pytest.raises(Interrupted, match="stopped while extracting features"):
        list(probes.train({"only": [probe]}, stop))
    assert probe.step == 0


def test_a_cell_that_was_trained_together_is_evaluated_and_resumed_as_any(tmp_path: Path) -> None:
    read = study("tone_sid", trainer={"max_steps": 6, "eval_every": 3})
    cell = recipe.cells(read)[0]
    runner.run_cells(read, [cell], tmp_path, None)
    outcome = recipe.finished(tmp_path / cell.folder)
    assert outcome is not None
    assert not list(tmp_path.rglob("*.png"))
    (tmp_path / cell.folder / "cell.json").unlink()
    again = runner.run_cell(read, cell, tmp_path, None)  # nothing is left to train
    assert json.loads(json.dumps(again)) == outcome
    assert not list(tmp_path.rglob("*.png"))  # of a study the report draws figures
    folder = tmp_path / cell.folder / outcome["chosen"]
    chosen = next(one["candidate"] for one in outcome["tried"] if one["name"] == outcome["chosen"])
    run(recipe.run_config(read, cell, chosen, None), folder, mode="evaluate")
    assert [path.name for path in tmp_path.rglob("*.png")] == ["layer_weights.png"]


def test_units_are_of_one_upstream_and_task_and_fill_the_slots() -> None:
    cells = [Cell("up", task, "layer", layer, "all", 0) for task in ("a", "b", "c") for layer in range(100)]
    groups = {("up", task): [cell for cell in cells if cell.task == task] for task in ("a", "b")}
    units = runner.units(cells, groups, slots=2)
    together = [unit for unit in units if unit.together]
    assert [cell for unit in units for cell in unit.cells] == cells
    assert [len(unit.cells) for unit in together] == [50] * 4
    assert all(len({cell.task for cell in unit.cells}) == 1 for unit in together)
    assert len(units) == 4 + 100
    few = {("up", "a"): cells[:10]}
    assert [len(unit.cells) for unit in runner.units(cells[:10], few, slots=4)] == [3, 3, 3, 1]
    assert [len(unit.cells) for unit in runner.units(cells[:2], {}, slots=4)] == [1, 1]
