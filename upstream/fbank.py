"""Filterbank features: the baseline without a checkpoint.

SUPERB's FBANK (https://github.com/s3prl/s3prl/blob/71a4cd5/s3prl/upstream/baseline/fbank.yaml): Kaldi's 80 log mel
energies in windows of 25 ms every 10 ms, with deltas and delta-deltas, normalised to zero mean and unit variance per
utterance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchaudio.compliance import kaldi
from torchaudio.functional import compute_deltas

from benchmark.errors import BenchmarkError
from benchmark.interfaces import HiddenStates, Upstream

WINDOW = 400
"""Samples, 25 ms."""


class Fbank(Upstream):
    """One state of 240 features: 80 log mel energies, their deltas and delta-deltas."""

    sample_rate = 16000
    hidden_size = 240
    num_states = 1
    frame_shift = 160
    centred = True

    def __init__(self) -> None:
        super().__init__()
        self.info: dict[str, Any] = {"name": "fbank", "objective": "none", "licence": "Apache-2.0"}

    def output_lengths(self, wav_lens: Tensor) -> Tensor:
        """Frames (batch,) of waveforms of ``wav_lens`` (batch,) samples: the whole windows in each."""
        return (torch.div(wav_lens - WINDOW, self.frame_shift, rounding_mode="floor") + 1).clamp(min=0)

    @torch.no_grad()
    def forward(self, wavs: Tensor, wav_lens: Tensor, *, keep: Sequence[int] | None = None) -> HiddenStates:
        """Compute features; see :meth:`benchmark.interfaces.Upstream.forward`.

        Raises:
            BenchmarkError: for a waveform shorter than one window, naming the item.
        """
        if keep is not None and list(keep) != [0]:
            raise BenchmarkError(f"keep = {list(keep)}: fbank has one state, number 0")
        for i, n in enumerate(wav_lens.tolist()):
            if n < WINDOW or n > wavs.size(1):
                raise BenchmarkError(
                    f"item {i} of the batch has {n} samples; expected {WINDOW} or more, and no more than the "
                    f"{wavs.size(1)} of the batch"
                )
        rows = [self._features(wav[:n].float()) for wav, n in zip(wavs, wav_lens.tolist(), strict=True)]
        return HiddenStates([torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)], self.output_lengths(wav_lens))

    def _features(self, wav: Tensor) -> Tensor:
        """(sample,) -> (frame, 240)."""
        mel = kaldi.fbank(wav.unsqueeze(0), num_mel_bins=80, sample_frequency=self.sample_rate).T  # (80, frame)
        delta = compute_deltas(mel)
        x = torch.cat([mel, delta, compute_deltas(delta)]).T
        # The deviation of a single frame would be nan. 1e-10 is s3prl's.
        deviation = x.std(dim=0) if len(x) > 1 else torch.zeros_like(x[0])
        return (x - x.mean(dim=0)) / (deviation + 1e-10)
