"""Utterances -> batches: which ones, in which order, collated how.

Everything random here is a function of (seed, epoch, utterance) or (seed, position), never of a generator's history:
a run that resumes at update N meets the same batches as one that was never stopped, whatever the number of workers.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from benchmark import audio
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Batch, Seconds, Utterance


class TrainingBatches(Sampler[list[tuple[int, int]]]):
    """An endless stream of batches of (epoch, index): each epoch is a fresh permutation, batches are always full.

    Args:
        size: utterances in the split.
        batch_size: utterances a batch.
        seed: of the permutations.
        start: batches of this process that were already consumed.
        rank, world: this process takes every ``world``-th batch.
    """

    def __init__(self, size: int, batch_size: int, *, seed: int, start: int = 0, rank: int = 0, world: int = 1) -> None:
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.start, self.rank, self.world = start, rank, world

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        orders: dict[int, np.ndarray] = {}
        number = self.start
        while True:
            first = (number * self.world + self.rank) * self.batch_size
            batch = []
            for position in range(first, first + self.batch_size):
                epoch, place = divmod(position, self.size)
                if epoch not in orders:
                    orders = {key: order for key, order in orders.items() if key >= epoch - 1}
                    orders[epoch] = np.random.default_rng([self.seed, epoch]).permutation(self.size)
                batch.append((epoch, int(orders[epoch][place])))
            yield batch
            number += 1


class EvaluationBatches(Sampler[list[tuple[int, int]]]):
    """Each utterance once, longest first, so that a batch that does not fit into memory is met at once."""

    def __init__(self, seconds: np.ndarray, batch_size: int, *, rank: int = 0, world: int = 1) -> None:
        order = np.argsort(-seconds, kind="stable")
        batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
        self.batches = [[(0, int(index)) for index in batch] for batch in batches[rank::world]]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _Audio(Dataset[Any]):
    """(epoch, index) -> (index, waveform), or the error that reading it gave (workers would mangle a raised one)."""

    def __init__(self, utterances: Sequence[Utterance], sample_rate: int, crop: Seconds | None, seed: int) -> None:
        self.utterances, self.sample_rate, self.crop, self.seed = utterances, sample_rate, crop, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, torch.Tensor] | BenchmarkError:
        epoch, index = key
        crop = None
        if self.crop is not None:
            crop = (self.crop, np.random.default_rng([self.seed, epoch, index]).random())
        try:
            return index, audio.load(self.utterances[index], self.sample_rate, crop=crop)
        except BenchmarkError as error:
            return error


def _leave_signals(_: int) -> None:
    """A worker leaves Ctrl-C to the main process, and goes when it is told to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def loader(
    utterances: Sequence[Utterance],
    batches: Sampler[list[tuple[int, int]]],
    *,
    sample_rate: int,
    crop: Seconds | None = None,
    seed: int = 0,
    targets: Callable[[Sequence[Utterance]], Any] | None = None,
    workers: int = 0,
) -> Iterator[Batch]:
    """Batches of audio, with targets where ``targets`` is given. Raises what reading an utterance raised."""

    def collate(items: list[tuple[int, torch.Tensor] | BenchmarkError]) -> Batch | BenchmarkError:
        for item in items:
            if isinstance(item, BenchmarkError):
                return item
        read = [item for item in items if not isinstance(item, BenchmarkError)]
        chosen = [utterances[index] for index, _ in read]
        return Batch(
            wavs=torch.nn.utils.rnn.pad_sequence([wav for _, wav in read], batch_first=True),
            wav_lens=torch.tensor([len(wav) for _, wav in read]),
            targets=None if targets is None else targets(chosen),
            ids=[utterance.id for utterance in chosen],
        )

    data: DataLoader[Any] = DataLoader(
        _Audio(utterances, sample_rate, crop, seed),
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        worker_init_fn=_leave_signals,
        generator=torch.Generator().manual_seed(seed),  # else it would draw from the global generator
    )
    for batch in data:
        if isinstance(batch, BenchmarkError):
            raise batch
        yield batch
