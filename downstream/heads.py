"""Heads that turn an utterance into one vector, and the losses that train them on its class.

Speaker verification, speaker identification and language identification share them. An *embedder* pools an utterance's
frames into an embedding; an *objective* is a loss over the training classes; :class:`Classifier` is the two together.

Shapes: ``batch`` utterances, ``frame`` upstream frames, ``dim`` features of the upstream, ``size`` of the embedding,
``class`` training classes. The embedding of an utterance does not depend on the batch that it is padded in; in training
mode the batch normalisation of ``ecapa`` mixes the utterances of a batch, by their valid frames alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.errors import BenchmarkError
from benchmark.interfaces import Head
from benchmark.registry import suggest

_T = TypeVar("_T")


@dataclass
class HeadConfig:
    """Which embedder, and how large. A size of ``None`` is the embedder's own, as its class documents it.

    A card's sizes are those of its own head: with another name, set them to ``null``.
    """

    name: str = "xvector"
    """A key of ``EMBEDDERS`` in ``downstream/heads.py``: ``xvector``, ``mean``, ``asp`` or ``ecapa``."""
    size: int | None = None
    """Features of the embedding (xvector: of its frame layers, too)."""
    pooled: int | None = None
    """xvector, asp, ecapa: features of the last frame layer, whose statistics are pooled."""
    channels: int | None = None
    """ecapa: features of the frame layers, a multiple of 8."""
    attention: int | None = None
    """asp, ecapa: hidden features of the attention; ecapa: of the squeeze-and-excitation, too."""


@dataclass
class LossConfig:
    """Which loss over the training classes. ``None`` is the loss' own value, as its class documents it.

    A card's values are those of its own loss: with another name, set them to ``null``.
    """

    name: str = "amsoftmax"
    """A key of ``LOSSES`` in ``downstream/heads.py``: ``softmax``, ``amsoftmax`` or ``aamsoftmax``."""
    scale: float | None = None
    """amsoftmax, aamsoftmax: what cosines are multiplied with."""
    margin: float | None = None
    """amsoftmax: what is taken off the true class' cosine; aamsoftmax: what is added to its angle, in radians."""


# --- Pooling ----------------------------------------------------------------------------------------------------------


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


# --- Embedders --------------------------------------------------------------------------------------------------------


class Embedder(nn.Module):
    """Frames -> one vector an utterance. Made by ``Embedder(feature_size, head_config)``."""

    size: int
    """Features of the embedding."""

    def embed(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frame, dim) and (batch,) valid frames, at least 1 -> (batch, size)."""
        raise NotImplementedError

    def classified(self, embeddings: Tensor) -> Tensor:
        """What the objective sees of ``embeddings`` (batch, size): they themselves, unless a layer comes between."""
        return embeddings


class XVector(Embedder):
    """SUPERB's x-vector; by default 512 features and 1,500 pooled ones.

    Linear to ``size``; five TDNN layers with ReLU (kernel, dilation: 5,1 3,2 3,3 1,1 1,1), neither batch normalisation
    nor dropout, which take 14 frames off; mean and deviation of ``pooled`` features over time; Linear and ReLU, whose
    output is the embedding; another Linear and ReLU before the objective. Operations, sizes and initialisation are
    those of s3prl ec8064b5, ``downstream/sv_voxceleb1/{model,expert}.py`` with ``configs/amsoftmax.yaml``. Utterances
    under 15 frames, on which s3prl fails, are brought to 15 by :func:`repeat_short`.
    """

    KERNELS = ((5, 1), (3, 2), (3, 3), (1, 1), (1, 1))
    """(kernel, dilation) a layer."""
    CONTEXT = sum((kernel - 1) * dilation for kernel, dilation in KERNELS)
    """Frames that the layers take off: 14."""

    def __init__(self, feature_size: int, config: HeadConfig) -> None:
        super().__init__()
        self.size, pooled = _or(config.size, 512), _or(config.pooled, 1500)
        self.connector = nn.Linear(feature_size, self.size)
        widths = [self.size] * len(self.KERNELS) + [pooled]
        self.tdnn = nn.ModuleList(
            nn.Conv1d(width, next_width, kernel, dilation=dilation)
            for (width, next_width), (kernel, dilation) in zip(pairwise(widths), self.KERNELS, strict=True)
        )
        self.linear1 = nn.Linear(2 * pooled, self.size)
        self.linear2 = nn.Linear(self.size, self.size)

    def embed(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frame, dim) and (batch,) valid frames, at least 1 -> (batch, size)."""
        features, lengths = repeat_short(features, lengths, self.CONTEXT + 1)
        x = self.connector(features).transpose(1, 2)  # (batch, size, frame)
        for layer in self.tdnn:
            x = F.relu(layer(x))
        # (batch, pooled, frame - 14): frame t saw inputs t .. t + 14 only, so the first lengths - 14 saw no padding
        return F.relu(self.linear1(statistics_pooling(x, lengths - self.CONTEXT)))

    def classified(self, embeddings: Tensor) -> Tensor:
        """(batch, size) -> (batch, size): the second Linear and ReLU."""
        return F.relu(self.linear2(embeddings))


