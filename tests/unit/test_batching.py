from __future__ import annotations

from itertools import chain, islice, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.engine.batching import EvaluationBatches, TrainingBatches


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
