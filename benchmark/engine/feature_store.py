"""Frozen hidden states on disk: the upstream runs once over an utterance, whatever is trained on it how often.

What is kept of an utterance is one safetensors file: each state's frames in float16 or, where the head asks for no more
(:attr:`benchmark.interfaces.Head.mean_suffices`), each state's mean over time in float32, which is exact: a linear map
and a weighted sum commute with a mean. A file's name is a hash of the audio file's place, size and time of change and
of the stretch; its folder, of the upstream's weights and options. All runs share the store, also at the same time: a
file is written as a whole or not at all, and locks keep two processes from running over the same utterance.

Whole utterances only: the states of a crop are not a crop of the states.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from benchmark.data import audio
from benchmark.errors import BenchmarkError
from benchmark.files import cache_dir, write_bytes
from benchmark.interfaces import HiddenStates, Upstream, Utterance

VERSION = 3
"""Of what is kept: raise it when the states of an upstream, or their form, change."""
LARGEST_HALF = torch.finfo(torch.float16).max


class FeatureStore:
    """The states of one upstream.

    Args:
        upstream: in evaluation mode.
        identity: what tells its states from another's: weights digest, name, options.
        means: keep means over time instead of frames.
        normalize: means are of states normalised over their features, as the featurizer would have.
        limit: bytes that all stores together may take; what is there already is never removed.
        folder: of all stores; ``None``: ``features`` in the cache folder.
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
    ) -> None:
        self.upstream, self.means, self.normalize, self.limit = upstream, means, normalize and means, limit
        kind = ("means-normalized" if self.normalize else "means") if means else "frames"
        self.num_states, self.sample_rate = upstream.num_states, upstream.sample_rate
        self.root = (folder or cache_dir() / "features").absolute()
        self.folder = self.root / hashlib.sha256(f"{VERSION} {identity}".encode()).hexdigest()[:16] / kind

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes read hidden states and need no model."""
        return self.__dict__ | {"upstream": None}

    def path(self, utterance: Utterance) -> Path:
        """Where the states of an utterance are or would be."""
        found = os.stat(utterance.path)
        key = (os.path.abspath(utterance.path), found.st_size, found.st_mtime_ns, utterance.start, utterance.duration)
        name = hashlib.sha256(repr(key).encode()).hexdigest()[:32]
        return self.folder / name[:2] / f"{name}.safetensors"

    def fill(
        self,
        utterances: Sequence[Utterance],
        seconds: Sequence[float],
        *,
        quiet: bool = False,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> float:
        """Run the upstream over those that are not there yet; returns the seconds of audio that it ran over.

        Args:
            utterances: whole or stretches of files.
            seconds: the duration of each.
            quiet: no progress bar.
            should_stop: asked after each utterance; when true, the rest is left for another time.

        Raises:
            BenchmarkError: unreadable audio, or the store would grow over its limit: it says by how much.
        """
        missing = [i for i, utterance in enumerate(utterances) if not self.path(utterance).exists()]
        if not missing:
            return 0.0
        self._check_limit([seconds[i] for i in missing])
        shards: dict[Path, list[int]] = defaultdict(list)
        for i in missing:
            shards[self.path(utterances[i]).parent].append(i)
        progress = tqdm(total=len(missing), desc="extracting features", unit="utterance", leave=False, disable=quiet)
        waiting = list(shards)
        Random(os.getpid()).shuffle(waiting)  # each process has its own order, so that they share the work
        used = 0.0
        with progress:
            for patient in (False, True):
                for shard in list(waiting):
                    shard.mkdir(parents=True, exist_ok=True)
                    try:
                        with FileLock(shard / ".lock", timeout=-1 if patient else 0):
                            waiting.remove(shard)
                            for i in shards[shard]:
                                used += self._extract(utterances[i], seconds[i])
                                progress.update()
                                if should_stop():
                                    return used
                    except Timeout:  # another process is at it
                        continue
        return used

    @torch.inference_mode()
    def _extract(self, utterance: Utterance, seconds: float) -> float:
        """Run the upstream over one utterance unless its states are there; returns the seconds that it ran over."""
        path = self.path(utterance)
        if path.exists():  # another process was faster
            return 0.0
        device = next((parameter.device for parameter in self.upstream.parameters()), torch.device("cpu"))
        wav = audio.load(utterance, self.upstream.sample_rate)[None].to(device)
        hidden = self.upstream(wav, torch.tensor([wav.shape[1]], device=device))
        write_bytes(path, save(self._pack([state[0].float() for state in hidden.states])))
        return seconds

    def _pack(self, states: list[Tensor]) -> dict[str, Tensor]:
        """(frame, dim) states of one utterance as they are kept."""
        if not self.means:
            halved = all(float(state.abs().amax()) <= LARGEST_HALF for state in states)
            return {str(k): (state.half() if halved else state).cpu().contiguous() for k, state in enumerate(states)}
        prepared = [torch.nn.functional.layer_norm(s, s.shape[-1:]) for s in states] if self.normalize else states
        stacked = torch.stack(prepared)  # (state, frame, dim)
        return {
            "means": stacked.mean(1).cpu(),
            "norms": torch.stack([state.norm(dim=-1).sum() for state in states]).cpu(),
            "gram": torch.einsum("kfd,lfd->kl", stacked, stacked).cpu(),
            "frames": torch.tensor(float(states[0].shape[0])),
        }

    def load(self, utterances: Sequence[Utterance], keep: Sequence[int] | None) -> HiddenStates:
        """The states ``keep`` (all: ``None``) of utterances that are in the store, float32, padded with zeros."""
        kept = range(self.num_states) if keep is None else keep
        summed = ("norms", "gram", "frames") if keep is None else ()
        names = ["means", *summed] if self.means else [str(k) for k in kept]
        found: list[dict[str, Tensor]] = []
        for utterance in utterances:
            path = self.path(utterance)
            try:
                with safe_open(path, framework="pt") as file:
                    found.append({name: file.get_tensor(name) for name in names})
            except Exception as error:  # safetensors raises its own and OSError
                raise BenchmarkError(
                    f"the stored features of utterance {utterance.id} cannot be read ({error}); delete {path} and go on"
                ) from error
        if self.means:
            means = torch.stack([one["means"] for one in found])  # (utterance, state, dim)
            return HiddenStates(
                states=[means[:, k : k + 1] for k in kept],
                lengths=torch.ones(len(found), dtype=torch.int64),
                **{name: torch.stack([one[name] for one in found]) for name in summed},
            )
        pad = torch.nn.utils.rnn.pad_sequence
        return HiddenStates(
            states=[pad([one[name].float() for one in found], batch_first=True) for name in names],
            lengths=torch.tensor([len(one[names[0]]) for one in found]),
        )

    def _check_limit(self, seconds: Sequence[float]) -> None:
        if self.limit == float("inf"):
            return
        upstream = self.upstream
        frames = len(seconds) if self.means else sum(seconds) * upstream.sample_rate / upstream.frame_shift
        wanted = frames * upstream.num_states * upstream.hidden_size * (4 if self.means else 2)
        used = sum(file.stat().st_size for file in self.root.rglob("*.safetensors"))
        if used + wanted > self.limit:
            raise BenchmarkError(
                f"keeping the features of {len(seconds)} utterances ({sum(seconds) / 3600:.1f} h) would take "
                f"{wanted / 1e9:.3g} GB beside the {used / 1e9:.3g} GB that lie in {self.root}, more than "
                f"features.limit_gb={self.limit / 1e9:g}. Raise it, empty that folder, or set features.keep=false"
            )
