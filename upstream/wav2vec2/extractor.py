"""The convolutions over the waveform, of fairseq's ``ConvFeatureExtractionModel``, without padding."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upstream.packing import one_by_one
from upstream.wav2vec2.config import Wav2Vec2Config

MOST_SAMPLES = 2**24
"""Of the waveforms that a GPU's convolutions see at once: cuDNN counts the numbers of a tensor in 32 bits."""

STRETCH = 100
"""Frames that a CPU computes at once: activations of two seconds of audio fit its caches."""

GroupNorm = Callable[[Tensor, nn.GroupNorm], Tensor]
"""How the norm of (1, channel, frame) is computed."""


class ConvFeatureExtractor(nn.Module):
    """The stack of convolutions, without padding: waveforms -> (row, conv_dim).

    A block is a convolution at key "0" and its norm at key "2" (a LayerNorm at "2.1"): their positions in fairseq's
    ``nn.Sequential``.
    """

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.layers = config.conv_layers
        self.hop = math.prod(stride for _, _, stride in self.layers)
        self.dim = self.layers[-1][0]
        self.conv_layers = nn.ModuleList()
        in_dim = 1
        for i, (dim, kernel_size, stride) in enumerate(self.layers):
            conv = nn.Conv1d(in_dim, dim, kernel_size, stride=stride, bias=config.conv_bias)
            nn.init.kaiming_normal_(conv.weight)
            block: dict[str, nn.Module] = {"0": conv}
            if config.extractor_mode == "layer_norm":
                block["2"] = nn.ModuleDict({"1": nn.LayerNorm(dim)})
            elif i == 0:
                block["2"] = nn.GroupNorm(dim, dim)
            self.conv_layers.append(nn.ModuleDict(block))
            in_dim = dim

    @property
    def min_samples(self) -> int:
        """What one frame hears: the shortest waveform that gives one."""
        samples = 1
        for _, kernel_size, stride in reversed(self.layers):
            samples = (samples - 1) * stride + kernel_size
        return samples

    def output_lengths(self, wav_lens: Tensor) -> Tensor:
        """Frames (batch,) of waveforms of ``wav_lens`` (batch,) samples: floor((n - kernel) / stride) + 1 at each
        convolution; 0 for a waveform that is too short."""
        lengths = wav_lens
        for _, kernel_size, stride in self.layers:
            lengths = torch.div(lengths - kernel_size, stride, rounding_mode="floor") + 1
        return lengths.clamp(min=0)

    def forward(self, wavs: Sequence[Tensor]) -> Tensor:
        """(sample,) waveforms -> (row, conv_dim): their valid frames one after the other."""
        if one_by_one(wavs[0].device):
            tracked = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters())
            if tracked:
                return torch.cat([self._convolve(wav) for wav in wavs])
            return torch.cat([stretch for wav in wavs for stretch in self._convolve_in_stretches(wav)])
        groups: list[list[Tensor]] = [[]]
        total = 0
        for wav in wavs:
            if groups[-1] and total + len(wav) > MOST_SAMPLES:
                groups.append([])
                total = 0
            groups[-1].append(wav)
            total += len(wav) + self.hop
        return torch.cat([self._convolve_together(group) for group in groups])

    def _convolve_in_stretches(self, wav: Tensor) -> list[Tensor]:
        frames, heard, first = self._frames(len(wav)), self.min_samples, None
        parts = dict(self.conv_layers[0].named_modules())
        if isinstance(parts.get("2"), nn.GroupNorm):
            first = normalised(wav, cast(nn.Conv1d, parts["0"]), cast(nn.GroupNorm, parts["2"]))
        return [
            self._convolve(wav[start * self.hop : (min(start + STRETCH, frames) - 1) * self.hop + heard], first=first)
            for start in range(0, frames, STRETCH)
        ]

    def _convolve_together(self, wavs: Sequence[Tensor]) -> Tensor:
        """Waveforms end to end, each from a multiple of the hop on: frame k of one that starts at n * hop is frame
        n + k of them all, and the frames that hear two waveforms are left out."""
        samples = [len(wav) for wav in wavs]
        slots = [-(-n // self.hop) for n in samples]
        joined = torch.cat([F.pad(wav, (0, slot * self.hop - len(wav))) for wav, slot in zip(wavs, slots, strict=True)])
        x = self._convolve(joined, partial(self._group_norm_each, samples))
        frames = [self._frames(n) for n in samples]
        starts = [sum(slots[:i]) for i in range(len(slots))]
        return torch.cat([x[start : start + n] for start, n in zip(starts, frames, strict=True)])

    def _frames(self, samples: int) -> int:
        for _, kernel_size, stride in self.layers:
            samples = (samples - kernel_size) // stride + 1
        return samples

    def _convolve(
        self, wav: Tensor, norm: GroupNorm | None = None, first: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """(sample,) -> (frame, conv_dim).

        Args:
            norm: how GroupNorm is computed, default :func:`group_norm`.
            first: the first convolution with its norm.
        """
        x = wav[None, None]
        for i, block in enumerate(self.conv_layers):
            parts = dict(block.named_modules())
            if i == 0 and first is not None:
                x = F.gelu(first(x))
                continue
            x = convolve(x, cast(nn.Conv1d, parts["0"]))
            if "2.1" in parts:
                x = layer_norm(x.transpose(1, 2), cast(nn.LayerNorm, parts["2.1"])).transpose(1, 2)
            elif "2" in parts:  # after the first convolution only
                x = (norm or group_norm)(x, cast(nn.GroupNorm, parts["2"]))
            x = F.gelu(x)
        return x[0].t()

    def _group_norm_each(self, samples: Sequence[int], x: Tensor, norm: nn.GroupNorm) -> Tensor:
        """``norm`` over the frames of each waveform alone."""
        _, kernel_size, stride = self.layers[0]
        parts, start = [], 0
        for n in samples:
            width, valid = -(-n // self.hop) * self.hop // stride, (n - kernel_size) // stride + 1
            part = x[..., start : start + width]
            parts.append(F.pad(group_norm(part[..., :valid], norm), (0, part.size(2) - valid)))
            start += width
        return torch.cat(parts, dim=2)


def convolve(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """``conv`` of (1, channel, frame). On a CPU, where LayerNorm left a frame's channels side by side in memory, the
    result has them so, too, and nothing is copied; in half precision on a GPU they are put so, as tensor cores and
    LayerNorm want them."""
    if one_by_one(x.device):
        side_by_side = x.size(1) > 1 and x.stride(1) == 1
    else:
        side_by_side = torch.is_autocast_enabled(x.device.type)
        if side_by_side and x.size(1) > 1:
            x = x.transpose(1, 2).contiguous().transpose(1, 2)  # nothing to do after the second convolution
    if not side_by_side:
        return cast(Tensor, conv(x))
    return F.conv2d(x.unsqueeze(2), conv.weight.unsqueeze(2), conv.bias, (1, conv.stride[0])).squeeze(2)


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """``norm`` in float32, as fairseq's extractor computes it."""
    return F.layer_norm(x.float(), norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps).to(x.dtype)


def group_norm(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """``norm`` of (1, channel, frame) in float32."""
    return F.group_norm(x.float(), norm.num_groups, norm.weight.float(), norm.bias.float(), norm.eps).to(x.dtype)


def normalised(wav: Tensor, conv: nn.Conv1d, norm: nn.GroupNorm) -> Callable[[Tensor], Tensor]:
    """A convolution of stretches of a waveform (sample,), followed by a norm of each channel over all of its frames, as
    one convolution.

    The norm's mean and variance follow from the mean and the covariance of what the kernel sees, and the norm is put
    into the weights; in float64.
    """
    seen = wav.unfold(0, conv.kernel_size[0], conv.stride[0]).double()
    middle, weight = seen.mean(0), conv.weight[:, 0].double()
    covariance = (seen - middle).t() @ (seen - middle) / len(seen)
    scale = norm.weight.double() * (((weight @ covariance) * weight).sum(1) + norm.eps).rsqrt()
    weight = weight * scale[:, None]
    bias = norm.bias.double() - weight @ middle  # the mean takes away the convolution's own
    dtype = norm.weight.dtype
    return lambda x: F.conv1d(x, weight[:, None].to(dtype), bias.to(dtype), conv.stride)
