from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import ToyConfig, ToyTask, ToyUpstream, toy_corpus

from benchmark.config import RunConfig
from benchmark.data import audio
from benchmark.engine import trainer
from benchmark.engine.stopping import Interrupted, StopRequest
from benchmark.engine.trainer import Trainer
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Corpus, Evaluation


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return toy_corpus(tmp_path_factory.mktemp("toy"))


def configure(**trainer_options: Any) -> RunConfig:
    run = RunConfig(seed=3)
    run.data.crop_seconds = 0.15
    run.optim.lr, run.optim.schedule, run.optim.warmup_steps, run.optim.clip = 0.01, "linear", 2, 1.0
    values = {"max_steps": 8, "batch_size": 3, "accumulate": 2, "eval_every": 3, "save_every": 2} | trainer_options
    for name, value in values.items():
        setattr(run.trainer, name, value)
    return run


def build(run: RunConfig, corpus: Corpus, folder: Path) -> Trainer:
    utterances = [utterance for split in corpus.splits.values() for utterance in split]
    seconds = dict(zip([u.id for u in utterances], audio.durations(utterances).tolist(), strict=True))
    task = ToyTask(ToyConfig(), ToyTask.split(ToyConfig(), corpus), seconds)
    return Trainer(run, task, ToyUpstream().eval(), folder)


def outcome(made: Trainer) -> dict[str, Any]:
    return {
        "best": made.best,
        "last": made.model.trained_state(),
        "kept": made.load_best()["pairing"],
        "test": made.evaluate("test")[0].files,
        "audio": made.costs()["upstream_audio_seconds"],
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)


