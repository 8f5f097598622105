"""One run on many processes, with the smallest task that the engine accepts; tests/recipes has the real command."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processes import ended, start
from toys import ToyHead, ToyTask, ToyUpstream, toy_corpus

from benchmark import draws, registry
from benchmark.config import RunConfig
from benchmark.engine import distributed, oom, prepare
from benchmark.engine.distributed import SharedBatches, divide
from benchmark.engine.feature_store import FeatureStore
from benchmark.engine.run import run
from benchmark.engine.stopping import Interrupted
from benchmark.engine.trainer import Trainer
from benchmark.engine.world import World, joined
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Corpus, HiddenStates
from downstream.asr.specaugment import SpecAugmentConfig, spec_augment
from upstream.wav2vec2.model import span_mask

CORPUS: dict[str, Corpus] = {}
LOSSES: list[float] = []


class SteadyUpstream(ToyUpstream):
    """Without dropout, whose numbers depend on the process; with blocks for FSDP, and random scales that do not."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout.p = 0.0

    @property
    def blocks(self) -> Sequence[torch.nn.Module]:
        return list(self.layers[1:])

    def forward(self, wavs: Any, wav_lens: Any, *, keep: Sequence[int] | None = None) -> HiddenStates:
        hidden = super().forward(wavs, wav_lens, keep=keep)
        if self.training:  # as masks are drawn
            scale = draws.own(torch.rand(len(draws.whole(hidden.lengths.tolist())), generator=draws.generator()))
            hidden.states = [state * (0.5 + scale)[:, None, None] for state in hidden.states]
        return hidden


class SteadyTask(ToyTask):
    @classmethod
    def make_head(cls, config: Any, vocabulary: Any, feature_size: int) -> ToyHead:
        head = ToyHead(feature_size)
        head.dropout.p = 0.0
        return head


CARD = {"name": "toy", "task": "test_distributed:SteadyTask", "corpus": "test_distributed:corpus", "config": {}}
UPDATES = 12


def corpus(_: Path) -> Corpus:
    return CORPUS["toy"]


