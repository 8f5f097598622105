"""Frozen states are computed once, and training on them is training on the upstream."""

from __future__ import annotations

import fcntl
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from support import Cli
from torch import Tensor
from toys import ToyConfig, ToyHead, ToyTask, ToyUpstream, toy_corpus

from benchmark.commands import cache
from benchmark.config import RunConfig
from benchmark.data import audio
from benchmark.engine import feature_shards
from benchmark.engine.feature_store import FeatureStore
from benchmark.engine.stopping import Interrupted, StopRequest
from benchmark.engine.trainer import Trainer
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
    run.features.limit_gb = options.get("limit_gb", 1.0)
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
    """What was used longest ago makes room; where that would not be enough, nothing is removed."""
    utterances = corpus.splits["train"]
    seconds = audio.durations(utterances).tolist()
    old, new = (FeatureStore(CountingUpstream().eval(), name) for name in "xy")
    old.fill(utterances, seconds)
    size = sum(path.stat().st_size for path in old.folder.glob("*.safetensors"))
    content = 2 * 3 * 8 * sum(seconds) * 16000 / 320  # bytes, states, dim, frames
    new.limit = size + 0.9 * content
    assert FeatureStore(old.upstream, "x", limit=1.0).lacks(utterances, seconds) == 0  # all of it is there
    assert new.lacks(utterances, seconds) == 0
    assert not old.folder.exists()
    new.fill(utterances, seconds)
    third = FeatureStore(CountingUpstream().eval(), "z", limit=0.5 * content)
    assert third.lacks(utterances, seconds) == pytest.approx(0.5 * content, rel=0.01)
    assert new.folder.exists()


