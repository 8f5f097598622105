"""Speaker embedding heads and the losses that train them.

Shapes: ``batch`` utterances, ``frame`` upstream frames, ``dim`` features of the upstream, ``size`` of the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.errors import BenchmarkError
from benchmark.interfaces import Head
from benchmark.registry import suggest


@dataclass
class HeadConfig:
    """Which head, and how large."""

    name: str = "xvector"
    """A key of ``HEADS`` in ``downstream/sv/heads.py``."""
    size: int = 512
    """Features of the frame layers and of the embedding."""
    pooled: int = 1500
    """xvector: features of the last frame layer, whose mean and deviation are pooled."""


@dataclass
class LossConfig:
    """Which loss over the training speakers."""

    name: str = "amsoftmax"
    """A key of ``LOSSES`` in ``downstream/sv/heads.py``: ``amsoftmax`` or ``softmax``."""
    scale: float = 30.0
    """amsoftmax: what cosines are multiplied with."""
    margin: float = 0.4
    """amsoftmax: what is taken off the cosine of the true speaker."""


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
    valid = torch.arange(x.shape[2], device=x.device) < lengths[:, None, None]  # (batch, 1, frame)
    count = lengths[:, None].to(x.dtype)
    mean = x.masked_fill(~valid, 0).sum(2) / count
    variance = (x - mean[:, :, None]).masked_fill(~valid, 0).square().sum(2) / (count - 1).clamp(min=1)
    tiny = torch.finfo(x.dtype).tiny  # keeps sqrt's gradient finite where `where` then drops it
    deviation = torch.where(variance > 0, variance.clamp(min=tiny).sqrt(), 0)
    return torch.cat([mean, deviation], dim=1)


def repeat_short(features: Tensor, lengths: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Bring utterances of fewer than ``least`` frames to ``least``, by repeating their frames from the first on.

    Args:
        features: (batch, frame, dim).
        lengths: (batch,) valid frames.
        least: frames.

    Returns:
        features (batch, at least ``least`` frames, dim) and their lengths (batch,).
    """
    shortest = int(lengths.min())
    if shortest >= least:
        return features, lengths
    if shortest < 1:
        raise BenchmarkError("an utterance without a single frame cannot be embedded; drop it from the manifest")
    frames = torch.arange(max(features.shape[1], least), device=features.device).expand(len(lengths), -1)
    frames = torch.where(frames < lengths[:, None], frames, frames % lengths[:, None])
    repeated = features.gather(1, frames[:, :, None].expand(-1, -1, features.shape[2]))
    return repeated, lengths.clamp(min=least)