@pytest.fixture(autouse=True)
def _registered(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    CORPUS["toy"] = toy_corpus(tmp_path_factory.mktemp("toy"))
    original = Trainer._update

    def update(self: Trainer, batches: Any) -> tuple[float, float]:
        loss, norm = original(self, batches)
        LOSSES.append(loss)
        return loss, norm

    monkeypatch.setattr(Trainer, "_update", update)
    for of, name, target in (
        (registry.upstreams, "toy", SteadyUpstream),
        (registry.downstreams, "toy", lambda: CARD),
    ):
        monkeypatch.setattr(of, "_entries", dict(of._load()))
        of.register(name, target)


def configure(*overrides: str) -> RunConfig:
    small = [
        f"trainer.max_steps={UPDATES}", "trainer.eval_every=6", "trainer.save_every=4", "trainer.batch_size=5",
        "trainer.accumulate=2", "trainer.trackers=[]", "trainer.keep=all", "device=cpu", "upstream.name=toy",
        "optim.lr=0.01", "data.crop_seconds=0.3", "optim.clip=1.0",
    ]  # fmt: skip
    return prepare.configure("toy", [], [*small, *overrides])


def train(size: int, folder: Path, *overrides: str, resume: bool = False) -> list[float]:
    """Losses of a run on so many processes; one is this process."""
    settings = configure(*overrides)

    def function(_: World) -> list[float]:
        LOSSES.clear()
        run(settings, folder, resume=resume)
        return LOSSES

    if size == 1:
        return list(function(World()))
    output = folder.with_name(f"{folder.name}.output")
    codes = ended(start(size, output, function))
    assert codes == [0] * size, (output / "stderr0").read_text()
    values = [json.loads((output / f"value{rank}").read_text()) for rank in range(size)]
    assert all(value == values[0] for value in values)
    return list(values[0])


def result(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def assert_same(one: Path, other: Path) -> None:
    """The results of two folders, as they are written."""
    first, second = result(one), result(other)
    assert first["selected"]["step"] == second["selected"]["step"]
    for name, metrics in first["metrics"].items():
        assert second["metrics"][name] == pytest.approx(metrics, abs=1e-4)
    assert second["layer_shares"] == pytest.approx(first["layer_shares"], abs=1e-6)
    for key in ("updates", "audio_seconds_seen", "upstream_audio_seconds", "trainable_parameters"):
        assert first["cost"][key] == pytest.approx(second["cost"][key])


# -- dividing --------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.1, 30), max_size=30), st.integers(1, 9))
def test_a_batch_is_divided_about_evenly(seconds: list[float], parts: int) -> None:
    given = divide(seconds, parts)
    assert sorted(i for part in given for i in part) == list(range(len(seconds)))
    assert all(part == sorted(part) for part in given)
    totals = [sum(seconds[i] for i in part) for part in given]
    assert max(totals) - min(totals) <= max(seconds, default=0.0) + 1e-6
    assert len(seconds) < parts or all(given)


def test_the_parts_of_a_batch_make_it_up() -> None:
    batches = [[(0, 3), (0, 1)], [(0, 2)], [(0, 4), (0, 0), (1, 3)]]
    seconds = [1.0, 2.0, 3.0, 4.0, 5.0]
    parts = [SharedBatches(batches, seconds, World(rank, 2)) for rank in range(2)]
    for number, keys in enumerate(batches):
        rows = [list(part.rows())[number] for part in parts]
        assert sorted(rows[0] + rows[1]) == list(range(len(keys)))
        for part, own in zip(parts, rows, strict=True):
            assert list(part)[number] == [keys[i] for i in own] or (own == [] and list(part)[number] == keys[:1])


@pytest.mark.parametrize("what", ["spans", "specaugment"])
def test_a_share_gets_its_rows_of_what_is_drawn_for_all(what: str) -> None:
    lengths, rows = [30, 12, 25, 40], [0, 3]
    features = torch.randn(4, 40, 8)
    config = SpecAugmentConfig(enabled=True, time_warp=3, time_width=4, feature_width=3)

    def draw(own: list[int]) -> torch.Tensor:
        if what == "spans":
            whole = draws.whole([lengths[i] for i in own])
            return draws.own(span_mask(whole, max(whole), 0.5, 4))
        return spec_augment(features[own], torch.tensor([lengths[i] for i in own]), config)

    torch.manual_seed(1)
    alone = draw([0, 1, 2, 3])
    torch.manual_seed(2)
    with draws.shared(draws.Share(lengths, rows, torch.Generator().manual_seed(1))):
        assert torch.equal(draw(rows), alone[rows])


@pytest.mark.parametrize("name", ["wav2vec2_tiny", "bestrq_tiny"])
def test_layers_are_dropped_for_the_batch_as_a_whole(name: str) -> None:
    model = registry.load_upstream(name, encoder_layerdrop=0.5).train()
    wavs, lengths = torch.randn(2, 8000), torch.tensor([8000, 8000])

    def last(own: int, common: int) -> torch.Tensor:
        torch.manual_seed(own)
        frames = model.output_lengths(lengths).tolist()
        with draws.shared(draws.Share(frames, [0, 1], torch.Generator().manual_seed(common))), torch.no_grad():
            return model(wavs, lengths).states[-1]

    expected = [last(0, common) for common in range(6)]
    assert not all(torch.equal(expected[0], other) for other in expected[1:])
    assert all(torch.equal(last(1, common), expected[common]) for common in range(6))


# -- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.medium
@pytest.mark.parametrize(
    ("size", "overrides"),
    [
        (2, ["regime=frozen"]),
        (3, ["regime=finetune"]),
        (2, ["regime=finetune", "trainer.batch_size=1", "trainer.accumulate=3"]),  # one has no utterance
        (2, ["regime=finetune", "data.batch_seconds=0.8", "data.bucket=2", "tune.freeze_updates=3"]),
        (2, ["regime=finetune", "trainer.shard=true"]),
        (3, ["regime=frozen", "trainer.shard=true", "trainer.eval_batch_size=3"]),
    ],
    ids=["frozen", "finetune", "fewer utterances", "batches by duration", "sharded", "sharded frozen"],
)
def test_many_processes_compute_what_one_does(tmp_path: Path, size: int, overrides: list[str]) -> None:
    one = train(1, tmp_path / "one", *overrides)
    many = train(size, tmp_path / "many", *overrides)
    assert len(one) == len(many) == UPDATES
    assert many == pytest.approx(one, abs=1e-5)
    assert_same(tmp_path / "one", tmp_path / "many")
    for name in ("best", "last"):
        states = [torch.load(tmp_path / run / "checkpoints" / f"{name}.pt")["pairing"] for run in ("one", "many")]
        assert states[0].keys() == states[1].keys()
        for key, value in states[0].items():
            assert torch.allclose(value, states[1][key], atol=1e-5), key
    assert (tmp_path / "one" / "scores_test.txt").exists()
    assert "in 2 processes" in result(tmp_path / "many")["provenance"]["device"] or size == 3


@pytest.mark.medium
def test_kept_features_are_computed_once_by_all_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep = ["features.keep=true", "data.crop_seconds=null"]
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path / "cache1"))
    one = train(1, tmp_path / "one", *keep)
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path / "cache2"))
    assert train(2, tmp_path / "many", *keep) == pytest.approx(one, abs=1e-5)
    assert_same(tmp_path / "one", tmp_path / "many")  # upstream_audio_seconds among it: of each utterance once


