"""Whisper's input: the logarithms of mel energies.

OpenAI's ``log_mel_spectrogram`` (https://github.com/openai/whisper, whisper/audio.py, MIT licence): windows of 25 ms
every 10 ms, 80 or 128 mel bands on Slaney's scale, cut 80 dB below the loudest value. Its filters, which it ships as a
file made by librosa, are computed here.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SAMPLE_RATE = 16000
"""Hz."""
WINDOW, HOP = 400, 160
"""Samples: 25 ms every 10 ms."""


@cache
def mel_filters(bands: int, device: torch.device) -> Tensor:
    """(band, frequency) weights of the power spectrum's 201 frequencies: triangles of unit area on Slaney's mel scale,
    which is linear up to 1 kHz and logarithmic above. In double precision, as librosa computes them."""
    steps = np.linspace(0.0, 15.0 + np.log(SAMPLE_RATE / 2000) / _LOG_STEP, bands + 2)
    edges = np.where(steps < 15.0, steps * 200.0 / 3.0, 1000.0 * np.exp(_LOG_STEP * (steps - 15.0)))  # Hz
    frequencies = np.linspace(0.0, SAMPLE_RATE / 2, WINDOW // 2 + 1)
    lower, centre, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rise, fall = (frequencies - lower) / (centre - lower), (upper - frequencies) / (upper - centre)
    weights = np.maximum(0.0, np.minimum(rise, fall)) * 2.0 / (upper - lower)
    return torch.tensor(weights, dtype=torch.float32, device=device)


_LOG_STEP = float(np.log(6.4)) / 27.0
"""Of a mel above 1 kHz."""


def log_mel(wavs: Tensor, bands: int, frames: int) -> Tensor:
    """Log mel energies of waveforms that silence follows.

    OpenAI's are those of up to 30 s followed by silence to 30 s, or of a longer recording followed by 30 s of silence;
    both are the same as far as the audio goes.

    Args:
        wavs: (batch, sample) float32, zero beyond an utterance's end.
        bands: 80 or 128 in the published models.
        frames: how many to compute, at 100 a second: as many as the audio has, or more.

    Returns:
        (batch, band, frame) float32. Where the audio is over, the smallest value that the utterance's loudest allows.
    """
    wavs = F.pad(wavs.float(), (0, frames * HOP + WINDOW - wavs.size(1)))
    with torch.autocast(wavs.device.type, enabled=False):
        window = torch.hann_window(WINDOW, device=wavs.device)
        spectrum = torch.stft(wavs, WINDOW, HOP, window=window, return_complex=True)[..., :frames]
        energies = (mel_filters(bands, wavs.device) @ spectrum.abs().square()).clamp(min=1e-10).log10()
    loudest = energies.amax(dim=(1, 2), keepdim=True)
    return (torch.maximum(energies, loudest - 8.0) + 4.0) / 4.0
