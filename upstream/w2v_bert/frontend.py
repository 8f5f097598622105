"""w2v-BERT 2.0's input (https://arxiv.org/abs/2312.05187): Kaldi's log mel energies, two frames at a time.

Follows transformers' ``SeamlessM4TFeatureExtractor``: 80 energies in windows of 25 ms every 10 ms of a waveform in
16-bit units, each band normalised to zero mean and unit variance over the utterance, windows side by side in pairs.
There an odd number of windows is padded (``pad_to_multiple_of=2``), and the frame that is half padding is masked; here
it is left out. With its attention mask, transformers' model gives an utterance these frames and the same states, alone
or in a batch; without the mask, its states depend on the padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SAMPLE_RATE = 16000
"""Hz."""
WINDOW, SHIFT = 400, 160
"""Samples: 25 ms every 10 ms."""
BANDS, STRIDE = 80, 2
"""Energies of a window, and windows of a frame."""
TRANSFORM = 512
"""Samples of the Fourier transform of a window."""
LOWEST = 20.0
"""Hz, where the mel bands begin; they end at half the sample rate."""
PREEMPHASIS = 0.97
FLOOR = 2.0**-23
"""Of energies, in 16-bit units."""


class FbankExtractor(nn.Module):
    """Waveforms -> (row, 160), without parameters."""

    hop = STRIDE * SHIFT
    min_samples = WINDOW + SHIFT
    dim = STRIDE * BANDS

    def output_lengths(self, wav_lens: Tensor) -> Tensor:
        """Frames (batch,) of waveforms of ``wav_lens`` (batch,) samples: the whole pairs of windows in each."""
        windows = torch.div(wav_lens - WINDOW, SHIFT, rounding_mode="floor") + 1
        return torch.div(windows, STRIDE, rounding_mode="floor").clamp(min=0)

    def forward(self, wavs: Sequence[Tensor]) -> Tensor:
        """(sample,) waveforms -> (row, 160) float32: their frames one after the other."""
        with torch.autocast(wavs[0].device.type, enabled=False):
            return torch.cat([_features(wav) for wav in wavs])


def _features(wav: Tensor) -> Tensor:
    """(sample,) -> (frame, 160)."""
    x = log_mel(wav)
    variance, mean = torch.var_mean(x, dim=0)
    x = (x - mean) / torch.sqrt(variance + 1e-7)
    return x[: len(x) // STRIDE * STRIDE].reshape(-1, STRIDE * BANDS).float()


def log_mel(wav: Tensor) -> Tensor:
    """Kaldi's ``compute-fbank-feats`` without dither: (sample,) -> (window, 80).

    In float64, as NumPy computes it for transformers: quiet bands beside loud ones keep their digits.
    """
    x = (2.0**15 * wav.double()).unfold(0, WINDOW, SHIFT)
    x = x - x.mean(dim=1, keepdim=True)
    x = x - PREEMPHASIS * torch.cat([x[:, :1], x[:, :-1]], dim=1)
    x = x * torch.hann_window(WINDOW, periodic=False, dtype=x.dtype, device=x.device) ** 0.85
    power = torch.fft.rfft(x, TRANSFORM).abs().square()
    energies: Tensor = power @ mel_filters(x.device)
    return energies.clamp(min=FLOOR).log()


@cache
def mel_filters(device: torch.device) -> Tensor:
    """(frequency, band): triangles on the mel scale of 1127 ln(1 + f / 700)."""

    def mel(hertz: Tensor) -> Tensor:
        return 1127.0 * torch.log1p(hertz / 700.0)

    frequencies = mel(torch.arange(TRANSFORM // 2 + 1, dtype=torch.float64) * SAMPLE_RATE / TRANSFORM)[:, None]
    lowest, highest = mel(torch.tensor([LOWEST, SAMPLE_RATE / 2], dtype=torch.float64)).tolist()
    edges = torch.linspace(lowest, highest, BANDS + 2, dtype=torch.float64)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    rise, fall = (frequencies - lower) / (centre - lower), (upper - frequencies) / (upper - centre)
    return F.relu(torch.minimum(rise, fall)).to(device)
