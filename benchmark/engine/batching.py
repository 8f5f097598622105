"""Utterances -> batches: which ones, in which order, collated how.

Everything random here is a function of (seed, epoch, utterance) or (seed, position), never of a generator's history:
a run that resumes at update N meets the same batches as one that was never stopped, whatever the number of workers.
"""

from __future__ import annotations

import itertools
import pickle
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from benchmark import registry
from benchmark.data import audio
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Batch, Seconds, Utterance

if TYPE_CHECKING:
    from benchmark.engine.feature_store import FeatureStore


Targets = Callable[[Sequence[Utterance]], Any]
"""Makes the targets of the utterances of a batch."""


class TrainingBatches(Sampler[list[tuple[int, int]]]):
    """An endless stream of batches of (epoch, index): each epoch is a fresh permutation.

    Batches by count are always full. A batch by duration takes what comes until the next utterance would exceed it;
    what is left at the end of a bucket, or without buckets at the end of an epoch, is a smaller batch.

    Args:
        seconds: duration of each utterance of the split.
        batch_size: utterances a batch.
        seed: of the permutations.
        bucket: sort by duration among the utterances of this many batches, and shuffle these batches; 0: do not.
        start: batches that were already consumed.
        chances: (utterance,) draw with these relative chances, with replacement; ``None``: each once an epoch.
        batch_seconds: instead of ``batch_size``, at most this much audio a batch, but one utterance at least.
    """

    def __init__(
        self,
        seconds: Sequence[Seconds] | np.ndarray,
        batch_size: int,
        *,
        seed: int,
        bucket: int = 0,
        start: int = 0,
        chances: Sequence[float] | None = None,
        batch_seconds: Seconds | None = None,
    ) -> None:
        self.seconds, self.batch_size, self.seed = np.asarray(seconds), batch_size, seed
        self.batch_seconds = batch_seconds
        self.chances = None if chances is None else np.asarray(chances) / np.sum(chances)
        self.window, self.start = max(bucket, 1), start
        self._orders: dict[int, np.ndarray] = {}

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        if self.batch_seconds is not None:
            yield from islice(self._by_duration(self.batch_seconds), self.start, None)
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
        keys = self._keys(window, count)
        batches = [keys[first : first + self.batch_size] for first in range(0, count, self.batch_size)]
        return self._shuffled(batches, window)

    def _by_duration(self, limit: Seconds) -> Iterator[list[tuple[int, int]]]:
        """All batches. How many there are before one follows from the durations before it, so they are all made."""
        count = len(self.seconds)
        if self.window > 1:
            count = max(1, round(self.window * limit / float(np.mean(self.seconds))))
        for window in itertools.count():
            batches: list[list[tuple[int, int]]] = []
            total = 0.0
            for key in self._keys(window, count):
                total += float(self.seconds[key[1]])
                if not batches or total > limit:
                    batches.append([])
                    total = float(self.seconds[key[1]])
                batches[-1].append(key)
            yield from self._shuffled(batches, window)

    def _keys(self, window: int, count: int) -> list[tuple[int, int]]:
        """The ``count`` utterances of a window; with buckets, by duration."""
        keys = [self._place(position) for position in range(window * count, (window + 1) * count)]
        return sorted(keys, key=lambda key: self.seconds[key[1]]) if self.window > 1 else keys

    def _shuffled(self, batches: list[list[tuple[int, int]]], window: int) -> list[list[tuple[int, int]]]:
        if self.window == 1:
            return batches
        return [batches[i] for i in np.random.default_rng([self.seed, window, 1]).permutation(len(batches))]

    def _place(self, position: int) -> tuple[int, int]:
        """(epoch, index) of a place in the endless stream of utterances."""
        epoch, place = divmod(position, len(self.seconds))
        if epoch not in self._orders:
            self._orders = {key: order for key, order in self._orders.items() if key == epoch - 1}
            rng, count = np.random.default_rng([self.seed, epoch]), len(self.seconds)
            drawn = rng.permutation(count) if self.chances is None else rng.choice(count, count, p=self.chances)
            self._orders[epoch] = drawn
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


Keys = list[tuple[int, int]]
"""(epoch, index) of each utterance of a batch."""