def test_each_process_begins_with_its_part_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, taken = FeatureStore._take, []

    def take(self: FeatureStore, group: str, stack: Any, patient: bool) -> bool:
        taken.append((patient, int(group, 16) % 2))
        return original(self, group, stack, patient)

    monkeypatch.setattr(FeatureStore, "_take", take)
    store = FeatureStore(ToyUpstream().eval(), "toy", folder=tmp_path)
    utterances = [utterance for split in CORPUS["toy"].splits.values() for utterance in split]
    assert store.fill(utterances, [0.5] * 30, quiet=True, share=(1, 2)) == 15.0
    assert set(taken) == {(False, 1), (True, 0)}
    assert store.missing(utterances) == []


@pytest.mark.medium
@pytest.mark.parametrize("shard", ["false", "true"])
def test_a_run_resumes_with_another_number_of_processes(tmp_path: Path, shard: str) -> None:
    overrides = ["regime=finetune", f"trainer.shard={shard}", "trainer.save_every=1"]
    whole = train(1, tmp_path / "whole", *overrides)
    folder, parts = tmp_path / "parts", []
    original = Trainer._update
    for size, until in ((2, 4), (1, 7), (3, UPDATES)):

        def update(self: Trainer, batches: Any, until: int = until) -> tuple[float, float]:
            self._stop.requested = self.step + 1 == until < UPDATES
            return original(self, batches)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trainer, "_update", update)
            if until == UPDATES:
                parts += train(size, folder, *overrides, resume=True)
            elif size == 1:
                LOSSES.clear()
                with contextlib.suppress(Interrupted):
                    run(configure(*overrides), folder, resume=True)
                parts += LOSSES
            else:
                output = tmp_path / "output"

                def function(_: World) -> Any:
                    LOSSES.clear()
                    with contextlib.suppress(Interrupted):
                        run(configure(*overrides), folder, resume=True)
                    return LOSSES

                assert ended(start(size, output, function)) == [0] * size
                parts += json.loads((output / "value0").read_text())
    assert parts == pytest.approx(whole, abs=1e-5)
    assert_same(tmp_path / "whole", folder)


def wait_for(path: Path, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path} is not there"
        time.sleep(0.02)


def slow_run(folder: Path, seconds: float = 0.3) -> Callable[[World], None]:
    """A run that takes its time, so that something can happen to it."""
    original = Trainer._update

    def update(self: Trainer, batches: Any) -> tuple[float, float]:
        time.sleep(seconds)
        return original(self, batches)

    def function(_: World) -> None:
        Trainer._update = update  # type: ignore[method-assign]
        run(configure("regime=finetune", "trainer.save_every=1"), folder)

    return function