def train_whole(run: RunConfig, corpus: Corpus, folder: Path) -> dict[str, Any]:
    made = build(run, corpus, folder)
    made.train(StopRequest())
    return outcome(made)


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.mark.parametrize("regime", ["frozen", "finetune"])
def test_resumed_after_every_update_it_ends_as_if_never_stopped(
    corpus: Corpus, tmp_path: Path, regime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = configure()
    run.regime = regime
    whole = train_whole(run, corpus, tmp_path / "whole")
    original = Trainer._update
    for fatal in range(1, 9):
        folder = tmp_path / f"killed{fatal}"

        def update(self: Trainer, batches: Any, fatal: int = fatal) -> Any:
            if self.step + 1 == fatal:
                raise Killed
            return original(self, batches)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_update", update)
            first = build(run, corpus, folder)
            with pytest.raises(Killed):
                first.train(StopRequest())
        torch.rand(17)  # a fresh process has other generator states
        second = build(run, corpus, folder)
        resumed = second.resume()
        assert resumed == (fatal > 2)  # save_every=2
        second.train(StopRequest())
        assert same(outcome(second), whole), fatal


def test_dropout_and_crops_differ_between_updates_and_seeds(corpus: Corpus, tmp_path: Path) -> None:
    run = configure()
    one = train_whole(run, corpus, tmp_path / "a")
    run.seed = 4
    assert not same(one["last"], train_whole(run, corpus, tmp_path / "b")["last"])
    made = build(run, corpus, tmp_path / "c")
    made._seed(1)
    first = torch.rand(1)
    made._seed(2)
    assert first != torch.rand(1)


@pytest.mark.parametrize("change", [{"workers": 2}, {"eval_batch_size": 4}, {"log_every": 1}])
def test_workers_and_evaluation_batches_change_nothing(corpus: Corpus, tmp_path: Path, change: dict[str, int]) -> None:
    run = configure(max_steps=4)
    one = train_whole(run, corpus, tmp_path / "a")
    for name, value in change.items():
        setattr(run.data if name == "workers" else run.trainer, name, value)
    other = train_whole(run, corpus, tmp_path / "b")
    assert same(one["last"], other["last"])
    assert one["best"]["step"] == other["best"]["step"]
    assert one["best"]["value"] == pytest.approx(other["best"]["value"], rel=1e-6)


def test_the_best_checkpoint_on_dev_is_kept(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([5.0, 2.0, 2.0, 7.0])
    monkeypatch.setattr(ToyTask, "evaluate", lambda *_: Evaluation({"dev": {"toy_error": next(values)}}))
    made = build(configure(max_steps=8, eval_every=2), corpus, tmp_path)
    made.train(StopRequest())
    assert made.best == {"step": 4, "metric": "toy_error", "value": 2.0, "rank": (2.0,)}
    assert made.load_best()["step"] == 4


def test_the_task_ranks_checkpoints(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([(4.0, 9.0), (5.0, 1.0), (3.0, 1.0), (1.0, 8.0)])
    stop = StopRequest()

    def evaluate(*_: Any) -> Evaluation:
        error, other = next(values)
        stop.requested = error == 5
        return Evaluation({"dev": {"toy_error": error, "other": other}})

    monkeypatch.setattr(ToyTask, "evaluate", evaluate)
    monkeypatch.setattr(ToyTask, "rank", lambda _, dev, error: (dev["other"],))
    run = configure(max_steps=8, eval_every=2)
    with pytest.raises(Interrupted):
        build(run, corpus, tmp_path).train(stop)
    made = build(run, corpus, tmp_path)
    assert made.resume()
    made.train(StopRequest())
    assert made.best == {"step": 4, "metric": "toy_error", "value": 5.0, "rank": (1.0,)}
    assert made.load_best()["dev"] == {"toy_error": 5.0, "other": 1.0}


def test_a_run_saved_before_there_were_ranks_is_resumed(corpus: Corpus, tmp_path: Path) -> None:
    build(configure(max_steps=3), corpus, tmp_path).train(StopRequest())
    path = tmp_path / "checkpoints" / "last.pt"
    state = torch.load(path, weights_only=True)
    rank = state["best"].pop("rank")
    torch.save(state, path)
    made = build(configure(max_steps=6), corpus, tmp_path)
    assert made.resume()
    assert made.best is not None
    assert made.best["rank"] == rank == (made.best["value"],)


def test_evaluation_leaves_training_alone(corpus: Corpus, tmp_path: Path) -> None:
    often = train_whole(configure(eval_every=1), corpus, tmp_path / "a")
    seldom = train_whole(configure(eval_every=8), corpus, tmp_path / "b")
    assert same(often["last"], seldom["last"])


def test_frozen_means_frozen_and_each_group_has_its_rate(corpus: Corpus, tmp_path: Path) -> None:
    run = configure(max_steps=2)
    run.optim.weights_lr, run.optim.upstream_lr, run.optim.schedule, run.optim.warmup_steps = 0.5, 1e-5, "constant", 0
    frozen = build(run, corpus, tmp_path / "a")
    before = {key: value.clone() for key, value in frozen.model.upstream.state_dict().items()}
    frozen.train(StopRequest())
    assert same(frozen.model.upstream.state_dict(), before)
    assert not frozen.model.upstream.training
    assert {g["name"]: g["lr"] for g in frozen.optimizer.param_groups} == {"head": 0.01, "weights": 0.5}
    assert "upstream.layers.0.weight" not in frozen.model.trained_state()

    run.regime = "finetune"
    tuned = build(run, corpus, tmp_path / "b")
    tuned.train(StopRequest())
    assert {g["name"]: g["lr"] for g in tuned.optimizer.param_groups} == {
        "head": 0.01,
        "weights": 0.5,
        "upstream": 1e-5,
    }
    moved = (tuned.model.upstream.state_dict()["layers.0.weight"] - before["layers.0.weight"]).abs().max()
    assert 0 < moved < 1e-4


def test_a_single_layer_runs_no_block_above_it(corpus: Corpus, tmp_path: Path) -> None:
    run = configure(max_steps=1)
    run.regime, run.featurizer.layer = "single_layer", 1
    made = build(run, corpus, tmp_path)
    made.train(StopRequest())
    ran = made.model.upstream.ran
    assert isinstance(ran, list)
    assert set(ran) == {0, 1}
    assert made.load_best()["layers"] is None
    run.featurizer.layer = 3
    with pytest.raises(BenchmarkError, match=r"layer 3 does not exist.*3 layers"):
        build(run, corpus, tmp_path)


def test_accumulation_equals_one_large_batch(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)
    parts = train_whole(configure(max_steps=3, batch_size=2, accumulate=3), corpus, tmp_path / "a")
    whole = train_whole(configure(max_steps=3, batch_size=6, accumulate=1), corpus, tmp_path / "b")
    for key, value in whole["last"].items():
        torch.testing.assert_close(parts["last"][key], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops(corpus: Corpus, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run = configure(save_every=100)
    handler = signal.getsignal(number)
    whole = train_whole(run, corpus, tmp_path / "whole")
    original = Trainer._update

    def update(self: Trainer, batches: Any) -> Any:
        if self.step == 4:
            signal.raise_signal(number)
        return original(self, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", update)
        first = build(run, corpus, tmp_path / "stopped")
        with StopRequest() as stop, pytest.raises(Interrupted, match="update 5"):
            first.train(stop)
    assert signal.getsignal(number) == handler  # a background job has another than a terminal
    second = build(run, corpus, tmp_path / "stopped")
    assert second.resume()
    assert second.step == 5
    second.train(StopRequest())
    assert same(outcome(second), whole)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_nan_stops_before_it_is_applied(
    corpus: Corpus, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = build(configure(max_steps=8, save_every=1), corpus, tmp_path)
    original = torch.nn.functional.cross_entropy
    calls = 0

    def cross_entropy(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        loss = original(*arguments)
        if calls <= 4:
            return loss
        if where == "loss":
            return loss * float("nan")
        loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    monkeypatch.setattr(trainer.torch.nn.functional, "cross_entropy", cross_entropy)
    with pytest.raises(BenchmarkError, match=r"update 3: the .* is (nan|inf).*train\d.*optim\.lr=0\.001.*last\.pt"):
        made.train(StopRequest())
    assert all(torch.isfinite(p).all() for p in made.model.parameters())
    state = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    assert state["step"] == 2


def test_running_statistics_that_a_nan_went_through_are_not_saved(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = build(configure(max_steps=8, save_every=1), corpus, tmp_path)
    made.model.head.norm = torch.nn.BatchNorm1d(8)
    calls = 0

    def loss(features: torch.Tensor, lengths: torch.Tensor, targets: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        means = made.model.head.norm(features.mean(1) * (float("nan") if calls > 4 else 1.0))
        return torch.nn.functional.cross_entropy(made.model.head.linear(means), targets)

    monkeypatch.setattr(made.model.head, "loss", loss)
    with pytest.raises(BenchmarkError, match=r"update 3: the .* is nan.*last\.pt"):
        made.train(StopRequest())
    state = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    assert state["step"] == 2
    assert "head.norm.running_mean" in state["pairing"]
    assert all(torch.isfinite(tensor).all() for tensor in state["pairing"].values())


def test_a_broken_checkpoint_is_named(corpus: Corpus, tmp_path: Path) -> None:
    made = build(configure(max_steps=2), corpus, tmp_path)
    made.train(StopRequest())
    path = tmp_path / "checkpoints" / "last.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BenchmarkError, match=r"last\.pt cannot be read as a checkpoint of this run"):
        build(configure(), corpus, tmp_path).resume()


def test_unreadable_audio_stops_with_its_name(corpus: Corpus, tmp_path: Path) -> None:
    bad = tmp_path / "nan.wav"
    import soundfile

    soundfile.write(bad, np.full(3000, np.nan, dtype=np.float32), 16000, subtype="FLOAT")
    from benchmark.interfaces import Utterance

    train = [*corpus.splits["train"], Utterance("the-bad-one", str(bad), speaker="low")]
    broken = Corpus("toy", corpus.splits | {"train": train})
    for workers in (0, 1):
        run = configure(max_steps=8)
        run.data.workers = workers
        with pytest.raises(BenchmarkError, match=r"utterance the-bad-one: .*nan\.wav has NaN"):
            build(run, broken, tmp_path / f"run{workers}").train(StopRequest())


def test_precisions_and_threads_of_one_process(corpus: Corpus, tmp_path: Path) -> None:
    """A study or a notebook may hold runs of different precision; none shares its state with another."""
    results: dict[str, Any] = {}

    def train(name: str, precision: str) -> None:
        with StopRequest() as stop:  # installs no handlers outside of the main thread
            made = build(configure(precision=precision), corpus, tmp_path / name)
            made.train(stop)
        results[name] = made.best

    train("float32", "no")
    for name, precision in (("bf16", "bf16"), ("again", "no")):
        thread = threading.Thread(target=train, args=(name, precision))
        thread.start()
        thread.join()
    assert results["again"] == results["float32"]
    assert results["bf16"]["value"] != results["float32"]["value"]
    assert results["bf16"]["value"] == pytest.approx(results["float32"]["value"], rel=0.05)


def test_stopped_while_testing_the_last_checkpoint_stays_the_last(corpus: Corpus, tmp_path: Path) -> None:
    """At test the best parameters are in place; they must not be saved as the last ones."""
    made = build(configure(), corpus, tmp_path)
    made.train(StopRequest())
    before = (tmp_path / "checkpoints" / "last.pt").read_bytes()
    made.load_best()
    stop = StopRequest()
    stop.requested = True
    with pytest.raises(Interrupted, match="evaluating test"):
        made.evaluate("test", stop)
    assert (tmp_path / "checkpoints" / "last.pt").read_bytes() == before
