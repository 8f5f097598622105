"""Whisper's encoder as an upstream (Radford et al., 2212.04356).

Two convolutions over log mel energies and wav2vec 2.0's pre-norm transformer blocks with sinusoidal positions; the
blocks' parameters carry wav2vec 2.0's names, which are also those of ``transformers``' ``WhisperEncoder``.

The encoder was trained on 30 s at a time, shorter recordings padded with silence. There are two ways to treat length:

- ``window``: as it was trained. An utterance is padded to 30 s, and frames beyond its end are dropped afterwards; a
  longer one is cut into windows of 30 s. Every utterance costs as much as 30 s do.
- ``valid``: nothing is computed on padding. The transformer sees the frames of the utterance only, which it was not
  trained for; the positions are those of the first frames of a window.

Either way the states of an utterance are the same alone and in any batch.

Notation in shapes: as in :mod:`upstream.wav2vec2.model`; ``band`` is a mel band, ``segment`` a stretch of up to 30 s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmark import draws
from benchmark.interfaces import HiddenStates, Upstream
from upstream.checks import check_input, check_keep
from upstream.packing import Packing
from upstream.products import Linear
from upstream.wav2vec2.config import Wav2Vec2Config
from upstream.wav2vec2.model import TransformerBlock
from upstream.whisper.frontend import HOP, SAMPLE_RATE, log_mel

LENGTHS = ("window", "valid")
"""Ways to treat length."""


@dataclass(frozen=True, kw_only=True)
class WhisperConfig:
    """What an encoder is made of, and how it is run."""

    mels: int
    """Mel bands."""
    positions: int
    """Frames of a window: 1500 in every published model."""
    dim: int
    ffn: int
    heads: int
    layers: int

    length: str = LENGTHS[0]
    """One of :data:`LENGTHS`."""
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    encoder_layerdrop: float = 0.0
    checkpoint_activations: bool = False
    """Recompute each block in the backward pass: less memory, more time."""

    @property
    def block(self) -> Wav2Vec2Config:
        """The configuration of a transformer block."""
        return Wav2Vec2Config(
            layer_norm_first=True,
            encoder_layers=self.layers,
            encoder_embed_dim=self.dim,
            encoder_ffn_embed_dim=self.ffn,
            encoder_attention_heads=self.heads,
            conv_pos_groups=1,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            activation_dropout=self.activation_dropout,
            encoder_layerdrop=self.encoder_layerdrop,
            checkpoint_activations=self.checkpoint_activations,
        )


class WhisperEncoder(Upstream):
    """Whisper's encoder.

    State 0 is the input of block 0 (the convolutions' output with the positions), state k the output of block k, the
    last one the encoder's output, after its final LayerNorm.
    """

    sample_rate = SAMPLE_RATE
    frame_shift = 2 * HOP
    min_samples = 1

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.config, self.info = config, {}
        self.hidden_size, self.num_states = config.dim, config.layers + 1
        self.convolutions = nn.ModuleDict(
            {
                "conv1": nn.Conv1d(config.mels, config.dim, 3, padding=1),
                "conv2": nn.Conv1d(config.dim, config.dim, 3, stride=2, padding=1),
            }
        )
        self.register_buffer("positions", sinusoids(config.positions, config.dim))
        self.positions: Tensor
        blocks = [TransformerBlock(config.block) for _ in range(config.layers)]
        for block in blocks:
            block.self_attn.k_proj = Linear(config.dim, config.dim, bias=False)
        self.layers = nn.ModuleList(blocks)
        self.layer_norm = nn.LayerNorm(config.dim)

    @property
    def extractor(self) -> nn.Module:
        """The convolutions over log mel energies."""
        return self.convolutions

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks."""
        return list(self.layers)

    def output_lengths(self, wav_lens: Tensor) -> Tensor:
        """Frames (batch,) of waveforms of ``wav_lens`` (batch,) samples: one for every 20 ms begun."""
        return torch.div(wav_lens + self.frame_shift - 1, self.frame_shift, rounding_mode="floor").clamp(min=0)

    def forward(self, wavs: Tensor, wav_lens: Tensor, *, keep: Sequence[int] | None = None) -> HiddenStates:
        """Compute hidden states; see :meth:`benchmark.interfaces.Upstream.forward`.

        Raises:
            BenchmarkError: for an empty waveform, or states that do not exist.
        """
        kept = check_keep(keep, self.num_states)
        samples = check_input(wavs, wav_lens, self.min_samples, self.sample_rate)
        lengths = self.output_lengths(wav_lens)
        frames = self.output_lengths(torch.tensor(samples)).tolist()
        if len(samples) > 1 and wavs.device.type == "cpu" and not torch.is_grad_enabled() and not self.sharded:
            states = [wavs.new_zeros(len(samples), max(frames), self.hidden_size) for _ in kept]
            for i, n in enumerate(samples):  # activations of one utterance fit the caches
                alone = self._forward_batch(wavs[i : i + 1, :n], [n], frames[i : i + 1], kept)
                for state, utterance_state in zip(states, alone, strict=True):
                    state[i, : frames[i]] = utterance_state[0]
        else:
            states = self._forward_batch(wavs, samples, frames, kept)
        return HiddenStates(states, lengths)

    def _forward_batch(self, wavs: Tensor, samples: list[int], frames: list[int], keep: list[int]) -> list[Tensor]:
        window = self.config.positions
        whole = self.config.length == "window"
        wanted = max(frames) if not whole else -(-max(frames) // window) * window
        valid = torch.arange(wavs.size(1)) < torch.tensor(samples)[:, None]
        wavs = wavs.masked_fill(~valid.to(wavs.device, non_blocking=True), 0.0)[:, : max(samples)]
        mel = log_mel(wavs, self.config.mels, 2 * wanted)
        segments, used = [], []
        for utterance, n in zip(mel, frames, strict=True):
            for start in range(0, n, window):
                size = min(window, n - start)
                segments.append(utterance[:, 2 * start : 2 * (start + (window if whole else size))])
                used.append(size)

        x, packing = self._embed(segments)
        utterances = Packing(frames, x.device)
        rows = None
        if packing.lengths != used:  # frames of padding are dropped
            spans = zip(packing.lengths, used, strict=True)
            rows = torch.cat([torch.arange(size) < n for size, n in spans]).nonzero()[:, 0].to(x.device)
        return [
            utterances.pad(state if rows is None else state.index_select(0, rows))
            for state in self._encode(x, packing, keep)
        ]

    def _embed(self, segments: Sequence[Tensor]) -> tuple[Tensor, Packing]:
        """(band, mel frame) segments of even length -> (row, dim) with positions, and which rows are whose.

        Padding them is exact: the second convolution, of kernel 3 and stride 2, does not reach beyond an even length.
        """
        packing = Packing([segment.size(1) // 2 for segment in segments], segments[0].device)
        x = nn.utils.rnn.pad_sequence([segment.T for segment in segments], batch_first=True).transpose(1, 2)
        conv1, conv2 = self.convolutions.values()
        x = F.gelu(conv1(x.to(self.layer_norm.weight.dtype)))
        x = F.gelu(conv2(x)).transpose(1, 2)
        x = packing.pack(x + self.positions[: x.size(1)])
        return F.dropout(x, self.config.dropout, self.training), packing

    def _encode(self, x: Tensor, packing: Packing, keep: Sequence[int]) -> list[Tensor]:
        """(row, dim) -> the states in ``keep``, (row, dim) each."""
        states = [x] if keep[0] == 0 else []
        for k, layer in enumerate(self.layers[: keep[-1]], start=1):
            dropped = self.training and self.config.encoder_layerdrop > 0
            if not (dropped and torch.rand((), generator=draws.generator()).item() < self.config.encoder_layerdrop):
                if self.config.checkpoint_activations and torch.is_grad_enabled():
                    x = checkpoint(layer, x, packing, use_reentrant=False)
                else:
                    x = layer(x, packing)
            if k in keep:
                states.append(self.layer_norm(x) if k == len(self.layers) else x)
        return states


def sinusoids(positions: int, dim: int) -> Tensor:
    """(position, dim): sines, then cosines, of wavelengths from 2 pi to 20,000 pi positions, as OpenAI's."""
    step = math.log(10000) / (dim // 2 - 1)
    angles = torch.arange(positions)[:, None] * torch.exp(-step * torch.arange(dim // 2))
    return torch.cat([angles.sin(), angles.cos()], dim=1)