class AudioBatches(Dataset[Any]):
    """Keys -> a batch of audio, or the error that reading it gave (worker processes would mangle a raised one).

    Args:
        utterances: of the split.
        sample_rate: Hz.
        crop: longer utterances are cropped at random to this many seconds; ``None``: they are not.
        seed: of the crops.
        targets: makes the targets of a batch; ``None``: there are none.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        sample_rate: int,
        *,
        crop: Seconds | None = None,
        seed: int = 0,
        targets: Targets | None = None,
    ) -> None:
        self.utterances, self.sample_rate, self.crop, self.seed = utterances, sample_rate, crop, seed
        self.targets = targets

    def __getitem__(self, keys: Keys) -> Batch | BenchmarkError:
        chosen = [self.utterances[index] for _, index in keys]
        try:
            wavs = [self._load(*key) for key in keys]
        except BenchmarkError as error:
            return error
        return Batch(
            wavs=torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True),
            wav_lens=torch.tensor([len(wav) for wav in wavs]),
            targets=None if self.targets is None else self.targets(chosen),
            ids=[utterance.id for utterance in chosen],
        )

    def _load(self, epoch: int, index: int) -> torch.Tensor:
        crop = None
        if self.crop is not None:
            crop = (self.crop, np.random.default_rng([self.seed, epoch, index]).random())
        return audio.load(self.utterances[index], self.sample_rate, crop=crop)


class StoredBatches(Dataset[Any]):
    """Keys -> a batch of hidden states from a feature store, or the error that reading them gave.

    Args:
        utterances: of the split, all in the store.
        store: the feature store.
        keep: which layers; ``None`` for all.
        seconds: utterance id -> duration.
        targets: makes the targets of a batch; ``None``: there are none.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        store: FeatureStore,
        *,
        keep: Sequence[int] | None,
        seconds: Mapping[str, Seconds],
        targets: Targets | None = None,
    ) -> None:
        self.utterances, self.store, self.keep, self.seconds, self.targets = utterances, store, keep, seconds, targets

    def __getitem__(self, keys: Keys) -> Batch | BenchmarkError:
        chosen = [self.utterances[index] for _, index in keys]
        try:
            hidden = self.store.load(chosen, self.keep)
        except BenchmarkError as error:
            return error
        samples = audio.samples([self.seconds[utterance.id] for utterance in chosen], self.store.sample_rate)
        return Batch(
            wavs=torch.empty(len(chosen), 0),
            wav_lens=torch.from_numpy(samples),
            targets=None if self.targets is None else self.targets(chosen),
            ids=[utterance.id for utterance in chosen],
            hidden=hidden,
        )


class _Portable(Dataset[Any]):
    """Data whose classes may come from plug-in files, which a spawned process runs before it unpickles them."""

    def __init__(self, data: AudioBatches | StoredBatches) -> None:
        self.data = data

    def __getitem__(self, keys: Keys) -> Batch | BenchmarkError:
        return self.data[keys]

    def __reduce__(self) -> Any:
        return _unpack, (registry.loaded_plugins(), pickle.dumps(self.data))


def _unpack(plugins: list[str], pickled: bytes) -> _Portable:
    registry.load_plugin(*plugins)
    return _Portable(pickle.loads(pickled))


def load(data: AudioBatches | StoredBatches, batches: Sampler[Keys], *, workers: int = 0) -> Iterator[Batch]:
    """The batches of a sampler, read by worker processes where there are any, whatever their start method.

    Raises:
        BenchmarkError: what reading an utterance raised.
    """
    loader: DataLoader[Any] = DataLoader(
        _Portable(data),
        sampler=batches,
        batch_size=None,  # the sampler gives whole batches
        collate_fn=_as_it_is,
        num_workers=workers,
        worker_init_fn=_leave_signals,
        generator=torch.Generator().manual_seed(0),  # else it would draw from the global generator
        pin_memory=torch.cuda.is_available(),
    )
    for batch in loader:
        if isinstance(batch, BenchmarkError):
            raise batch
        yield batch


def _as_it_is(batch: Any) -> Any:
    return batch


def _leave_signals(_: int) -> None:
    """A worker leaves Ctrl-C to the main process, and ends when it is told to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def loader(
    utterances: Sequence[Utterance], batches: Sampler[Keys], *, sample_rate: int, workers: int = 0
) -> Iterator[Batch]:
    """Batches of whole utterances without targets; see :func:`load`."""
    yield from load(AudioBatches(utterances, sample_rate), batches, workers=workers)