def test_a_run_whose_features_do_not_fit_runs_the_upstream(
    corpus: Corpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = trained(build(corpus, tmp_path / "kept", MeanTask, keep=True, normalize=True))
    shutil.rmtree(tmp_path / "cache")
    trainer = build(corpus, tmp_path / "live", MeanTask, keep=True, normalize=True, limit_gb=1e-9)
    assert trainer.store is None
    assert "do not fit under features.limit_gb=1e-09" in caplog.text
    assert trained(trainer)[1] == pytest.approx(kept[1], rel=1e-4)


def test_a_broken_shard_is_computed_again(corpus: Corpus, caplog: pytest.LogCaptureFixture) -> None:
    utterances = corpus.splits["train"]
    store = FeatureStore(CountingUpstream().eval(), "x")
    store.fill(utterances, [0.1] * 10)
    shard = next(store.folder.glob("*.safetensors"))
    whole = shard.read_bytes()
    for broken in (b"", b"half", whole[:-1], whole[: len(whole) // 2], b"\xff" * len(whole)):
        shard.write_bytes(broken)
        caplog.clear()
        again = FeatureStore(CountingUpstream().eval(), "x")
        assert again.fill(utterances, [0.1] * 10) > 0
        assert "is removed, and its utterances are computed again" in caplog.text
        assert again.upstream.utterances < 10
        assert len(again.load(utterances, None).states) == 3
        shard = next(store.folder.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("safe_open", MemoryError("Cannot allocate memory")),
        ("safe_open", OSError("Stale file handle")),
        ("get_tensor", RuntimeError("unable to mmap 240 bytes: Cannot allocate memory (12)")),
        ("checksum", MemoryError("Cannot allocate memory")),
    ],
)
def test_a_shard_that_cannot_be_read_now_stays(
    corpus: Corpus, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    utterances = corpus.splits["train"]
    store = FeatureStore(CountingUpstream().eval(), "x")
    store.fill(utterances, [0.1] * 10)
    shards = set(store.folder.glob("*.safetensors"))

    def refuse(*_: Any, **__: Any) -> Any:
        raise error

    class Full:
        """safe_open, whose tensors torch cannot map."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.file = safe_open(*arguments, **options).__enter__()
            self.metadata, self.keys = self.file.metadata, self.file.keys

        def __enter__(self) -> Full:
            return self

        get_tensor = refuse

    changed = ("safe_open", Full) if where == "get_tensor" else (where, refuse)
    with monkeypatch.context() as patch:
        patch.setattr(feature_shards, *changed)
        assert len(FeatureStore(store.upstream, "x").missing(utterances)) == 10
    for shard in shards:
        assert f"{shard} cannot be read ({error}); its utterances are computed again" in caplog.text
    assert "removed" not in caplog.text
    assert set(store.folder.glob("*.safetensors")) == shards
    assert FeatureStore(store.upstream, "x").missing(utterances) == []


def test_a_shard_that_lost_a_bit_is_found(corpus: Corpus, cli: Cli) -> None:
    store = FeatureStore(CountingUpstream().eval(), "x")
    store.fill(corpus.splits["train"], [0.1] * 10)
    assert cli("cache", "verify").returncode == 0
    shard = next(store.folder.glob("*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-3] ^= 4
    shard.write_bytes(content)
    done = cli("cache", "verify")
    assert done.returncode == 1
    assert f"damaged, removed: {shard}" in done.stdout
    assert cli("cache", "verify").returncode == 0
    assert len(FeatureStore(store.upstream, "x").missing(corpus.splits["train"])) > 0


def test_the_cache_is_listed_and_cleared(corpus: Corpus, cli: Cli) -> None:
    for name in "xy":
        FeatureStore(CountingUpstream().eval(), name, means=name == "y").fill(corpus.splits["train"], [0.1] * 10)
    listed = cli("cache", "ls").stdout
    assert listed.count("counting") == 2
    assert "means" in listed
    assert "frames" in listed
    done = cli("cache", "clear")
    assert done.returncode == 1
    assert "say what to clear" in done.stderr
    assert "expected a number of days, 0 or more, found '-3'" in cli("cache", "clear", "--unused-for", "-3").stderr
    for action in ("ls", "verify", "clear"):
        done = cli("cache", action, "--upstream", "countig")
        assert done.returncode == 1
        assert "nothing is kept of upstream 'countig'" in done.stderr
        assert "Did you mean 'counting'? kept upstreams: counting" in done.stderr
    assert "of 0 stores" in cli("cache", "clear", "--unused-for", "1").stdout
    assert "of 2 stores" in cli("cache", "clear", "--upstream", "counting").stdout
    assert cli("cache", "ls").stdout.startswith("0.0 kB of features")


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0.0 kB"), (4321, "4.3 kB"), (5e5, "500.0 kB"), (1.5e12, "1500.0 GB")]
)
def test_sizes_can_be_read(number: float, text: str) -> None:
    assert cache._size(number) == text


def test_utterances_are_extracted_together_where_there_is_a_gpu(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    utterances = corpus.splits["train"]
    seconds = audio.durations(utterances).tolist()
    alone = FeatureStore(ToyUpstream().eval(), "x")
    alone.fill(utterances, seconds)
    monkeypatch.setattr(FeatureStore, "_on_gpu", lambda _: True)
    together = FeatureStore(CountingUpstream().eval(), "y")
    assert together.fill(utterances, seconds, workers=2) == pytest.approx(sum(seconds))
    assert len(list(together.folder.glob("*.safetensors"))) == 1
    for one, other in zip(alone.load(utterances, None).states, together.load(utterances, None).states, strict=True):
        torch.testing.assert_close(one, other)


def test_what_was_computed_before_an_unreadable_file_is_kept(corpus: Corpus, tmp_path: Path) -> None:
    utterances = [*corpus.splits["train"], Utterance("broken", str(tmp_path / "broken.wav"))]
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    store = FeatureStore(CountingUpstream().eval(), "x")
    with pytest.raises(BenchmarkError, match=r"broken\.wav"):
        store.fill(utterances, [0.1] * 11)
    assert len(store.missing(utterances)) == 11 - store.upstream.utterances


def test_states_beyond_half_precision_are_kept_whole(corpus: Corpus) -> None:
    class Large(ToyUpstream):
        def forward(self, wavs: Tensor, wav_lens: Tensor, *, keep: Any = None) -> HiddenStates:
            hidden = super().forward(wavs, wav_lens, keep=keep)
            return HiddenStates([1e6 * state for state in hidden.states], hidden.lengths)

    utterance = corpus.splits["train"][0]
    store = FeatureStore(Large().eval(), "x")
    store.fill([utterance], [0.1])
    assert all(torch.isfinite(state).all() for state in store.load([utterance], None).states)


def test_two_processes_share_the_work(corpus: Corpus) -> None:
    """One process holds a part of the store; another does the rest, then waits for it and finds it done."""
    utterances = corpus.splits["train"]
    seconds = audio.durations(utterances).tolist()
    store, other = (FeatureStore(CountingUpstream().eval(), "x") for _ in range(2))
    group = store.key(utterances[0])[0]
    theirs = [i for i, utterance in enumerate(utterances) if store.key(utterance)[0] == group]
    store.folder.mkdir(parents=True)
    with open(store.folder / f"{group}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def release() -> None:
            made = FeatureStore(ToyUpstream().eval(), "z")
            made.fill([utterances[i] for i in theirs], [seconds[i] for i in theirs])
            for shard in made.folder.glob("*.safetensors"):
                shard.rename(store.folder / shard.name)
            fcntl.flock(lock, fcntl.LOCK_UN)

        timer = threading.Timer(1.0, release)
        timer.start()
        store.fill(utterances, seconds)
        timer.join()
    assert store.upstream.utterances == len(utterances) - len(theirs)
    assert other.fill(utterances, seconds) == 0
