"""Frozen hidden states on disk: the upstream runs once over an utterance, whatever is trained on it how often.

What is kept of an utterance is each state's frames in float16 or, where the head asks for no more
(:attr:`benchmark.interfaces.Head.mean_suffices`), each state's mean over time in float32, which is exact: a linear map
and a weighted sum commute with a mean. The key of an utterance is a hash of the audio file's place, size and times of
change and of the stretch; its store, a hash of the upstream's weights and options. All runs share the stores, also at
the same time: locks keep two processes from running over the same utterance. The files are those of
:mod:`benchmark.engine.feature_shards`.

Whole utterances only: the states of a crop are not a crop of the states.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext, suppress
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from filelock import Timeout
from torch import Tensor
from tqdm import tqdm

from benchmark.engine import batching, feature_shards
from benchmark.engine.feature_shards import Shard, Unreadable
from benchmark.errors import BenchmarkError
from benchmark.files import cache_dir, locked
from benchmark.interfaces import Batch, HiddenStates, Upstream, Utterance
from benchmark.memory import remembered, stamp

log = logging.getLogger("wavbench")

VERSION = 4
"""Of what is kept: raise it when the states of an upstream, or their form, change."""
LARGEST_HALF = torch.finfo(torch.float16).max
SHARD_BYTES = 2**26
SHARD_SECONDS = 20.0
"""A shard is written when it is this large, or when this long has passed: what a kill may cost."""
SHARDS_AT_ONCE = 16
"""Shards that are checked before the outcome is remembered for other processes."""
BATCH_SECONDS = 160.0
"""Audio of a batch on a GPU. On a CPU, utterances are faster one by one."""


def identity(weights: str | None, name: str, options: Mapping[str, Any], *more: str) -> str:
    """What tells an upstream's states from another's, for :class:`FeatureStore`.

    Args:
        weights: digest of its weights.
        name: of the registry.
        options: that it was loaded with.
        more: a regime that may have changed it; a precision other than float32.
    """
    return repr((weights, name, dict(options), *more))


class FeatureStore:
    """The states of one upstream.

    Args:
        upstream: in evaluation mode.
        identity: what tells its states from another's: :func:`identity`.
        means: keep means over time instead of frames.
        normalize: means are of states normalised over their features, as the featurizer would have.
        limit: bytes that all stores together may take; those used longest ago make room.
        folder: of all stores; ``None``: ``features`` in the cache folder.
        autocast: the context of forward passes.
    """

    def __init__(
        self,
        upstream: Upstream,
        identity: str,
        *,
        means: bool = False,
        normalize: bool = False,
        limit: float = float("inf"),
        folder: Path | None = None,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.upstream, self.means, self.normalize, self.limit = upstream, means, normalize and means, limit
        self.kind = ("means-normalized" if self.normalize else "means") if means else "frames"
        self.num_states, self.sample_rate = upstream.num_states, upstream.sample_rate
        self.root = (folder or cache_dir() / "features").absolute()
        self.folder = self.root / hashlib.sha256(f"{VERSION} {identity}".encode()).hexdigest()[:16] / self.kind
        self._autocast = autocast
        self._shards: dict[Path, Shard] = {}
        self._places: dict[str, tuple[Path, int, int]] = {}
        self._keys: dict[tuple[str, float, float | None], str] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes read hidden states: they need no model, and look at the shards themselves."""
        blank: dict[str, Any] = {"upstream": None, "_autocast": None, "_shards": {}, "_places": {}, "_keys": {}}
        return self.__dict__ | blank

    def key(self, utterance: Utterance) -> str:
        """Of an utterance, as long as its file does not change."""
        where = (os.path.abspath(utterance.path), *stamp(utterance.path), utterance.start, utterance.duration)
        return hashlib.sha256(repr(where).encode()).hexdigest()[:32]

    def missing(self, utterances: Sequence[Utterance]) -> list[int]:
        """Indices of the utterances that are not there yet."""
        self._scan()
        self._keys.update({utterance.place: self.key(utterance) for utterance in utterances})
        return [i for i, utterance in enumerate(utterances) if self._keys[utterance.place] not in self._places]

    def lacks(self, utterances: Sequence[Utterance], seconds: Sequence[float]) -> float:
        """Bytes by which the store would grow over its limit, even if others made room; 0: it fits."""
        missing = self.missing(utterances)
        if not missing or self.limit == float("inf"):
            return 0.0
        upstream = self.upstream
        rows = sum(seconds[i] for i in missing) * self.sample_rate / upstream.frame_shift
        wanted = (4 * len(missing) if self.means else 2 * rows) * upstream.num_states * upstream.hidden_size
        return feature_shards.make_room(self.root, wanted, self.limit, self.folder)

    def fill(
        self,
        utterances: Sequence[Utterance],
        seconds: Sequence[float],
        *,
        quiet: bool = False,
        workers: int = 0,
        should_stop: Callable[[], bool] = lambda: False,
        share: tuple[int, int] = (0, 1),
    ) -> float:
        """Run the upstream over those that are not there yet; returns the seconds of audio that it ran over.

        Args:
            utterances: whole or stretches of files.
            seconds: the duration of each.
            quiet: no progress bar.
            workers: processes that read audio.
            should_stop: asked after each batch; when true, the rest is left for another time.
            share: (i, n): this is the i-th of n processes, counted from 0, which fill the store together: it begins
                with its part, and afterwards helps with the others.

        Raises:
            BenchmarkError: unreadable audio; a full disk. What was computed before is kept.
        """
        missing = self.missing(utterances)
        if not missing:
            return 0.0
        self.folder.mkdir(parents=True, exist_ok=True)
        feature_shards.describe(self.folder, self._about())
        groups: dict[str, list[int]] = defaultdict(list)
        for i in missing:
            groups[self.key(utterances[i])[0]].append(i)
        waiting = list(groups)
        Random(os.getpid()).shuffle(waiting)  # each process has its own order, so that they share the work
        used = 0.0
        progress = tqdm(total=len(missing), desc="extracting features", unit="utterance", leave=False, disable=quiet)
        with progress:
            for patient in (False, True):
                turn = waiting if patient else [group for group in waiting if int(group, 16) % share[1] == share[0]]
                for taken in [turn] if self._batch_seconds and not patient else [[group] for group in turn]:
                    with ExitStack() as stack:
                        mine = [group for group in taken if self._take(group, stack, patient)]
                        waiting = [group for group in waiting if group not in mine]
                        chosen = [i for group in mine for i in groups[group]]
                        todo = [chosen[i] for i in self.missing([utterances[i] for i in chosen])]  # others were faster
                        progress.update(len(chosen) - len(todo))
                        there = [utterances[i] for i in todo], [seconds[i] for i in todo]
                        batches = stack.enter_context(closing(self._extract(*there, workers)))
                        for done in batches:
                            used += sum(seconds[todo[i]] for i in done)
                            progress.update(len(done))
                            if should_stop():
                                return used
        return used

    def _take(self, group: str, stack: ExitStack, patient: bool) -> bool:
        """Lock a group of keys; false where another process is at it."""
        try:
            stack.enter_context(locked(self.folder / f"{group}.lock", timeout=-1 if patient else 0))
        except Timeout:
            return False
        return True

    def _about(self) -> dict[str, Any]:
        info = self.upstream.info if hasattr(self.upstream, "info") else {}
        return {
            "upstream": info.get("name"),
            "checkpoint": info.get("checkpoint"),
            "kind": self.kind,
            "states": self.num_states,
            "hidden_size": self.upstream.hidden_size,
        }

    @property
    def _device(self) -> torch.device:
        return next((parameter.device for parameter in self.upstream.parameters()), torch.device("cpu"))

    @property
    def _batch_seconds(self) -> float:
        """Audio of a batch; 0: utterances one by one."""
        return self.upstream.batch_seconds or (BATCH_SECONDS if self._on_gpu() else 0.0)

    def _on_gpu(self) -> bool:
        return self._device.type == "cuda"

    def _extract(
        self, utterances: Sequence[Utterance], seconds: Sequence[float], workers: int
    ) -> Generator[list[int], None, None]:
        """Run the upstream over utterances and write shards; yields the indices of each batch."""
        batches = SizedBatches(seconds, self._batch_seconds)
        index = {utterance.id: i for i, utterance in enumerate(utterances)}
        keys = [self.key(utterance) for utterance in utterances]  # before they are read: files may change later
        writer = _Writer(self)
        data = batching.AudioBatches(utterances, self.sample_rate)
        try:
            for batch in batching.load(data, batches, workers=min(workers, len(batches))):
                done = [index[name] for name in batch.ids]
                writer.add([keys[i] for i in done], *self._compute(batch))
                yield done
        finally:
            writer.flush()

    @torch.inference_mode()
    def _compute(self, batch: Batch) -> tuple[dict[str, Tensor], list[int]]:
        """(row, …) tensors of a batch as they are kept, on the CPU, and the rows of each utterance."""
        device = self._device
        with self._autocast():
            hidden = self.upstream(batch.wavs.to(device, non_blocking=True), batch.wav_lens.to(device))
        lengths = hidden.lengths.tolist()
        if not self.means:
            states = torch.stack(
                [torch.cat([state[i, :n] for i, n in enumerate(lengths)]).float() for state in hidden.states]
            )  # (state, row, dim)
            del hidden  # its states may be large
            if float(states.abs().amax()) <= LARGEST_HALF:
                states = states.half()
            states = states.cpu()
            return {str(k): states[k] for k in range(len(states))}, lengths
        found = [self._means([state[i, :n].float() for state in hidden.states]) for i, n in enumerate(lengths)]
        return {name: torch.stack([one[name] for one in found]).cpu() for name in found[0]}, [1] * len(found)

    def _means(self, states: list[Tensor]) -> dict[str, Tensor]:
        """(frame, dim) states of one utterance -> what heads and layer statistics need of them."""
        stacked = torch.stack(states)  # (state, frame, dim)
        norms = stacked.norm(dim=-1).sum(1)
        if self.normalize:
            stacked = torch.nn.functional.layer_norm(stacked, stacked.shape[-1:])
        return {
            "means": stacked.mean(1),
            "norms": norms,
            "gram": torch.einsum("kfd,lfd->kl", stacked, stacked),
            "frames": torch.tensor(float(stacked.shape[1])),
        }

    def load(self, utterances: Sequence[Utterance], keep: Sequence[int] | None) -> HiddenStates:
        """The states ``keep`` (all: ``None``) of utterances that are in the store, float32, padded with zeros.

        Raises:
            BenchmarkError: they are not there, or cannot be read.
        """
        kept = range(self.num_states) if keep is None else keep
        places = [self._place(utterance) for utterance in utterances]

        def rows(name: str) -> list[Tensor]:
            return [self._shard(path)[name][first : first + count].float() for path, first, count in places]

        if self.means:
            means = torch.cat(rows("means"))  # (utterance, state, dim)
            summed = ("norms", "gram", "frames") if keep is None else ()
            return HiddenStates(
                states=[means[:, k : k + 1] for k in kept],
                lengths=torch.ones(len(means), dtype=torch.int64),
                **{name: torch.cat(rows(name)) for name in summed},
            )
        pad = torch.nn.utils.rnn.pad_sequence
        return HiddenStates(
            states=[pad(rows(str(k)), batch_first=True) for k in kept],
            lengths=torch.tensor([count for _, _, count in places]),
        )

    def _place(self, utterance: Utterance) -> tuple[Path, int, int]:
        if utterance.place not in self._keys or self._keys[utterance.place] not in self._places:
            self._keys[utterance.place] = self.key(utterance)
            if self._keys[utterance.place] not in self._places:
                self._scan()
        place = self._places.get(self._keys[utterance.place])
        if place is None:
            raise BenchmarkError(f"the features of utterance {utterance.id} are not in {self.folder}; run again")
        return place

    def _shard(self, path: Path) -> Shard:
        if path not in self._shards:
            self._shards[path] = Shard(path)
        return self._shards[path]

    def _scan(self) -> None:
        """Look for shards that were written since; one that is damaged is removed, one that cannot be read now is not,
        and the utterances of both will be computed again.

        The numbers of a shard are checked once on a machine, until its file changes.
        """
        new = [path for path in self.folder.glob("*.safetensors") if path not in self._shards]
        for first in range(0, len(new), SHARDS_AT_ONCE):
            paths = new[first : first + SHARDS_AT_ONCE]
            intact = remembered("intact shard", map(str, paths), feature_shards.intact)
            for path in paths:
                try:
                    shard = Shard(path)
                    if not intact.get(str(path)):
                        shard.check()
                    self._add(shard)
                except Unreadable as error:
                    log.warning("%s; its utterances are computed again", error)
                except BenchmarkError as error:
                    log.warning("%s; it is removed, and its utterances are computed again", error)
                    with suppress(OSError):
                        path.unlink()

    def _add(self, shard: Shard) -> None:
        self._shards[shard.path] = shard
        self._places.update({key: (shard.path, first, rows) for key, (first, rows) in shard.entries.items()})


