"""Utterances -> batches: which ones, in which order, collated how.

Everything random here is a function of (seed, epoch, utterance) or (seed, position), never of a generator's history:
a run that resumes at update N meets the same batches as one that was never stopped, whatever the number of workers.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from benchmark.data import audio
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Batch, Seconds, Utterance

if TYPE_CHECKING:
    from benchmark.engine.feature_store import FeatureStore


class TrainingBatches(Sampler[list[tuple[int, int]]]):
    """An endless stream of batches of (epoch, index): each epoch is a fresh permutation, batches are always full.

    Args:
        seconds: duration of each utterance of the split.
        batch_size: utterances a batch.
        seed: of the permutations.
        bucket: sort by duration among the utterances of this many batches, and shuffle these batches; 0: do not.
        start: batches that were already consumed.
    """

    def __init__(
        self,
        seconds: Sequence[Seconds] | np.ndarray,
        batch_size: int,
        *,
        seed: int,
        bucket: int = 0,
        start: int = 0,
    ) -> None:
        self.seconds, self.batch_size, self.seed = np.asarray(seconds), batch_size, seed
        self.window, self.start = max(bucket, 1), start
        self._orders: dict[int, np.ndarray] = {}

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        number, window, batches = self.start, -1, []
        while True:
            if number // self.window != window:
                window = number // self.window
                batches = self._window(window)
            yield batches[number % self.window]
            number += 1

    def _window(self, window: int) -> list[list[tuple[int, int]]]:
        """The batches number ``window * self.window`` and the following ones."""
        count = self.window * self.batch_size
        keys = [self._place(position) for position in range(window * count, (window + 1) * count)]
        if self.window == 1:
            return [keys]
        keys.sort(key=lambda key: self.seconds[key[1]])
        batches = [keys[first : first + self.batch_size] for first in range(0, count, self.batch_size)]
        return [batches[i] for i in np.random.default_rng([self.seed, window, 1]).permutation(self.window)]

    def _place(self, position: int) -> tuple[int, int]:
        """(epoch, index) of a place in the endless stream of utterances."""
        epoch, place = divmod(position, len(self.seconds))
        if epoch not in self._orders:
            self._orders = {key: order for key, order in self._orders.items() if key == epoch - 1}
            self._orders[epoch] = np.random.default_rng([self.seed, epoch]).permutation(len(self.seconds))
        return epoch, int(self._orders[epoch][place])


class EvaluationBatches(Sampler[list[tuple[int, int]]]):
    """Each utterance once, longest first, so that a batch that does not fit into memory is met at once."""

    def __init__(self, seconds: Sequence[Seconds] | np.ndarray, batch_size: int) -> None:
        order = np.argsort(-np.asarray(seconds), kind="stable")
        batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
        self.batches = [[(0, int(index)) for index in batch] for batch in batches]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _Indices(Dataset[Any]):
    """(epoch, index) -> index: what is read, collating says."""

    def __getitem__(self, key: tuple[int, int]) -> int:
        return key[1]


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


def stored(
    utterances: Sequence[Utterance],
    batches: Sampler[list[tuple[int, int]]],
    store: FeatureStore,
    *,
    keep: Sequence[int] | None,
    seconds: Mapping[str, Seconds],
    targets: Callable[[Sequence[Utterance]], Any] | None = None,
    workers: int = 0,
) -> Iterator[Batch]:
    """As :func:`loader`, for utterances whose states lie in a feature store."""
    rate = store.upstream.sample_rate

    def collate(items: list[int]) -> Batch | BenchmarkError:
        chosen = [utterances[index] for index in items]
        try:
            hidden = store.load(chosen, keep)
        except BenchmarkError as error:
            return error
        return Batch(
            wavs=torch.empty(len(chosen), 0),
            wav_lens=torch.tensor([int(seconds[utterance.id] * rate) for utterance in chosen]),
            targets=None if targets is None else targets(chosen),
            ids=[utterance.id for utterance in chosen],
            hidden=hidden,
        )

    yield from _batches(_Indices(), batches, collate, workers=workers, seed=0)


def _batches(
    data: Dataset[Any],
    batches: Sampler[list[tuple[int, int]]],
    collate: Callable[[Any], Any],
    *,
    workers: int,
    seed: int,
) -> Iterator[Batch]:
    loaded: DataLoader[Any] = DataLoader(
        data,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        worker_init_fn=_leave_signals,
        generator=torch.Generator().manual_seed(seed),  # else it would draw from the global generator
    )
    for batch in loaded:
        if isinstance(batch, BenchmarkError):
            raise batch
        yield batch


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

    data = _Audio(utterances, sample_rate, crop, seed)
    yield from _batches(data, batches, collate, workers=workers, seed=seed)
