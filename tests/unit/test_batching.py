from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterator
from itertools import chain, islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import ToyConfig, ToyTask, ToyUpstream, toy_corpus

from benchmark.engine.batching import AudioBatches, EvaluationBatches, StoredBatches, TrainingBatches, load
from benchmark.engine.feature_store import FeatureStore


def lengths(size: int) -> list[float]:
    return np.random.default_rng(size).uniform(1, 10, size).tolist()


@given(size=st.integers(1, 40), batch=st.integers(1, 12), seed=st.integers(0, 5), start=st.integers(0, 30))
@pytest.mark.parametrize("bucket", [0, 3])
def test_a_resumed_stream_is_the_rest_of_the_whole(size: int, batch: int, seed: int, start: int, bucket: int) -> None:
    seconds = lengths(size)
    whole = list(islice(TrainingBatches(seconds, batch, seed=seed, bucket=bucket), start + 5))
    rest = list(islice(TrainingBatches(seconds, batch, seed=seed, bucket=bucket, start=start), 5))
    assert rest == whole[start:]


@given(size=st.integers(1, 40), batch=st.integers(1, 12))
def test_each_epoch_has_every_utterance_once(size: int, batch: int) -> None:
    batches = islice(TrainingBatches([1.0] * size, batch, seed=1), -(-3 * size // batch))
    stream = [item for one in batches for item in one][: 3 * size]
    for epoch in range(3):
        of_epoch = [index for number, index in stream if number == epoch]
        assert sorted(of_epoch) == list(range(size))
        assert all(len(one) == batch for one in islice(TrainingBatches([1.0] * size, batch, seed=1), 4))


@given(size=st.integers(1, 60), batch=st.integers(1, 8), bucket=st.integers(2, 5))
def test_buckets_hold_the_same_utterances_sorted_by_length(size: int, batch: int, bucket: int) -> None:
    seconds = lengths(size)
    plain = list(islice(TrainingBatches(seconds, batch, seed=2), 3 * bucket))
    sorted_ = list(islice(TrainingBatches(seconds, batch, seed=2, bucket=bucket), 3 * bucket))
    for first in range(0, 3 * bucket, bucket):  # window by window: the same utterances, no batch inside another's range
        window = sorted_[first : first + bucket]
        assert sorted(chain(*window)) == sorted(chain(*plain[first : first + bucket]))
        ranges = sorted((min(seconds[i] for _, i in one), max(seconds[i] for _, i in one)) for one in window)
        assert all(before[1] <= after[0] for before, after in pairwise(ranges))


@given(size=st.integers(1, 40), limit=st.floats(2, 60), seed=st.integers(0, 5), start=st.integers(0, 30))
@pytest.mark.parametrize("bucket", [0, 3])
@pytest.mark.parametrize("drawn", [False, True])
def test_by_duration_a_resumed_stream_is_the_rest_of_the_whole(
    size: int, limit: float, seed: int, start: int, bucket: int, drawn: bool
) -> None:
    chances = [1.0 + i for i in range(size)] if drawn else None

    def stream(start: int) -> TrainingBatches:
        return TrainingBatches(
            lengths(size), 8, seed=seed, bucket=bucket, start=start, chances=chances, batch_seconds=limit
        )

    assert list(islice(stream(start), 5)) == list(islice(stream(0), start + 5))[start:]


@given(size=st.integers(1, 40), limit=st.floats(2, 60))
@pytest.mark.parametrize("bucket", [0, 4])
def test_batches_by_duration_are_as_full_as_they_can_be(size: int, limit: float, bucket: int) -> None:
    seconds = lengths(size)
    batches = list(islice(TrainingBatches(seconds, 8, seed=1, bucket=bucket, batch_seconds=limit), 60))
    totals = [sum(seconds[index] for _, index in batch) for batch in batches]
    assert all(total <= limit or len(batch) == 1 for total, batch in zip(totals, batches, strict=True))
    if bucket:
        assert all(batch == sorted(batch, key=lambda key: seconds[key[1]]) for batch in batches)
        return
    stream = [key for batch in batches for key in batch]
    assert stream == [key for batch in islice(TrainingBatches(seconds, 1, seed=1), len(stream)) for key in batch]
    for (total, batch), following in zip(zip(totals, batches, strict=True), batches[1:], strict=False):
        if batch[0][0] == following[0][0]:  # of one epoch: not one utterance more would have fitted
            assert total + seconds[following[0][1]] > limit


def test_buckets_by_duration_hold_about_as_many_batches_as_asked_for() -> None:
    """30 utterances of 2 s, 6.5 s a batch: a bucket of ten batches is 32 or 33 utterances, in 11 batches of 3."""
    batches = list(islice(TrainingBatches([2.0] * 30, 8, seed=1, bucket=10, batch_seconds=6.5), 22))
    assert sum(len(batch) for batch in batches) in (64, 66)
    assert sorted(map(len, batches))[2:] == [3] * 20


def test_the_batches_of_a_bucket_come_in_random_order() -> None:
    made = TrainingBatches(lengths(64), 4, seed=0, bucket=16)
    firsts = [[lengths(64)[one[0][1]] for one in window] for window in zip(*[iter(islice(made, 64))] * 16, strict=True)]
    assert all(first != sorted(first) for first in firsts)
    assert len({tuple(first) for first in firsts}) == 4


def test_epochs_and_seeds_are_shuffled_differently() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return [index for _, index in next(iter(TrainingBatches([1.0] * 100, 100, seed=seed, start=epoch)))]

    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


@given(seconds=st.lists(st.floats(0.1, 20), min_size=1, max_size=30), batch=st.integers(1, 7))
def test_evaluation_takes_each_utterance_once_longest_first(seconds: list[float], batch: int) -> None:
    taken = [index for items in EvaluationBatches(np.array(seconds), batch) for _, index in items]
    assert sorted(taken) == list(range(len(seconds)))
    assert [seconds[index] for index in taken] == sorted(seconds, reverse=True)


@pytest.fixture
def start_method(request: pytest.FixtureRequest) -> Iterator[str]:
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.medium  # spawned processes import torch
@pytest.mark.parametrize("start_method", multiprocessing.get_all_start_methods(), indirect=True)
def test_worker_processes_read_whatever_starts_them(start_method: str, tmp_path: Path) -> None:
    """macOS spawns, Python 3.14 forkserves; a worker gets the utterances and the store, and no model."""
    corpus = toy_corpus(tmp_path)
    utterances, seconds = corpus.splits["train"], {u.id: 0.1 for u in corpus.splits["train"]}
    task = ToyTask(ToyConfig(), ToyTask.split(ToyConfig(), corpus), seconds)
    upstream = ToyUpstream().eval()
    store = FeatureStore(upstream, "toy", folder=tmp_path / "features")
    store.fill(utterances, list(seconds.values()), quiet=True)
    kinds = (
        AudioBatches(utterances, 16000, crop=0.05, seed=1, targets=task.targets),
        StoredBatches(utterances, store, keep=None, seconds=seconds, targets=task.targets),
    )
    for data in kinds:
        batches = EvaluationBatches(list(seconds.values()), 4)
        here, there = (list(load(data, batches, workers=workers)) for workers in (0, 1))
        assert [batch.ids for batch in here] == [batch.ids for batch in there]
        for one, other in zip(here, there, strict=True):
            assert torch.equal(one.wavs, other.wavs)
            assert torch.equal(one.targets, other.targets)
            if one.hidden is not None and other.hidden is not None:
                assert all(map(torch.equal, one.hidden.states, other.hidden.states))
    assert len(pickle.dumps(kinds[1])) < 20_000
