"""Losses over training classes.

Shapes: ``batch`` utterances, ``size`` of the embedding, ``class`` training classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.errors import BenchmarkError
from benchmark.registry import suggest


@dataclass
class LossConfig:
    """Which loss over the training classes. ``None`` is the loss' own value, as its class documents it.

    A card's values are those of its own loss: with another name, set them to ``null``.
    """

    name: str = "amsoftmax"
    """A key of ``LOSSES`` in ``downstream/losses.py``: ``softmax``, ``amsoftmax`` or ``aamsoftmax``."""
    scale: float | None = None
    """amsoftmax, aamsoftmax: what cosines are multiplied with."""
    margin: float | None = None
    """amsoftmax: what is taken off the true class' cosine; aamsoftmax: what is added to its angle, in radians."""

    def check(self) -> None:
        """Raise :class:`BenchmarkError` for an unknown name or a value that no loss can have."""
        if self.name not in LOSSES:
            raise BenchmarkError(f"unknown loss '{self.name}' (task.loss.name). " + suggest(self.name, sorted(LOSSES)))
        if self.scale is not None and not self.scale > 0:
            raise BenchmarkError(f"task.loss.scale must be positive, got {self.scale}")
        if self.margin is not None and not 0 <= self.margin < 1:
            raise BenchmarkError(f"task.loss.margin must be at least 0 and less than 1, got {self.margin}")


class Softmax(nn.Module):
    """A linear classifier with cross-entropy."""

    def __init__(self, size: int, classes: int, config: LossConfig) -> None:
        super().__init__()
        self.fc = nn.Linear(size, classes)

    def logits(self, embeddings: Tensor) -> Tensor:
        """(batch, size) -> (batch, class), in float32."""
        logits: Tensor = self.fc(embeddings).float()
        return logits

    def forward(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of ``embeddings`` (batch, size) and ``targets`` (batch,) int64."""
        return F.cross_entropy(self.logits(embeddings), targets)


class AMSoftmax(nn.Module):
    """Additive-margin softmax: cross-entropy of ``scale * (cosine - margin * [true class])``; by default 30 and 0.4.

    Wang et al., Additive margin softmax for face verification, IEEE SPL 2018; as ``AMSoftmaxLoss`` of s3prl, whose
    values the defaults are.
    """

    def __init__(self, size: int, classes: int, config: LossConfig) -> None:
        super().__init__()
        self.scale = 30.0 if config.scale is None else config.scale
        self.margin = 0.4 if config.margin is None else config.margin
        self.W = nn.Parameter(nn.init.xavier_normal_(torch.empty(size, classes)))  # s3prl's name

    def cosines(self, embeddings: Tensor) -> Tensor:
        """(batch, size) -> (batch, class), in float32."""
        with torch.autocast(embeddings.device.type, enabled=False):  # scaled cosines need their digits
            return F.normalize(embeddings.float(), dim=1) @ F.normalize(self.W.float(), dim=0)

    def logits(self, embeddings: Tensor) -> Tensor:
        """(batch, size) -> (batch, class), in float32: scaled cosines, without the margin."""
        return self.scale * self.cosines(embeddings)

    def with_margin(self, cosines: Tensor) -> Tensor:
        """What the cosine of the true class becomes."""
        return cosines - self.margin

    def forward(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of ``embeddings`` (batch, size) and ``targets`` (batch,) int64."""
        cosines = self.cosines(embeddings)
        true = cosines.gather(1, targets[:, None])  # (batch, 1)
        return F.cross_entropy(self.scale * cosines.scatter(1, targets[:, None], self.with_margin(true)), targets)


class AAMSoftmax(AMSoftmax):
    """Additive-angular-margin softmax (ArcFace): the true class' ``cos(θ)`` becomes ``cos(θ + margin)``.

    Deng et al., ArcFace: Additive angular margin loss for deep face recognition, CVPR 2019; by default scale 30 and
    margin 0.2, as SpeechBrain's and wespeaker's ECAPA recipes (s3prl ec8064b5, ``configs/aamsoftmax.yaml``: 15 and
    0.3). Beyond ``θ = π - margin``, where ``cos(θ + margin)`` would rise again, it is continued by ``cos(θ) - margin *
    sin(margin)``, so that the loss never falls with the angle: the authors' code, without its easy margin.

    ``sin(θ)`` counts as constant where it is below 3.5e-4 (within float32's rounding of a cosine of ±1): its gradient
    would be infinite there, and s3prl's is NaN.
    """

    def __init__(self, size: int, classes: int, config: LossConfig) -> None:
        super().__init__(size, classes, replace(config, margin=0.2 if config.margin is None else config.margin))

    def with_margin(self, cosines: Tensor) -> Tensor:
        """What the cosine of the true class becomes."""
        sines = (1 - cosines.square()).clamp(min=torch.finfo(cosines.dtype).eps).sqrt()
        added = cosines * math.cos(self.margin) - sines * math.sin(self.margin)
        continued = cosines - self.margin * math.sin(self.margin)
        return torch.where(cosines > -math.cos(self.margin), added, continued)


LOSSES: dict[str, type[Softmax | AMSoftmax | AAMSoftmax]] = {
    "softmax": Softmax,
    "amsoftmax": AMSoftmax,
    "aamsoftmax": AAMSoftmax,
}
"""A loss is made by ``Loss(size, classes, loss_config)``."""