@pytest.mark.medium
def test_a_killed_process_ends_all_and_the_run_resumes(tmp_path: Path) -> None:
    whole = train(1, tmp_path / "whole", "regime=finetune", "trainer.save_every=1")
    folder, output = tmp_path / "killed", tmp_path / "output"
    processes = start(3, output, slow_run(folder))
    wait_for(folder / "checkpoints" / "last.pt")
    processes[1].kill()
    started = time.monotonic()
    codes = ended(processes, 30)
    assert time.monotonic() - started < 30
    assert codes[1] == -signal.SIGKILL
    assert 0 not in codes
    said = [(output / f"stderr{rank}").read_text() for rank in range(3)]
    (line,) = [text for text in said[0].splitlines() if text.startswith("error: ")]
    assert "process 1 of 3: it has ended" in line
    assert f"Resume the run with -e {folder}" in line
    assert not any("error: " in text or "Traceback" in text for text in said[1:])
    assert "process 1 of 3: it has ended" in (folder / "log.txt").read_text()
    assert not (folder / "result.json").exists()
    rest = train(2, folder, "regime=finetune", "trainer.save_every=1", resume=True)
    assert 0 < len(rest) < UPDATES
    assert rest == pytest.approx(whole[-len(rest) :], abs=1e-5)
    assert_same(tmp_path / "whole", folder)


@pytest.mark.medium
def test_the_first_process_may_be_the_one_that_dies(tmp_path: Path) -> None:
    processes = start(2, tmp_path / "output", slow_run(tmp_path / "killed"))
    wait_for(tmp_path / "killed" / "checkpoints" / "last.pt")
    processes[0].kill()
    assert ended(processes, 30)[1] == 1
    assert "process 0 of 2: it has ended" in (tmp_path / "output" / "stderr1").read_text()


