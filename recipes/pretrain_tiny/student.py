"""The architecture of ``wav2vec2_tiny``, and how its clips are distorted."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recipes.pretrain_tiny.speech import SAMPLE_RATE
from upstream.wav2vec2.config import Wav2Vec2Config

FRAME_SHIFT = 320  # samples: 20 ms
ARCHITECTURE = {  # fairseq's names
    "extractor_mode": "layer_norm",
    "conv_feature_layers": "[(64, 10, 5), (64, 3, 2), (96, 3, 2)] + [(128, 3, 2)] * 2 + [(128, 2, 2)] * 2",
    "conv_bias": True,
    "encoder_layers": 6,
    "encoder_embed_dim": 192,
    "encoder_ffn_embed_dim": 768,
    "encoder_attention_heads": 4,
    "layer_norm_first": True,
    "conv_pos": 32,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "mask_length": 4,
    "mask_prob": 0.5,
}


def tiny_config() -> Wav2Vec2Config:
    """The configuration: input of zero mean and unit variance."""
    return Wav2Vec2Config.from_fairseq(ARCHITECTURE, {"normalize": True})


def distort(wavs: Tensor, share: float) -> Tensor:
    """Play some of (batch, sample) waveforms through a random smooth equaliser, and add coloured noise."""
    batch, samples = wavs.shape
    device = wavs.device
    position = torch.linspace(0, 1, samples // 2 + 1, device=device) ** 0.5

    def equaliser(spread: float) -> Tensor:
        """(batch, frequency) gains, about ``spread`` dB."""
        order = torch.arange(1, 7, device=device).view(1, -1, 1)
        level = spread * torch.randn(batch, 6, 1, device=device) / order.sqrt()
        phase = math.pi * torch.rand(batch, 6, 1, device=device)
        return 10 ** ((level * torch.cos(math.pi * order * position + phase)).sum(1) / 20)

    heard = torch.fft.irfft(torch.fft.rfft(wavs) * equaliser(4.0), samples)
    noise = torch.fft.irfft(torch.fft.rfft(torch.randn_like(wavs)) * equaliser(6.0), samples)
    snr = 8 + 22 * torch.rand(batch, 1, device=device)  # dB
    heard = heard + noise * 10 ** (-snr / 20) * heard.std(1, keepdim=True) / noise.std(1, keepdim=True)
    return torch.where(torch.rand(batch, 1, device=device) < share, heard, wavs)


def narrow(wavs: Tensor, share: float) -> Tensor:
    """Take what is above 3.4 to 4 kHz away from some of (batch, sample) waveforms."""
    frequency = torch.fft.rfftfreq(wavs.size(1), 1 / SAMPLE_RATE, device=wavs.device)
    edge = 3400 + 600 * torch.rand(len(wavs), 1, device=wavs.device)
    response = (1 + (frequency / edge) ** 24).rsqrt()
    heard = torch.fft.irfft(torch.fft.rfft(wavs) * response, wavs.size(1))
    return torch.where(torch.rand(len(wavs), 1, device=wavs.device) < share, heard, wavs)