class SizedBatches(torch.utils.data.Sampler[list[tuple[int, int]]]):
    """Utterances by length, longest first, in batches of at most so many seconds; of one utterance at least."""

    def __init__(self, seconds: Sequence[float], most: float) -> None:
        self.batches: list[list[tuple[int, int]]] = []
        total = float("inf")
        for i in np.argsort(-np.asarray(seconds), kind="stable").tolist():
            if total + seconds[i] > most:
                self.batches.append([])
                total = 0.0
            self.batches[-1].append((0, i))
            total += seconds[i]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _Writer:
    """Collects what is computed into shards."""

    def __init__(self, store: FeatureStore) -> None:
        self.store = store
        self._clear()

    def _clear(self) -> None:
        self.parts: dict[str, list[Tensor]] = defaultdict(list)
        self.entries: dict[str, tuple[int, int]] = {}
        self.rows, self.size, self.since = 0, 0, time.monotonic()

    def add(self, keys: Sequence[str], tensors: Mapping[str, Tensor], lengths: Sequence[int]) -> None:
        """Rows of some utterances, one after the other."""
        for name, tensor in tensors.items():
            self.parts[name].append(tensor)
            self.size += tensor.numel() * tensor.element_size()
        for key, length in zip(keys, lengths, strict=True):
            self.entries[key] = (self.rows, length)
            self.rows += length
        if self.size >= SHARD_BYTES or time.monotonic() - self.since >= SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write a shard of what there is."""
        if self.entries:
            joined = {}
            for name, parts in self.parts.items():
                whole = torch.float32 if any(part.dtype == torch.float32 for part in parts) else parts[0].dtype
                joined[name] = torch.cat([part.to(whole) for part in parts])
            self.store._add(Shard(feature_shards.write(self.store.folder, joined, self.entries)))
        self._clear()
