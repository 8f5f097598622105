"""An upstream: strided convolutions over the waveform, and residual blocks over frames; untrained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmark.interfaces import HiddenStates, Upstream

LAYERS = ((10, 5), (8, 4), (4, 4), (4, 4))
"""Kernel sizes and strides."""


class Block(nn.Module):
    """A residual block that sees nothing beyond its frame, so that padding cannot matter."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.layers = nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, frame, dim) -> the same."""
        y: Tensor = x + self.layers(self.norm(x))
        return y


class Cnn(Upstream):
    """Frames of 20 ms -> ``blocks`` + 1 states of ``size`` features; both are options of the upstream."""

    sample_rate, frame_shift = 16000, 320

    def __init__(self, size: int = 64, blocks: int = 2) -> None:
        super().__init__()
        self.hidden_size, self.num_states = size, blocks + 1
        self.info = {"licence": "Apache-2.0"}
        sizes = (1, *(size for _ in LAYERS))
        self.convolutions = nn.ModuleList(
            [nn.Conv1d(sizes[k], size, kernel, stride) for k, (kernel, stride) in enumerate(LAYERS)]
        )
        self.layers = nn.ModuleList([Block(size) for _ in range(blocks)])

    @property
    def extractor(self) -> nn.Module:
        """The convolutions."""
        return self.convolutions

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The residual blocks."""
        return list(self.layers)

    def output_lengths(self, wav_lens: Tensor) -> Tensor:
        """Layer by layer, with the numbers of the convolutions."""
        for kernel, stride in LAYERS:
            wav_lens = torch.div(wav_lens - kernel, stride, rounding_mode="floor").clamp(min=-1) + 1
        return wav_lens

    def forward(self, wavs: Tensor, wav_lens: Tensor, *, keep: Sequence[int] | None = None) -> HiddenStates:
        """(batch, sample) -> the states ``keep``."""
        kept = range(self.num_states) if keep is None else keep
        lengths = self.output_lengths(wav_lens)
        x = wavs[:, None]
        for convolution in self.convolutions:
            x = nn.functional.gelu(convolution(x))
        states = [x.transpose(1, 2)[:, : int(lengths.max())]]  # (batch, frame, size)
        for block in self.layers[: max(kept)]:
            states.append(block(states[-1]))
        valid = (torch.arange(states[0].shape[1], device=wavs.device) < lengths[:, None])[..., None]
        return HiddenStates([states[k] * valid for k in kept], lengths)