class AMSoftmax(nn.Module):
    """Additive-margin softmax: cross-entropy of ``scale * (cosine - margin * [true speaker])``.

    Wang et al., Additive margin softmax for face verification, IEEE SPL 2018; as ``AMSoftmaxLoss`` of s3prl.
    """

    def __init__(self, size: int, classes: int, config: LossConfig) -> None:
        super().__init__()
        self.scale, self.margin = config.scale, config.margin
        self.W = nn.Parameter(nn.init.xavier_normal_(torch.empty(size, classes)))  # s3prl's name

    def forward(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of ``embeddings`` (batch, size) and ``targets`` (batch,) int64."""
        with torch.autocast(embeddings.device.type, enabled=False):  # scaled cosines need their digits
            cosines = F.normalize(embeddings.float(), dim=1) @ F.normalize(self.W.float(), dim=0)  # (batch, class)
            margins = self.margin * F.one_hot(targets, cosines.shape[1])
            return F.cross_entropy(self.scale * (cosines - margins), targets)


class Softmax(nn.Module):
    """A linear classifier with cross-entropy."""

    def __init__(self, size: int, classes: int, config: LossConfig) -> None:
        super().__init__()
        self.fc = nn.Linear(size, classes)

    def forward(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of ``embeddings`` (batch, size) and ``targets`` (batch,) int64."""
        return F.cross_entropy(self.fc(embeddings).float(), targets)


class XVector(Head):
    """SUPERB's x-vector.

    Linear to ``size``; five TDNN layers with ReLU (kernel, dilation: 5,1 3,2 3,3 1,1 1,1), neither batch normalisation
    nor dropout, which take 14 frames off; mean and deviation of ``pooled`` features over time; Linear and ReLU, whose
    output is the embedding; in training another Linear and ReLU before the loss. Operations, sizes and initialisation
    are those of s3prl ec8064b5, ``downstream/sv_voxceleb1/{model,expert}.py`` with ``configs/amsoftmax.yaml``.
    Utterances under 15 frames, on which s3prl fails, are brought to 15 by :func:`repeat_short`.

    Args:
        feature_size: dim.
        classes: training speakers.
        config: sizes.
        loss: the training loss.
    """

    KERNELS = ((5, 1), (3, 2), (3, 3), (1, 1), (1, 1))
    """(kernel, dilation) a layer."""
    CONTEXT = sum((kernel - 1) * dilation for kernel, dilation in KERNELS)
    """Frames that the layers take off: 14."""

    def __init__(self, feature_size: int, classes: int, config: HeadConfig, loss: LossConfig) -> None:
        super().__init__()
        self.connector = nn.Linear(feature_size, config.size)
        widths = [config.size] * len(self.KERNELS) + [config.pooled]
        self.tdnn = nn.ModuleList(
            nn.Conv1d(width, next_width, kernel, dilation=dilation)
            for (width, next_width), (kernel, dilation) in zip(pairwise(widths), self.KERNELS, strict=True)
        )
        self.linear1 = nn.Linear(2 * config.pooled, config.size)
        self.linear2 = nn.Linear(config.size, config.size)
        self.objective = make_loss(config.size, classes, loss)

    def embed(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frame, dim) and (batch,) valid frames -> (batch, size)."""
        features, lengths = repeat_short(features, lengths, self.CONTEXT + 1)
        x = self.connector(features).transpose(1, 2)  # (batch, size, frame)
        for layer in self.tdnn:
            x = F.relu(layer(x))
        # (batch, pooled, frame - 14): frame t saw inputs t .. t + 14 only, so the first lengths - 14 saw no padding
        return F.relu(self.linear1(statistics_pooling(x, lengths - self.CONTEXT)))

    def loss(self, features: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
        """Mean loss; ``targets`` (batch,) are classes."""
        loss: Tensor = self.objective(F.relu(self.linear2(self.embed(features, lengths))), targets)
        return loss

    @torch.no_grad()
    def predict(self, features: Tensor, lengths: Tensor) -> list[Tensor]:
        """One embedding (size,) an utterance, float32."""
        return list(self.embed(features, lengths).float().cpu())


HEADS = {"xvector": XVector}
"""A head is made by ``Head(feature_size, classes, head_config, loss_config)``."""
LOSSES: dict[str, type[AMSoftmax | Softmax]] = {"amsoftmax": AMSoftmax, "softmax": Softmax}
"""A loss is made by ``Loss(size, classes, loss_config)``."""


def check_names(head: HeadConfig, loss: LossConfig) -> None:
    """Raise on names that no table has and on sizes that no head can have."""
    if head.name not in HEADS:
        raise BenchmarkError(f"unknown head '{head.name}' (task.head.name). " + suggest(head.name, sorted(HEADS)))
    if loss.name not in LOSSES:
        raise BenchmarkError(f"unknown loss '{loss.name}' (task.loss.name). " + suggest(loss.name, sorted(LOSSES)))
    for key, value in (("head.size", head.size), ("head.pooled", head.pooled), ("loss.scale", loss.scale)):
        if value <= 0:
            raise BenchmarkError(f"task.{key} must be positive, got {value}")


def make_head(feature_size: int, classes: int, head: HeadConfig, loss: LossConfig) -> Head:
    """The head that ``head.name`` names, freshly initialised."""
    check_names(head, loss)
    return HEADS[head.name](feature_size, classes, head, loss)


def make_loss(size: int, classes: int, loss: LossConfig) -> nn.Module:
    """The loss that ``loss.name`` names, freshly initialised."""
    return LOSSES[loss.name](size, classes, loss)