@pytest.mark.medium
def test_sigterm_to_one_stops_all_after_the_same_update(tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    processes = start(2, tmp_path / "output", slow_run(folder))
    wait_for(folder / "checkpoints" / "last.pt")
    os.kill(processes[1].pid, signal.SIGTERM)
    assert ended(processes, 30) == [130, 130]
    step = torch.load(folder / "checkpoints" / "last.pt")["step"]
    assert f"stopped after update {step}, which is saved" in (folder / "log.txt").read_text()
    assert 0 < step < UPDATES


@pytest.mark.medium
def test_sigterm_to_one_stops_the_evaluation_of_all(tmp_path: Path) -> None:
    """They hear of it at once, and do not go on to the end of their parts."""
    folder, original = tmp_path / "stopped", Trainer._predict
    predicted: list[int] = []

    def predict(self: Trainer, *arguments: Any) -> list[Any]:
        predicted.append(self.step)
        (folder / f"predicting{self.world.rank}").touch()
        time.sleep(0.5 if self.world.rank == 0 else 0.1)
        return original(self, *arguments)

    def function(_: World) -> int:
        Trainer._predict = predict  # type: ignore[method-assign]
        with contextlib.suppress(Interrupted):
            run(configure(), folder)
        return len(predicted)

    processes = start(2, tmp_path / "output", function)
    wait_for(folder / "predicting0")
    os.kill(processes[1].pid, signal.SIGTERM)
    assert ended(processes, 30) == [0, 0]
    assert int((tmp_path / "output" / "value0").read_text()) < 5  # half of the 10 utterances of dev
    assert "stopped while evaluating dev at update 6" in (folder / "log.txt").read_text()


@pytest.mark.medium
def test_an_error_in_one_process_is_said_once(tmp_path: Path) -> None:
    """Of an utterance that cannot be read, whoever reads it; what was done before is saved."""
    broken = CORPUS["toy"].splits["train"][7]
    folder, output = tmp_path / "run", tmp_path / "output"

    def function(_: World) -> None:
        run(configure(), folder)

    original = distributed.Parallel.draw

    def draw(self: Any, batches: Any, count: int, **options: Any) -> Any:
        if self.world.rank == 1 and self.model.updates == 2:
            batches = iter(_failing(broken.id))
        return original(self, batches, count, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed.Parallel, "draw", draw)
        assert ended(start(2, output, function)) == [1, 1]
    said = [(output / f"stderr{rank}").read_text() for rank in range(2)]
    assert said[0].count(f"error: {broken.id} is broken") == 1
    assert "Traceback" not in said[0]
    assert "error" not in said[1]
    assert torch.load(folder / "checkpoints" / "last.pt")["step"] == 3
    assert f"{broken.id} is broken" in (folder / "log.txt").read_text()


def _failing(name: str) -> Any:
    raise BenchmarkError(f"{name} is broken")
    yield


@pytest.mark.medium
def test_a_bug_in_another_process_is_shown_by_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def backward(self: Trainer, drawn: Any) -> float:
        if self.world.rank == 1:
            raise ZeroDivisionError("a bug")
        return original(self, drawn)

    original = Trainer._backward
    monkeypatch.setattr(Trainer, "_backward", backward)
    monkeypatch.setattr("benchmark.engine.world.VERDICT", 0.5)
    codes = ended(start(2, tmp_path / "output", lambda _: run(configure(), tmp_path / "run") and None))
    assert codes == [1, 1]
    said = (tmp_path / "output" / "stderr0").read_text()
    assert "process 1 of 2: Traceback" in said
    assert "ZeroDivisionError: a bug" in said


@pytest.mark.medium
def test_a_process_that_lacks_memory_splits_its_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = ["regime=finetune", "trainer.auto_batch=true", "trainer.batch_size=6", "tune.freeze_updates=2"]
    monkeypatch.setattr(draws, "own", lambda drawn: torch.zeros(1))  # parts draw anew
    one = train(1, tmp_path / "one", *overrides)
    original = distributed.Parallel.loss

    def loss(self: Any, batch: Any, drawn: Any, first: int) -> Any:
        if self.world.rank == 1 and len(batch.ids) > 1:
            raise oom.DoesNotFit(batch)
        return original(self, batch, drawn, first)

    monkeypatch.setattr(distributed.Parallel, "loss", loss)
    assert train(2, tmp_path / "two", *overrides) == pytest.approx(one, abs=1e-5)
    assert_same(tmp_path / "one", tmp_path / "two")


# -- what is refused -------------------------------------------------------------------------------------------------


def test_what_cannot_be_shared_is_refused() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    plain = torch.nn.Linear(3, 3)
    sharded = configure("trainer.shard=true")
    for made, settings, message in (
        (model, configure(), "1 normalises over the utterances of a batch"),
        (plain, replace(sharded, features=replace(sharded.features, keep=True)), r"trainer\.shard and features\.keep"),
        (plain, configure("trainer.shard=true", "trainer.auto_batch=true"), "batch_size=auto"),
    ):
        with pytest.raises(BenchmarkError, match=rf"{message}.*cannot share this run"):
            distributed.Parallel(World(0, 2), made, settings, torch.device("cpu"))  # type: ignore[arg-type]


def test_processes_that_have_not_joined_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Studies, say: each process would run all of it."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BenchmarkError, match=r"which only run_downstream\.py and wavbench\.run make use of"):
        run(configure(), tmp_path)
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(BenchmarkError, match=r"\$RANK, .* is not set; start the processes with torchrun"), \
            joined():  # fmt: skip
        pass


def test_by_itself_a_process_has_no_others() -> None:
    world = World()
    assert (world.gather(3), world.collect(3), world.same(3), world.any(False)) == ([3], [3], 3, False)
    assert world.agree(lambda: 3) == world.alone(lambda: 3) == world.in_turn(lambda: 3) == 3
    with pytest.raises(BenchmarkError, match=r"^no$"):
        world.agree(lambda: next(_failing_plainly()))


def _failing_plainly() -> Any:
    raise BenchmarkError("no")
    yield
