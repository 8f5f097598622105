"""SpeechBrain's input: log mel energies in decibels, of zero mean and unit deviation in each band.

``speechbrain.lobes.features.Fbank`` and ``InputNormalization`` (SpeechBrain 1.1.2, Apache-2.0): Hamming windows of
25 ms every 10 ms, centred, triangles on the mel scale of 2595 log10(1 + f / 700), cut 80 dB below the utterance's
loudest value.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

SAMPLE_RATE = 16000
"""Hz."""
WINDOW, HOP = 400, 160
"""Samples: 25 ms every 10 ms."""
SMALLEST_DEVIATION = 1e-3
"""Decibels. A band that does not vary, as above the limit of telephone speech or in silence, has a deviation of
rounding errors alone, by which SpeechBrain divides; here it becomes zeros."""


@cache
def mel_filters(bands: int, device: torch.device) -> Tensor:
    """(frequency, band) weights of the power spectrum's 201 frequencies."""
    mel = torch.linspace(0.0, 2595 * math.log10(1 + SAMPLE_RATE / 2 / 700), bands + 2)
    hertz = 700 * (10 ** (mel / 2595) - 1)
    width, centre = (hertz[1:] - hertz[:-1])[:-1], hertz[1:-1]
    slope = (torch.linspace(0, SAMPLE_RATE // 2, WINDOW // 2 + 1)[:, None] - centre) / width
    return torch.minimum(slope + 1, 1 - slope).clamp(min=0).to(device)


def mel_frames(samples: Tensor) -> Tensor:
    """Mel frames of waveforms of so many samples: a window is centred on every 10 ms, the first on the start."""
    return torch.div(samples, HOP, rounding_mode="floor") + 1


def log_mel(wavs: Tensor, frames: Tensor, bands: int) -> Tensor:
    """Log mel energies.

    Args:
        wavs: (batch, sample), zero beyond an utterance's end.
        frames: (batch,) valid frames, on the waveforms' device.
        bands: 80 in SpeechBrain's recipe.

    Returns:
        (batch, frame, band) float32 decibels.
    """
    with torch.autocast(wavs.device.type, enabled=False):
        window = torch.hamming_window(WINDOW, device=wavs.device)
        spectrum = torch.stft(wavs.float(), WINDOW, HOP, window=window, pad_mode="constant", return_complex=True)
        energies = torch.view_as_real(spectrum).square().sum(-1).transpose(1, 2) @ mel_filters(bands, wavs.device)
        decibels = 10 * energies.clamp(min=1e-10).log10()
        loudest = decibels.masked_fill(~valid(frames, decibels.size(1)), -math.inf).amax(dim=(1, 2), keepdim=True)
    return torch.maximum(decibels, loudest - 80.0)


def normalise(features: Tensor, frames: Tensor) -> Tensor:
    """(batch, frame, band) -> the same: zero mean and unit deviation over an utterance's valid frames (batch,).
    Frames beyond are zero."""
    inside = valid(frames, features.size(1))
    count = frames[:, None, None]
    mean = features.masked_fill(~inside, 0.0).sum(1, keepdim=True) / count
    features = (features - mean).masked_fill(~inside, 0.0)
    deviation = (features.square().sum(1, keepdim=True) / count).sqrt()
    return torch.where(deviation > SMALLEST_DEVIATION, features / deviation.clamp(min=SMALLEST_DEVIATION), 0.0)


def valid(lengths: Tensor, size: int) -> Tensor:
    """(batch,) -> (batch, size, 1), True within an utterance."""
    return (torch.arange(size, device=lengths.device) < lengths[:, None])[..., None]


def reflect(x: Tensor, reach: int, lengths: Tensor | None = None) -> Tensor:
    """Mirror utterances at their own ends, as reflection padding does with one alone.

    Args:
        x: (batch, frame, …).
        reach: frames at either end.
        lengths: (batch,) valid frames, more than ``reach`` each; ``None``: all are valid.

    Returns:
        (batch, frame + 2 * reach, …); what lies further beyond an end has no meaning.
    """
    if lengths is None:
        return torch.cat((x[:, 1 : reach + 1].flip(1), x, x[:, -reach - 1 : -1].flip(1)), dim=1)
    places = torch.arange(-reach, x.size(1) + reach, device=x.device).abs().expand(len(x), -1)
    last = lengths[:, None] - 1
    places = torch.where(places > last, 2 * last - places, places).clamp(min=0)
    return x[torch.arange(len(x), device=x.device)[:, None], places]


def strided(lengths: Tensor, stride: int) -> Tensor:
    """Frames after a convolution of odd kernel with reflected ends."""
    return torch.div(lengths - 1, stride, rounding_mode="floor") + 1


def convolve(x: Tensor, lengths: Tensor | None, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """A two-dimensional convolution, utterances and bands mirrored at their ends.

    Args:
        x: (batch, frame, band, channel).
        lengths: (batch,) valid frames; ``None``: all are valid.
        weight: (out, channel, kernel, kernel), over bands and frames.
        bias: (out,).
        stride: over both.

    Returns:
        (batch, frame / stride, band / stride, out), rounded up.
    """
    reach = weight.size(3) // 2
    x = reflect(reflect(x, reach, lengths).transpose(1, 2), reach)  # (batch, band, frame, channel)
    return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride).permute(0, 3, 2, 1)
