"""Embedders: frames -> one vector an utterance, an embedding.

Shapes: ``batch`` utterances, ``frame`` upstream frames, ``dim`` features of the upstream, ``size`` of the embedding.
The embedding of an utterance does not depend on the batch that it is padded in; in training mode the batch
normalisation of ``ecapa`` mixes the utterances of a batch, by their valid frames alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.errors import BenchmarkError
from benchmark.registry import suggest
from downstream.pooling import (
    AttentiveStatistics,
    attended_means,
    mean_pooling,
    repeat_short,
    statistics_pooling,
    valid_frames,
)

_T = TypeVar("_T")


@dataclass
class EmbedderConfig:
    """Which embedder, and how large. A size of ``None`` is the embedder's own, as its class documents it.

    A card's sizes are those of its own head: with another name, set them to ``null``.
    """

    name: str = "xvector"
    """A key of ``EMBEDDERS`` in ``downstream/embedders.py``: ``xvector``, ``mean``, ``asp``, ``ecapa`` or ``mhfa``."""
    size: int | None = None
    """Features of the embedding (xvector: of its frame layers, too)."""
    pooled: int | None = None
    """xvector, asp, ecapa: features of the last frame layer, whose statistics are pooled."""
    channels: int | None = None
    """ecapa: features of the frame layers, a multiple of 8."""
    attention: int | None = None
    """asp, ecapa: hidden features of the attention; ecapa: of the squeeze-and-excitation, too. mhfa: features of a key
    and of a value."""
    heads: int | None = None
    """mhfa: of the attention."""

    def check(self) -> None:
        """Raise :class:`BenchmarkError` for an unknown name or a size that no embedder can have."""
        if self.name not in EMBEDDERS:
            raise BenchmarkError(
                f"unknown head '{self.name}' (task.head.name). " + suggest(self.name, sorted(EMBEDDERS))
            )
        for key in ("size", "pooled", "channels", "attention", "heads"):
            value = getattr(self, key)
            if value is not None and not value > 0:
                raise BenchmarkError(f"task.head.{key} must be positive, got {value}")
        if self.channels is not None and self.channels % _SERes2Block.SCALE:
            raise BenchmarkError(f"task.head.channels must be a multiple of {_SERes2Block.SCALE}, got {self.channels}")


class Embedder(nn.Module):
    """Frames -> one vector an utterance. Made by ``Embedder(feature_size, head_config)``."""

    size: int
    """Features of the embedding."""
    attends: bool = False
    """See :attr:`benchmark.interfaces.Head.attends`."""

    def embed(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frame, dim) and (batch,) valid frames, at least 1 -> (batch, size)."""
        raise NotImplementedError

    def classified(self, embeddings: Tensor) -> Tensor:
        """What the loss sees of ``embeddings`` (batch, size): they themselves, unless a layer comes between."""
        return embeddings


class XVector(Embedder):
    """SUPERB's x-vector; by default 512 features and 1,500 pooled ones.

    Linear to ``size``; five TDNN layers with ReLU (kernel, dilation: 5,1 3,2 3,3 1,1 1,1), neither batch normalisation
    nor dropout, which take 14 frames off; mean and deviation of ``pooled`` features over time; Linear and ReLU, whose
    output is the embedding; another Linear and ReLU before the loss. Operations, sizes and initialisation are
    those of s3prl ec8064b5, ``downstream/sv_voxceleb1/{model,expert}.py`` with ``configs/amsoftmax.yaml``. Utterances
    under 15 frames, on which s3prl fails, are brought to 15 by :func:`repeat_short`.
    """

    KERNELS = ((5, 1), (3, 2), (3, 3), (1, 1), (1, 1))
    """(kernel, dilation) a layer."""
    CONTEXT = sum((kernel - 1) * dilation for kernel, dilation in KERNELS)
    """Frames that the layers take off: 14."""

    def __init__(self, feature_size: int, config: EmbedderConfig) -> None:
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

    def __init__(self, feature_size: int, config: EmbedderConfig) -> None:
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

    def __init__(self, feature_size: int, config: EmbedderConfig) -> None:
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

    def __init__(self, feature_size: int, config: EmbedderConfig) -> None:
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


class MHFA(Embedder):
    """Multi-head factorised attentive pooling: 64 heads, keys and values of 128 features, embeddings of 256.

    Keys and values are two weighted sums of the layers, each with its weights, made smaller by a Linear. A head's
    scores are a linear map of the keys, of which the softmax over frames weights the values; the means of all heads,
    one after the other, go through a Linear. Peng, Plchot, Stafylakis, Mošner, Burget, Černocký: An attention-based
    backend allowing efficient fine-tuning of transformer models for speaker verification, SLT 2022 (2210.01273),
    section 3; sizes and names of layers as in wespeaker (``models/ssl_backend.py``). The softmax there sees padding,
    which it does not here. Of a single layer, keys and values are made of the same features.
    """

    attends = True

    def __init__(self, feature_size: int, config: EmbedderConfig) -> None:
        super().__init__()
        heads, compressed = _or(config.heads, 64), _or(config.attention, 128)
        self.size, self.feature_size = _or(config.size, 256), feature_size
        self.cmp_linear_k = nn.Linear(feature_size, compressed)
        self.cmp_linear_v = nn.Linear(feature_size, compressed)
        self.att_head = nn.Linear(compressed, heads)
        self.pooling_fc = nn.Linear(heads * compressed, self.size)

    def embed(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frame, 2 * dim), keys first, or (batch, frame, dim) -> (batch, size)."""
        keys, values = features[..., : self.feature_size], features[..., -self.feature_size :]
        scores = self.att_head(self.cmp_linear_k(keys))  # (batch, frame, head)
        means = attended_means(self.cmp_linear_v(values), scores, lengths)  # (batch, head, compressed)
        embeddings: Tensor = self.pooling_fc(means.flatten(1))
        return embeddings


EMBEDDERS: dict[str, type[XVector | MeanPooling | ASP | ECAPA | MHFA]] = {
    "xvector": XVector,
    "mean": MeanPooling,
    "asp": ASP,
    "ecapa": ECAPA,
    "mhfa": MHFA,
}
"""An embedder is made by ``Embedder(feature_size, head_config)``."""


def _or(value: _T | None, default: _T) -> _T:
    return default if value is None else value
