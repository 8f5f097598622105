"""BEST-RQ's Conformer as an upstream (Chiu et al., 2202.01855; USM, 2303.01037), with SpeechBrain's architecture.

Two-dimensional convolutions over log mel energies, which take one frame of four, and Conformer blocks with relative
positions. It differs from fairseq's Conformer (:mod:`upstream.conformer.block`) in most details: LayerNorm in place of
BatchNorm after the depthwise convolution, attention logits divided by the root of the model's width, not of a head's,
positions that do not tell before from after, no biases of queries, keys and values. Parameters carry the names that the
project's other Conformer has.

SpeechBrain's states depend on what an utterance is padded with: its convolutions mirror the padded batch at its end
and look into padding, and it rounds lengths. Here they are those of the utterance alone, which SpeechBrain has for a
batch of one.

Notation in shapes: as in :mod:`upstream.wav2vec2.model`; ``band`` is a mel band.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmark import draws
from benchmark.interfaces import HiddenStates, Upstream
from upstream.bestrq.frontend import (
    HOP,
    SAMPLE_RATE,
    convolve,
    log_mel,
    mel_frames,
    normalise,
    strided,
    valid,
)
from upstream.checks import check_input, check_keep
from upstream.packing import Packing
from upstream.products import Linear

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"GELU": F.gelu, "ReLU": F.relu, "SiLU": F.silu, "Swish": F.silu}
"""By the names of torch's and SpeechBrain's classes."""


@dataclass(frozen=True, kw_only=True)
class BestRQConfig:
    """What an encoder is made of, and how it is trained."""

    mels: int = 80
    """Mel bands."""
    channels: tuple[int, ...] = (128, 32)
    """Of each convolution over them."""
    kernels: tuple[int, ...] = (3, 3)
    strides: tuple[int, ...] = (2, 2)
    dim: int = 576
    ffn: int = 2048
    heads: int = 8
    layers: int = 12
    conv_kernel: int = 31
    """Frames of the depthwise convolution."""
    activation: str = "GELU"
    """One of :data:`ACTIVATIONS`."""
    norm: str = "sentence"
    """``sentence``: bands have zero mean and unit deviation in each utterance; ``global``: in the training data."""

    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    encoder_layerdrop: float = 0.0
    checkpoint_activations: bool = False
    """Recompute each block in the backward pass: less memory, more time."""


class Subsampling(nn.Module):
    """Convolutions over (batch, frame, band) features, each followed by LayerNorm over bands and channels and by
    LeakyReLU, and a projection."""

    def __init__(self, config: BestRQConfig) -> None:
        super().__init__()
        self.config = config
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        channels, bands = 1, config.mels
        for out, kernel, stride in zip(config.channels, config.kernels, config.strides, strict=True):
            bands = (bands - 1) // stride + 1
            self.convs.append(nn.Conv2d(channels, out, kernel, stride))
            self.norms.append(nn.LayerNorm([bands, out]))
            channels = out
        self.proj = Linear(bands * channels, config.dim)

    def forward(self, features: Tensor, lengths: Tensor | None, packing: Packing) -> Tensor:
        """(batch, mel frame, band), (batch,) mel frames or ``None`` where all are valid, which rows will be whose ->
        (row, dim)."""
        x = features.to(self.proj.weight.dtype)[..., None]
        for conv, norm, stride in zip(self.convs, self.norms, self.config.strides, strict=True):
            x = convolve(x, lengths, cast(Tensor, conv.weight), cast(Tensor, conv.bias), stride)
            lengths = None if lengths is None else strided(lengths, stride)
            x = F.leaky_relu(norm(x))
        return F.dropout(self.proj(packing.pack(x.flatten(2))), self.config.dropout, self.training)


class Attention(nn.Module):
    """Multi-head self-attention with relative positions (Transformer-XL, 1901.02860)."""

    def __init__(self, config: BestRQConfig) -> None:
        super().__init__()
        dim, self.config = config.dim, config
        self.heads = config.heads
        self.q_proj = Linear(dim, dim, bias=False)
        self.k_proj = Linear(dim, dim, bias=False)
        self.v_proj = Linear(dim, dim, bias=False)
        self.out_proj = Linear(dim, dim)
        self.pos_proj = Linear(dim, dim, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(self.heads, dim // self.heads))
        self.pos_bias_v = nn.Parameter(torch.empty(self.heads, dim // self.heads))
        nn.init.xavier_uniform_(self.pos_bias_u)
        nn.init.xavier_uniform_(self.pos_bias_v)

    def forward(self, x: Tensor, packing: Packing, positions: Tensor) -> Tensor:
        """(row, dim) -> the same; ``positions`` of :func:`sinusoids`."""
        q, k, v = (proj(x).unflatten(1, (self.heads, -1)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        content, position = (packing.pad(q + bias.to(q.dtype)) for bias in (self.pos_bias_u, self.pos_bias_v))
        k, v = packing.pad(k), packing.pad(v)  # (batch, frame, head, dim / head)
        distances = self.pos_proj(positions.to(x.dtype)).unflatten(1, (self.heads, -1))
        scale = 1 / math.sqrt(self.config.dim)
        bias = shift(position.transpose(1, 2) @ distances.permute(1, 2, 0)) * scale
        if len(set(packing.lengths)) > 1:
            inside = packing.pad(torch.ones(packing.rows, dtype=torch.bool, device=x.device))
            bias = bias.masked_fill(~inside[:, None, None, :], -math.inf)
        dropout = self.config.attention_dropout if self.training else 0.0
        content, k, v = (x.transpose(1, 2) for x in (content, k, v))
        x = F.scaled_dot_product_attention(content, k, v, bias, dropout, scale=scale).transpose(1, 2)
        return cast(Tensor, self.out_proj(packing.pack(x).flatten(1)))


def sinusoids(frames: int, dim: int, device: torch.device) -> Tensor:
    """(2 * frames - 1, dim): sines and cosines, in turn, of the distances frames - 1 … 0 … frames - 1, without sign."""
    distances = torch.arange(1 - frames, frames, device=device).abs()[:, None]
    angles = distances * torch.exp(-math.log(10000.0) / dim * torch.arange(0, dim, 2, device=device))
    return torch.stack((angles.sin(), angles.cos()), dim=2).flatten(1)


def shift(x: Tensor) -> Tensor:
    """(batch, head, query, 2 * frame - 1) by distance, query - key from frame - 1 down -> (batch, head, query, key)."""
    batch, heads, frames, distances = x.shape
    x = F.pad(x, (1, 0)).view(batch, heads, distances + 1, frames)[:, :, 1:]
    return x.reshape(batch, heads, frames, distances)[..., :frames]


class FeedForward(nn.Module):
    """(row, dim) -> the same."""

    def __init__(self, config: BestRQConfig) -> None:
        super().__init__()
        self.config, self.activation = config, ACTIVATIONS[config.activation]
        self.layer_norm = nn.LayerNorm(config.dim)
        self.fc1 = Linear(config.dim, config.ffn)
        self.fc2 = Linear(config.ffn, config.dim)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = self.activation(self.fc1(self.layer_norm(x)))
        x = self.fc2(F.dropout(x, self.config.activation_dropout, self.training))
        return F.dropout(x, self.config.dropout, self.training)


class Convolution(nn.Module):
    """(row, dim) -> the same: a gated linear unit and a convolution of each channel within utterances."""

    def __init__(self, config: BestRQConfig) -> None:
        super().__init__()
        dim, self.config, self.activation = config.dim, config, ACTIVATIONS[config.activation]
        self.reach = config.conv_kernel // 2
        self.layer_norm = nn.LayerNorm(dim)
        self.pointwise_conv1 = Linear(dim, 2 * dim)
        self.depthwise_conv = nn.Conv1d(dim, dim, config.conv_kernel, padding=self.reach, groups=dim)
        self.depthwise_norm = nn.LayerNorm(dim)
        self.pointwise_conv2 = Linear(dim, dim)

    def forward(self, x: Tensor, packing: Packing) -> Tensor:  # noqa: D102
        def within(x: Tensor) -> Tensor:
            return cast(Tensor, self.depthwise_conv(x.transpose(1, 2))).transpose(1, 2)

        x = packing.apart(F.glu(self.pointwise_conv1(self.layer_norm(x)), dim=1), self.reach, within)
        x = self.pointwise_conv2(self.activation(self.depthwise_norm(x)))
        return F.dropout(x, self.config.dropout, self.training)


class Block(nn.Module):
    """Half a feed-forward layer, attention, convolution, half a feed-forward layer, LayerNorm."""

    def __init__(self, config: BestRQConfig) -> None:
        super().__init__()
        self.ffn1 = FeedForward(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.dim)
        self.self_attn = Attention(config)
        self.conv_module = Convolution(config)
        self.ffn2 = FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(config.dim)

    def forward(self, x: Tensor, packing: Packing, positions: Tensor) -> Tensor:
        """(row, dim) -> the same."""
        x = x + 0.5 * self.ffn1(x)
        x = x + self.self_attn(self.self_attn_layer_norm(x), packing, positions)
        x = x + self.conv_module(x, packing)
        return cast(Tensor, self.final_layer_norm(x + 0.5 * self.ffn2(x)))


class BestRQEncoder(Upstream):
    """BEST-RQ's encoder.

    State 0 is the input of block 0 (the projected convolutions), state k the output of block k, the last one the
    encoder's output, after its final LayerNorm.
    """

    sample_rate = SAMPLE_RATE

    def __init__(self, config: BestRQConfig) -> None:
        super().__init__()
        self.config, self.info = config, {}
        self.hidden_size, self.num_states = config.dim, config.layers + 1
        self.frame_shift = HOP * math.prod(config.strides)
        self.subsampling = Subsampling(config)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.layer_norm = nn.LayerNorm(config.dim, eps=1e-6)
        if config.norm == "global":
            self.register_buffer("mean", torch.zeros(config.mels))
            self.register_buffer("deviation", torch.ones(config.mels))
        self.mean: Tensor
        self.deviation: Tensor
        for parameter in (p for module in (self.subsampling.proj, self.layers) for p in module.parameters()):
            if parameter.dim() > 1:  # SpeechBrain's
                nn.init.xavier_normal_(parameter)

    @property
    def extractor(self) -> nn.Module:
        """The convolutions over log mel energies."""
        return self.subsampling

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The Conformer blocks."""
        return list(self.layers)

    @property
    def min_samples(self) -> int:
        """The shortest waveform whose frames can be mirrored at its ends: 320 samples with two convolutions of 3."""
        frames = 1
        for kernel, stride in zip(reversed(self.config.kernels), reversed(self.config.strides), strict=True):
            frames = max((frames - 1) * stride + 1, kernel // 2 + 1)
        return HOP * (frames - 1)

    def output_lengths(self, wav_lens: Tensor) -> Tensor:
        """Frames (batch,) of waveforms of ``wav_lens`` (batch,) samples: one for every 40 ms begun, and one where the
        last 40 ms are whole."""
        lengths = mel_frames(wav_lens)
        for stride in self.config.strides:
            lengths = strided(lengths, stride)
        return lengths.masked_fill(wav_lens < self.min_samples, 0)

    def forward(self, wavs: Tensor, wav_lens: Tensor, *, keep: Sequence[int] | None = None) -> HiddenStates:
        """Compute hidden states; see :meth:`benchmark.interfaces.Upstream.forward`.

        Raises:
            BenchmarkError: for a waveform shorter than :attr:`min_samples`, or states that do not exist.
        """
        kept = check_keep(keep, self.num_states)
        samples = check_input(wavs, wav_lens, self.min_samples, self.sample_rate)
        lengths = self.output_lengths(wav_lens)
        if len(samples) > 1 and wavs.device.type == "cpu" and not torch.is_grad_enabled() and not self.sharded:
            frames = lengths.tolist()
            states = [wavs.new_zeros(len(samples), max(frames), self.hidden_size) for _ in kept]
            for i, n in enumerate(samples):  # activations of one utterance fit the caches
                alone = self._forward_batch(wavs[i : i + 1, :n], [n], kept)
                for state, utterance_state in zip(states, alone, strict=True):
                    state[i, : frames[i]] = utterance_state[0]
        else:
            states = self._forward_batch(wavs[:, : max(samples)], samples, kept)
        return HiddenStates(states, lengths)

    def _forward_batch(self, wavs: Tensor, samples: Sequence[int], keep: Sequence[int]) -> list[Tensor]:
        ends = torch.tensor(samples)
        wavs = wavs.masked_fill(~valid(ends.to(wavs.device), wavs.size(1))[..., 0], 0.0)
        mels = mel_frames(ends)
        features = log_mel(wavs, mels.to(wavs.device), self.config.mels)
        states, packing = self.encode(self.normalise(features, mels.to(wavs.device)), mels.tolist(), keep)
        return [packing.pad(state) for state in states]

    def normalise(self, features: Tensor, frames: Tensor) -> Tensor:
        """(batch, mel frame, band) decibels, (batch,) valid frames -> what the convolutions see."""
        if self.config.norm == "global":
            return (features - self.mean) / self.deviation.clamp(min=1e-10)
        return normalise(features, frames)

    def encode(self, features: Tensor, frames: Sequence[int], keep: Sequence[int]) -> tuple[list[Tensor], Packing]:
        """Normalised features -> the states in ``keep``, (row, dim) each, and which rows are whose.

        Args:
            features: (batch, mel frame, band).
            frames: valid mel frames of each.
            keep: increasing.
        """
        used = torch.tensor(frames)
        for stride in self.config.strides:
            used = strided(used, stride)
        packing = Packing(used.tolist(), features.device)
        whole = set(frames) == {features.size(1)}
        x = self.subsampling(features, None if whole else torch.tensor(frames, device=features.device), packing)
        positions = sinusoids(packing.longest, self.config.dim, features.device)
        states = [x] if keep[0] == 0 else []
        for k, layer in enumerate(self.layers[: keep[-1]], start=1):
            dropped = self.training and self.config.encoder_layerdrop > 0
            if not (dropped and torch.rand((), generator=draws.generator()).item() < self.config.encoder_layerdrop):
                if self.config.checkpoint_activations and torch.is_grad_enabled():
                    x = checkpoint(layer, x, packing, positions, use_reentrant=False)
                else:
                    x = layer(x, packing, positions)
            if k in keep:
                states.append(self.layer_norm(x) if k == len(self.layers) else x)
        return states, packing
