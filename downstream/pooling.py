"""An utterance's frames -> one vector.

Shapes: ``batch`` utterances, ``frame`` upstream frames, ``feature`` of a frame. The result of an utterance does not
depend on the batch that it is padded in.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def valid_frames(lengths: Tensor, frames: int) -> Tensor:
    """(batch, frame) bool: is this frame one of the utterance's own?"""
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


def mean_pooling(x: Tensor, lengths: Tensor) -> Tensor:
    """(batch, feature, frame) and (batch,) valid frames, at least 1 -> mean over them (batch, feature), in float32."""
    valid = valid_frames(lengths, x.shape[2])[:, None]  # (batch, 1, frame)
    return x.float().masked_fill(~valid, 0).sum(2) / lengths[:, None]


def _deviation(variance: Tensor) -> Tensor:
    """Square root, whose gradient at 0 is 0 rather than infinite."""
    tiny = torch.finfo(variance.dtype).tiny  # keeps sqrt's gradient finite where `where` then drops it
    return torch.where(variance > 0, variance.clamp(min=tiny).sqrt(), 0)


def statistics_pooling(x: Tensor, lengths: Tensor) -> Tensor:
    """Mean and standard deviation over the valid frames.

    As ``torch.mean`` and ``torch.std`` of each utterance by itself: the deviation is the unbiased one (division by
    frames - 1), without an epsilon, its gradient 0 where it is 0. Of a single frame it is 0 (``torch.std``: NaN).

    Args:
        x: (batch, feature, frame).
        lengths: (batch,) valid frames, at least 1.

    Returns:
        (batch, 2 * feature), in float32.
    """
    x = x.float()
    valid = valid_frames(lengths, x.shape[2])[:, None]  # (batch, 1, frame)
    mean = mean_pooling(x, lengths)
    freedom = (lengths[:, None].to(x.dtype) - 1).clamp(min=1)
    variance = (x - mean[:, :, None]).masked_fill(~valid, 0).square().sum(2) / freedom
    return torch.cat([mean, _deviation(variance)], dim=1)


def weighted_statistics(x: Tensor, weights: Tensor) -> Tensor:
    """Mean and standard deviation under weights that add up to 1 over the frames and are 0 on padding.

    The variance is the mean squared distance from the mean. The usual ``mean(x²) - mean(x)²`` cancels where a feature's
    deviation is small beside its mean, and s3prl takes the square root of what is left, at times of a negative number.

    Args:
        x: (batch, feature, frame).
        weights: (batch, feature or 1, frame).

    Returns:
        (batch, 2 * feature), in float32.
    """
    x = x.float()
    mean = (weights * x).sum(2)
    variance = (weights * (x - mean[:, :, None]).square()).sum(2)
    return torch.cat([mean, _deviation(variance)], dim=1)


class AttentiveStatistics(nn.Module):
    """Attentive statistics pooling: each frame's share in mean and deviation is learned.

    ``softmax over frames of v · tanh(W h + b) + k``: Okabe, Koshinaka, Shinoda: Attentive statistics pooling for deep
    speaker embedding, Interspeech 2018, equations 1 to 6. With ``context``, a weight a feature rather than a frame,
    computed from the frame beside the utterance's plain mean and deviation: Desplanques, Thienpondt, Demuynck:
    ECAPA-TDNN, Interspeech 2020, section 3.1 (tanh without batch normalisation, as wespeaker).

    The softmax is over valid frames. s3prl ec8064b5 ``downstream/model.py`` (``AttentivePooling``) adds its mask of
    zeros and ones to the logits instead, so that padding keeps a share of the attention; ``downstream/sv_voxceleb1/
    model.py`` adds -100000 on padding, which works.

    Args:
        features: of the frames.
        hidden: features of W h.
        context: weights a feature, from the utterance's statistics as well.
    """

    def __init__(self, features: int, hidden: int, *, context: bool = False) -> None:
        super().__init__()
        self.hidden = nn.Conv1d(features, hidden, 1)
        self.context = nn.Linear(2 * features, hidden, bias=False) if context else None
        self.score = nn.Conv1d(hidden, features if context else 1, 1)

    def weights(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(batch, feature, frame) -> (batch, feature or 1, frame) float32, 0 on padding, adding up to 1 over frames."""
        hidden = self.hidden(x)  # (batch, hidden, frame)
        if self.context is not None:
            hidden = hidden + self.context(statistics_pooling(x, lengths))[:, :, None]
        scores = self.score(torch.tanh(hidden)).float()
        valid = valid_frames(lengths, x.shape[2])[:, None]
        weights: Tensor = scores.masked_fill(~valid, -math.inf).softmax(2)
        return weights

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(batch, feature, frame) and (batch,) valid frames -> (batch, 2 * feature), in float32."""
        # whatever lies on padding must not meet a weight of 0: it might not be finite
        x = x.masked_fill(~valid_frames(lengths, x.shape[2])[:, None], 0)
        return weighted_statistics(x, self.weights(x, lengths))


def attended_means(x: Tensor, scores: Tensor, lengths: Tensor) -> Tensor:
    """Means over the valid frames, one for each head of an attention.

    Args:
        x: (batch, frame, feature).
        scores: (batch, frame, head), before the softmax over frames.
        lengths: (batch,) valid frames, at least 1.

    Returns:
        (batch, head, feature), in float32.
    """
    valid = valid_frames(lengths, x.shape[1])[:, :, None]  # (batch, frame, 1)
    weights = scores.float().masked_fill(~valid, -math.inf).softmax(1)
    # whatever lies on padding must not meet a weight of 0: it might not be finite
    return torch.einsum("bfh,bfd->bhd", weights, x.float().masked_fill(~valid, 0))


def repeat_short(features: Tensor, lengths: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Bring utterances of fewer than ``least`` frames to ``least``, by repeating their frames from the first on.

    Args:
        features: (batch, frame, dim).
        lengths: (batch,) valid frames, at least 1.
        least: frames.

    Returns:
        features (batch, at least ``least`` frames, dim) and their lengths (batch,).
    """
    if int(lengths.min()) >= least:
        return features, lengths
    frames = torch.arange(max(features.shape[1], least), device=features.device).expand(len(lengths), -1)
    frames = torch.where(frames < lengths[:, None], frames, frames % lengths[:, None])
    repeated = features.gather(1, frames[:, :, None].expand(-1, -1, features.shape[2]))
    return repeated, lengths.clamp(min=least)
