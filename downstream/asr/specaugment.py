"""SpecAugment on features: time warping, time masks, feature masks.

Park et al., SpecAugment: a simple data augmentation method for automatic speech recognition, Interspeech 2019, as
SUPERB applies it to the weighted sum of the layers (s3prl ec8064b5 ``downstream/specaug.py``). This implementation
augments the whole batch at once and keeps within each utterance's own length; s3prl draws time masks within the longest
utterance of the batch, so that those of shorter utterances may fall into their padding.

All random numbers come from torch's CPU generator, so that they do not depend on the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark import draws
from benchmark.errors import BenchmarkError

CUBIC = -0.75
"""Coefficient of Keys' bicubic interpolation in torch (and in s3prl, which uses torch's)."""


@dataclass
class SpecAugmentConfig:
    """SUPERB's values (s3prl ec8064b5 ``downstream/asr/config.yaml``)."""

    enabled: bool = True
    time_warp: int = 5
    """Frames by which a random point is moved at most; the two sides are stretched or compressed. 0: no warping."""
    time_masks: int = 2
    """Stretches of frames set to zero in each utterance."""
    time_width: int = 40
    """Greatest width of a time mask in frames; widths are uniform from 0."""
    feature_masks: int = 4
    """Ranges of features set to zero in each utterance."""
    feature_width: int = 50
    """Greatest width of a feature mask; widths are uniform from 0. Reduce it for upstreams with few features."""

    def check(self) -> None:
        """Raise on a value out of range."""
        for name in ("time_warp", "time_masks", "time_width", "feature_masks", "feature_width"):
            if getattr(self, name) < 0:
                raise BenchmarkError(f"task.specaugment.{name} is {getattr(self, name)}; expected at least 0")


def spec_augment(features: Tensor, lengths: Tensor, config: SpecAugmentConfig) -> Tensor:
    """Augmented features (batch, frame, dim).

    Args:
        features: (batch, frame, dim).
        lengths: (batch,) valid frames.
        config: what to apply; nothing unless ``enabled``.
    """
    if not config.enabled:
        return features
    lengths = lengths.cpu()
    whole = torch.tensor(draws.whole(lengths.tolist()))
    if config.time_warp:
        center, moved = draw_warp(whole, config.time_warp)
        features = time_warp(features, lengths, draws.own(center), draws.own(moved))
    dims = torch.full_like(whole, features.shape[2])
    frames = draws.own(draw_masks(whole, features.shape[1], config.time_masks, config.time_width))  # (batch, frame)
    columns = draws.own(draw_masks(dims, features.shape[2], config.feature_masks, config.feature_width))  # (batch, dim)
    masked = frames[:, :, None] | columns[:, None, :]
    return features.masked_fill(masked.to(features.device), 0)


def draw_masks(lengths: Tensor, size: int, count: int, width: int) -> Tensor:
    """``count`` masks of 0 to ``width`` places within each of ``lengths`` (batch,); (batch, size), true = masked."""
    widths = _below(lengths[:, None].expand(-1, count) * 0 + width + 1).minimum(lengths[:, None])
    starts = _below(lengths[:, None] - widths + 1)
    places = torch.arange(size)
    return ((starts[:, :, None] <= places) & (places < (starts + widths)[:, :, None])).any(dim=1)


def draw_warp(lengths: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Which frame boundary moves, (batch,), and where to, (batch,); it stays put in utterances that are too short."""
    fits = lengths > 2 * window
    center = window + _below((lengths - 2 * window).clamp(min=1))
    moved = center - window + 1 + _below(torch.full_like(lengths, 2 * window))
    return torch.where(fits, center, lengths), torch.where(fits, moved, lengths)


def time_warp(features: Tensor, lengths: Tensor, center: Tensor, moved: Tensor) -> Tensor:
    """Resize frames ``[0, center)`` to ``[0, moved)`` and ``[center, length)`` to ``[moved, length)``.

    Each side is interpolated separately, with the result of ``interpolate(mode="bicubic", align_corners=False)``.

    Args:
        features: (batch, frame, dim).
        lengths: (batch,) valid frames.
        center: (batch,) from 1 to length.
        moved: (batch,) from 1 to length; equal to the length where ``center`` is.
    """
    size, center, moved, last = features.shape[1], center[:, None], moved[:, None], lengths[:, None]
    place = torch.arange(size, dtype=torch.float64)  # (frame,)
    left = place < moved  # (batch, frame)
    scale = torch.where(left, center / moved, (last - center) / (last - moved).clamp(min=1))
    source = (place - torch.where(left, 0, moved) + 0.5) * scale - 0.5 + torch.where(left, 0, center)
    low, high = torch.where(left, 0, center), torch.where(left, center, last) - 1
    valid = place < last
    first = source.floor()
    warped = torch.zeros_like(features)
    batch = torch.arange(len(features))[:, None]
    for tap in (-1, 0, 1, 2):
        distance = (source - first - tap).abs()
        weight = torch.where(
            distance <= 1,
            ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1,
            ((CUBIC * distance - 5 * CUBIC) * distance + 8 * CUBIC) * distance - 4 * CUBIC,
        )
        index = (first.long() + tap).maximum(low).minimum(high)
        index = torch.where(valid, index, torch.arange(size))  # padding: itself (the weights of the taps sum to 1)
        picked = features[batch.to(features.device), index.to(features.device)]
        warped = warped + weight.to(features)[:, :, None] * picked
    return warped


def _below(bounds: Tensor) -> Tensor:
    """Uniform integers, at least 0 and below each bound; 0 where the bound is at most 1."""
    return (torch.rand(bounds.shape, dtype=torch.float64, generator=draws.generator()) * bounds.clamp(min=1)).long()