class MeanPooling(Embedder):
    """Linear to ``size`` (256) and the mean over time, without an activation.

    The embedding of SUPERB's speaker identification: s3prl ec8064b5, ``downstream/voxceleb1`` (``projector``, then
    ``UtteranceLevel`` with ``MeanPooling``).
    """

    def __init__(self, feature_size: int, config: HeadConfig) -> None:
        super().__init__()
        self.size = _or(config.size, 256)
        self.connector = nn.Linear(feature_size, self.size)

    def embed(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frame, dim) and (batch,) valid frames, at least 1 -> (batch, size)."""
        return mean_pooling(self.connector(features).transpose(1, 2), lengths)


class ASP(Embedder):
    """Linear and ReLU to ``pooled`` (1,500) features, attentive statistics (hidden 128), Linear to ``size`` (512).

    Okabe et al. pool 1,500 frame features of an x-vector's TDNN into 3,000; here the upstream is what gives frames
    their context, so one layer stands for the TDNN. The attention's hidden size is ECAPA's.
    """

    def __init__(self, feature_size: int, config: HeadConfig) -> None:
        super().__init__()
        self.size, pooled = _or(config.size, 512), _or(config.pooled, 1500)
        self.connector = nn.Linear(feature_size, pooled)
        self.pooling = AttentiveStatistics(pooled, _or(config.attention, 128))
        self.linear = nn.Linear(2 * pooled, self.size)

    def embed(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frame, dim) and (batch,) valid frames, at least 1 -> (batch, size)."""
        x = F.relu(self.connector(features)).transpose(1, 2)  # (batch, pooled, frame)
        embeddings: Tensor = self.linear(self.pooling(x, lengths))
        return embeddings


@dataclass
class _Frames:
    """Which frames of a batch are valid."""

    lengths: Tensor
    """(batch,)."""
    valid: Tensor
    """(batch, 1, frame) bool."""
    index: Tensor
    """(valid frames,) positions in the flattened (batch, frame); found once a batch, as it waits for the device."""


class _FrameNorm(nn.Module):
    """Batch normalisation over valid frames: padding neither moves the statistics nor comes out other than 0."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(features)

    def forward(self, x: Tensor, frames: _Frames) -> Tensor:
        """(batch, feature, frame) -> the same shape."""
        if not self.training:
            normed: Tensor = self.norm(x)
            return normed.masked_fill(~frames.valid, 0)
        batch, features, frame = x.shape
        rows: Tensor = self.norm(x.transpose(1, 2).reshape(-1, features).index_select(0, frames.index))
        whole = rows.new_zeros(batch * frame, features).index_copy(0, frames.index, rows)
        return whole.view(batch, frame, features).transpose(1, 2)


class _TDNNBlock(nn.Module):
    """Convolution that keeps the number of frames, ReLU, batch normalisation."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, dilation=dilation, padding=dilation * (kernel - 1) // 2)
        self.norm = _FrameNorm(outputs)

    def forward(self, x: Tensor, frames: _Frames) -> Tensor:
        """(batch, inputs, frame), 0 on padding -> (batch, outputs, frame), 0 on padding."""
        normed: Tensor = self.norm(F.relu(self.conv(x)), frames)
        return normed


