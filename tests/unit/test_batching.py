from __future__ import annotations

from itertools import islice

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from benchmark.batching import EvaluationBatches, TrainingBatches


@given(size=st.integers(1, 40), batch=st.integers(1, 12), seed=st.integers(0, 5), start=st.integers(0, 30))
def test_a_resumed_stream_is_the_rest_of_the_whole(size: int, batch: int, seed: int, start: int) -> None:
    whole = list(islice(TrainingBatches(size, batch, seed=seed), start + 5))
    rest = list(islice(TrainingBatches(size, batch, seed=seed, start=start), 5))
    assert rest == whole[start:]


@given(size=st.integers(1, 40), batch=st.integers(1, 12), world=st.integers(1, 4))
def test_processes_share_the_stream_of_one(size: int, batch: int, world: int) -> None:
    alone = list(islice(TrainingBatches(size, batch, seed=0), 3 * world))
    shared = [list(islice(TrainingBatches(size, batch, seed=0, rank=rank, world=world), 3)) for rank in range(world)]
    assert [shared[number % world][number // world] for number in range(3 * world)] == alone


@given(size=st.integers(1, 40), batch=st.integers(1, 12))
def test_each_epoch_has_every_utterance_once(size: int, batch: int) -> None:
    batches = islice(TrainingBatches(size, batch, seed=1), -(-3 * size // batch))
    stream = [item for one in batches for item in one][: 3 * size]
    for epoch in range(3):
        of_epoch = [index for number, index in stream if number == epoch]
        assert sorted(of_epoch) == list(range(size))
        assert all(len(one) == batch for one in islice(TrainingBatches(size, batch, seed=1), 4))


def test_epochs_and_seeds_are_shuffled_differently() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return [index for _, index in next(iter(TrainingBatches(100, 100, seed=seed, start=epoch)))]

    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


@given(seconds=st.lists(st.floats(0.1, 20), min_size=1, max_size=30), batch=st.integers(1, 7), world=st.integers(1, 3))
def test_evaluation_takes_each_utterance_once_longest_first(seconds: list[float], batch: int, world: int) -> None:
    shares = [list(EvaluationBatches(np.array(seconds), batch, rank=rank, world=world)) for rank in range(world)]
    taken = [index for share in shares for one in share for _, index in one]
    assert sorted(taken) == list(range(len(seconds)))
    alone = [seconds[index] for one in EvaluationBatches(np.array(seconds), batch) for _, index in one]
    assert alone == sorted(seconds, reverse=True)
