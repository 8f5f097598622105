"""Frozen states are computed once, and training on them is training on the upstream."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import ToyConfig, ToyHead, ToyTask, ToyUpstream, toy_corpus

from benchmark.config import RunConfig
from benchmark.data import audio
from benchmark.engine.feature_store import FeatureStore
from benchmark.engine.trainer import Interrupted, StopRequest, Trainer
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Corpus, Head, HiddenStates, Utterance


class LinearHead(ToyHead):
    """Without dropout, so that the mean of the features is all that matters."""

    def __init__(self, size: int, *, mean_suffices: bool) -> None:
        super().__init__(size)
        self.mean_suffices = mean_suffices
        self.dropout.p = 0.0


class LinearTask(ToyTask):
    means = False

    @classmethod
    def make_head(cls, config: Any, vocabulary: Any, feature_size: int) -> Head:
        return LinearHead(feature_size, mean_suffices=cls.means)


class MeanTask(LinearTask):
    means = True


class CountingUpstream(ToyUpstream):
    """Counts the utterances that it is run over."""

    def __init__(self) -> None:
        super().__init__()
        self.utterances = 0
        self.info = {"name": "counting"}

    def forward(self, wavs: Tensor, wav_lens: Tensor, *, keep: Any = None) -> HiddenStates:
        self.utterances += len(wavs)
        return super().forward(wavs, wav_lens, keep=keep)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return toy_corpus(tmp_path_factory.mktemp("toy"))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path / "cache"))


def build(corpus: Corpus, folder: Path, task: type[ToyTask], *, keep: bool, **options: Any) -> Trainer:
    run = RunConfig(seed=3)
    run.features.keep = keep
    run.optim.lr = 0.05
    run.trainer.max_steps, run.trainer.batch_size, run.trainer.eval_every = 12, 4, 4
    run.featurizer.normalize = options.get("normalize", False)
    run.featurizer.layer = options.get("layer")
    run.regime = "frozen" if run.featurizer.layer is None else "single_layer"
    run.data.crop_seconds = options.get("crop")
    utterances = [utterance for split in corpus.splits.values() for utterance in split]
    seconds = dict(zip([u.id for u in utterances], audio.durations(utterances).tolist(), strict=True))
    made = task(ToyConfig(), task.split(ToyConfig(), corpus), seconds)
    return Trainer(run, made, CountingUpstream().eval(), folder, {"upstream": "digest"})


def trained(trainer: Trainer) -> tuple[dict[str, Tensor], float, dict[str, Any]]:
    trainer.train(StopRequest())
    best = trainer.load_best()
    evaluation, _ = trainer.evaluate("test")
    return trainer.model.trained_state(), evaluation.metrics["test"]["toy_error"], best["layers"]


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("layer", [None, 1])
@pytest.mark.parametrize("task", [LinearTask, MeanTask])
def test_training_on_kept_states_is_training_on_the_upstream(
    corpus: Corpus, tmp_path: Path, task: type[ToyTask], normalize: bool, layer: int | None
) -> None:
    live = trained(build(corpus, tmp_path / "live", task, keep=False, normalize=normalize, layer=layer))
    kept = trained(build(corpus, tmp_path / "kept", task, keep=True, normalize=normalize, layer=layer))
    exact = task.means
    for name, value in live[0].items():
        torch.testing.assert_close(kept[0][name], value, rtol=1e-4 if exact else 0.02, atol=1e-5 if exact else 5e-3)
    assert kept[1] == pytest.approx(live[1], rel=1e-4 if exact else 1e-2)
    if layer is None:
        for name, value in live[2].items():
            assert kept[2][name] == pytest.approx(value, rel=1e-3 if exact else 2e-2), name


def test_the_upstream_runs_once_over_an_utterance(corpus: Corpus, tmp_path: Path) -> None:
    first = build(corpus, tmp_path / "a", LinearTask, keep=True)
    first.train(StopRequest())
    assert first.model.upstream.utterances == 20  # train and dev; test not before it is scored
    first.evaluate("test")
    assert first.model.upstream.utterances == 30
    seconds = sum(first.task.seconds.values())
    assert first.costs()["upstream_audio_seconds"] == pytest.approx(seconds, rel=1e-6)
    assert first.costs()["audio_seconds_seen"] > 0
    second = build(corpus, tmp_path / "b", LinearTask, keep=True, layer=2)
    second.train(StopRequest())
    second.evaluate("test")
    assert second.model.upstream.utterances == 0
    assert second.costs()["upstream_audio_seconds"] == 0


def test_stopping_while_extracting_keeps_what_there_is(corpus: Corpus, tmp_path: Path) -> None:
    trainer = build(corpus, tmp_path / "a", LinearTask, keep=True)
    stop = StopRequest()
    stop.requested = True
    with pytest.raises(Interrupted, match="while extracting features"):
        trainer.train(stop)
    assert trainer.model.upstream.utterances == 1
    again = build(corpus, tmp_path / "a", LinearTask, keep=True)
    assert again.resume()
    again.train(StopRequest())
    assert again.model.upstream.utterances == 19


def test_stopping_at_test_leaves_the_last_checkpoint_alone(corpus: Corpus, tmp_path: Path) -> None:
    trainer = build(corpus, tmp_path / "a", LinearTask, keep=True)
    trainer.train(StopRequest())
    last = (tmp_path / "a" / "checkpoints" / "last.pt").read_bytes()
    trainer.load_best()
    stop = StopRequest()
    stop.requested = True
    with pytest.raises(Interrupted, match="while extracting features"):
        trainer.evaluate("test", stop)
    assert (tmp_path / "a" / "checkpoints" / "last.pt").read_bytes() == last


def test_crops_that_would_cut_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    build(corpus, tmp_path, LinearTask, keep=True, crop=0.5)  # nothing is longer
    with pytest.raises(BenchmarkError, match=r"training utterances are longer than data\.crop_seconds=0\.2"):
        build(corpus, tmp_path, LinearTask, keep=True, crop=0.2)


def test_changed_audio_is_read_again(corpus: Corpus, tmp_path: Path) -> None:
    utterance = corpus.splits["train"][0]
    store = FeatureStore(CountingUpstream().eval(), "x")
    copy = tmp_path / "copy.wav"
    copy.write_bytes(Path(utterance.path).read_bytes())
    moved = Utterance("a", str(copy))
    assert store.fill([moved], [0.1]) > 0
    assert store.fill([moved], [0.1]) == 0
    copy.write_bytes(Path(corpus.splits["train"][1].path).read_bytes())
    assert store.fill([moved], [0.1]) > 0
    assert store.fill([Utterance("b", str(copy), start=0.01)], [0.1]) > 0  # another stretch of it
    assert FeatureStore(store.upstream, "y").fill([moved], [0.1]) > 0  # another upstream


def test_a_store_has_a_limit(corpus: Corpus) -> None:
    utterances = corpus.splits["train"]
    seconds = audio.durations(utterances).tolist()
    store = FeatureStore(CountingUpstream().eval(), "x", limit=2000)
    with pytest.raises(BenchmarkError, match=r"keeping the features of 10 utterances .* features\.limit_gb"):
        store.fill(utterances, seconds)
    FeatureStore(store.upstream, "x", limit=1e6).fill(utterances, seconds)


def test_a_broken_file_is_named(corpus: Corpus) -> None:
    utterance = corpus.splits["train"][0]
    store = FeatureStore(CountingUpstream().eval(), "x")
    store.fill([utterance], [0.1])
    store.path(utterance).write_bytes(b"half")
    with pytest.raises(BenchmarkError, match=f"utterance {utterance.id} cannot be read .* delete"):
        store.load([utterance], None)


def test_states_beyond_half_precision_are_kept_whole(corpus: Corpus) -> None:
    class Large(ToyUpstream):
        def forward(self, wavs: Tensor, wav_lens: Tensor, *, keep: Any = None) -> HiddenStates:
            hidden = super().forward(wavs, wav_lens, keep=keep)
            return HiddenStates([1e6 * state for state in hidden.states], hidden.lengths)

    utterance = corpus.splits["train"][0]
    store = FeatureStore(Large().eval(), "x")
    store.fill([utterance], [0.1])
    assert all(torch.isfinite(state).all() for state in store.load([utterance], None).states)


def test_two_processes_share_the_work(corpus: Corpus, tmp_path: Path) -> None:
    """One process holds a part of the store; another does the rest, then waits for it and finds its file there."""
    utterances = corpus.splits["train"]
    seconds = audio.durations(utterances).tolist()
    store = FeatureStore(CountingUpstream().eval(), "x")
    held = store.path(utterances[0])
    held.parent.mkdir(parents=True)
    content = FeatureStore(ToyUpstream().eval(), "z")
    content.fill([utterances[0]], [0.1])
    with open(held.parent / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def release() -> None:
            held.write_bytes(content.path(utterances[0]).read_bytes())
            fcntl.flock(lock, fcntl.LOCK_UN)

        timer = threading.Timer(1.0, release)
        timer.start()
        store.fill(utterances, seconds)
        timer.join()
    mine = [u for u in utterances if store.path(u).parent != held.parent or u is not utterances[0]]
    assert store.upstream.utterances == len(mine)