class _SERes2Block(nn.Module):
    """1x1, Res2Net convolution, 1x1, squeeze and excitation, residual connection."""

    SCALE = 8

    def __init__(self, channels: int, kernel: int, dilation: int, squeezed: int) -> None:
        super().__init__()
        self.before = _TDNNBlock(channels, channels)
        part = channels // self.SCALE
        self.res2 = nn.ModuleList(_TDNNBlock(part, part, kernel, dilation) for _ in range(self.SCALE - 1))
        self.after = _TDNNBlock(channels, channels)
        self.squeeze = nn.Linear(channels, squeezed)
        self.excite = nn.Linear(squeezed, channels)

    def forward(self, x: Tensor, frames: _Frames) -> Tensor:
        """(batch, channels, frame), 0 on padding -> the same."""
        first, *others = self.before(x, frames).chunk(self.SCALE, dim=1)
        parts = [first]
        for block, part in zip(self.res2, others, strict=True):
            parts.append(block(part if len(parts) == 1 else part + parts[-1], frames))
        y = self.after(torch.cat(parts, dim=1), frames)
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(mean_pooling(y, frames.lengths)))))
        gated: Tensor = gate[:, :, None] * y + x
        return gated


class ECAPA(Embedder):
    """ECAPA-TDNN; by default 512 channels, 1,536 pooled features, bottlenecks of 128 and embeddings of 192.

    Convolution of kernel 5; three SE-Res2Blocks (kernel 3, dilation 2, 3, 4, scale 8); their outputs concatenated and
    brought to ``pooled`` features (multi-layer feature aggregation); attention a feature, with global context; batch
    normalisation; Linear. Desplanques, Thienpondt, Demuynck: ECAPA-TDNN: Emphasized channel attention, propagation and
    aggregation in TDNN based speaker verification, Interspeech 2020. As in SpeechBrain (``lobes/models/ECAPA_TDNN.py``)
    and wespeaker (``models/ecapa_tdnn.py``) a block's input is the last block's output, not the sum of all before, and
    no batch normalisation follows the last Linear. Frames outside of the utterance count as 0, whether there is padding
    or not (SpeechBrain reflects). Batch normalisation, the squeeze and the pooling see valid frames only; where they do
    not (s3prl ``nn/speaker_model.py``, wespeaker), an utterance's embedding moves with its batch.
    """

    DILATIONS = (2, 3, 4)

    def __init__(self, feature_size: int, config: HeadConfig) -> None:
        super().__init__()
        channels, attention = _or(config.channels, 512), _or(config.attention, 128)
        self.size, pooled = _or(config.size, 192), _or(config.pooled, 1536)
        self.first = _TDNNBlock(feature_size, channels, kernel=5)
        self.blocks = nn.ModuleList(_SERes2Block(channels, 3, dilation, attention) for dilation in self.DILATIONS)
        self.aggregation = _TDNNBlock(len(self.DILATIONS) * channels, pooled)
        self.pooling = AttentiveStatistics(pooled, attention, context=True)
        self.norm = nn.BatchNorm1d(2 * pooled)
        self.linear = nn.Linear(2 * pooled, self.size)

    def embed(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frame, dim) and (batch,) valid frames, at least 1 -> (batch, size).

        Raises:
            BenchmarkError: in training mode, a batch of one utterance, over which nothing can be normalised.
        """
        if self.training and len(features) < 2:
            raise BenchmarkError(
                "head 'ecapa' normalises over the batch and cannot be trained on batches of one utterance; "
                "set trainer.batch_size to 2 or more"
            )
        valid = valid_frames(lengths, features.shape[1])  # (batch, frame)
        frames = _Frames(lengths, valid[:, None], valid.flatten().nonzero()[:, 0])
        x = self.first(features.transpose(1, 2).masked_fill(~frames.valid, 0), frames)  # (batch, channels, frame)
        outputs = []
        for block in self.blocks:
            x = block(x, frames)
            outputs.append(x)
        x = self.aggregation(torch.cat(outputs, dim=1), frames)  # (batch, pooled, frame)
        embeddings: Tensor = self.linear(self.norm(self.pooling(x, lengths)))
        return embeddings


EMBEDDERS: dict[str, type[XVector | MeanPooling | ASP | ECAPA]] = {
    "xvector": XVector,
    "mean": MeanPooling,
    "asp": ASP,
    "ecapa": ECAPA,
}
"""An embedder is made by ``Embedder(feature_size, head_config)``."""


# --- Objectives -------------------------------------------------------------------------------------------------------


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
        self.scale, self.margin = _or(config.scale, 30.0), _or(config.margin, 0.4)
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
        super().__init__(size, classes, LossConfig(config.name, config.scale, _or(config.margin, 0.2)))

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
"""An objective is made by ``Loss(size, classes, loss_config)``."""


# --- Heads ------------------------------------------------------------------------------------------------------------


class Classifier(Head):
    """An embedder and the objective that trains it; predicts log-posteriors.

    Args:
        feature_size: dim.
        classes: training classes.
        head: the embedder.
        loss: the objective.

    Raises:
        BenchmarkError: as :func:`check_names`.
    """

    def __init__(self, feature_size: int, classes: int, head: HeadConfig, loss: LossConfig) -> None:
        super().__init__()
        check_names(head, loss)
        self.embedder = EMBEDDERS[head.name](feature_size, head)
        self.mean_suffices = head.name == "mean"  # a linear layer, then the mean
        self.objective = LOSSES[loss.name](self.embedder.size, classes, loss)

    def embed(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frame, dim) and (batch,) valid frames -> (batch, size)."""
        if int(lengths.min()) < 1:
            raise BenchmarkError("an utterance without a single frame cannot be embedded; drop it from the manifest")
        return self.embedder.embed(features, lengths)

    def loss(self, features: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
        """Mean loss; ``targets`` (batch,) int64 are classes."""
        loss: Tensor = self.objective(self.embedder.classified(self.embed(features, lengths)), targets)
        return loss

    def log_posteriors(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frame, dim) and (batch,) valid frames -> (batch, class), in float32."""
        return self.objective.logits(self.embedder.classified(self.embed(features, lengths))).log_softmax(1)

    @torch.no_grad()
    def predict(self, features: Tensor, lengths: Tensor) -> list[Tensor]:
        """Log-posteriors (class,) an utterance, float32."""
        return list(self.log_posteriors(features, lengths).cpu())


class SpeakerEncoder(Classifier):
    """The same trained the same way; predicts embeddings."""

    @torch.no_grad()
    def predict(self, features: Tensor, lengths: Tensor) -> list[Tensor]:
        """One embedding (size,) an utterance, float32."""
        return list(self.embed(features, lengths).float().cpu())


def check_names(head: HeadConfig, loss: LossConfig) -> None:
    """Raise on names that no table has and on sizes that no head can have."""
    if head.name not in EMBEDDERS:
        raise BenchmarkError(f"unknown head '{head.name}' (task.head.name). " + suggest(head.name, sorted(EMBEDDERS)))
    if loss.name not in LOSSES:
        raise BenchmarkError(f"unknown loss '{loss.name}' (task.loss.name). " + suggest(loss.name, sorted(LOSSES)))
    sizes = {f"head.{key}": getattr(head, key) for key in ("size", "pooled", "channels", "attention")}
    for key, value in (sizes | {"loss.scale": loss.scale}).items():
        if value is not None and not value > 0:
            raise BenchmarkError(f"task.{key} must be positive, got {value}")
    if head.channels is not None and head.channels % _SERes2Block.SCALE:
        raise BenchmarkError(f"task.head.channels must be a multiple of {_SERes2Block.SCALE}, got {head.channels}")
    if loss.margin is not None and not 0 <= loss.margin < 1:
        raise BenchmarkError(f"task.loss.margin must be at least 0 and less than 1, got {loss.margin}")


def nested(kind: type[Any], key: str, value: Any) -> Any:
    """A nested option group ``task.<key>`` that a card or a call gave as a mapping, as the dataclass ``kind``."""
    if not isinstance(value, Mapping):
        return value
    known = list(kind.__dataclass_fields__)
    for name in value:
        if name not in known:
            raise BenchmarkError(f"unknown option 'task.{key}.{name}'. " + suggest(str(name), known))
    return kind(**value)


def _or(value: _T | None, default: _T) -> _T:
    return default if value is None else value
