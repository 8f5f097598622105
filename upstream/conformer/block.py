"""The Conformer block (https://arxiv.org/abs/2005.08100) as wav2vec 2.0 Conformer and w2v-BERT 2.0 have it.

Follows fairseq's ``modules/conformer_layer.py``, ``espnet_multihead_attention.py`` and its two position encodings, and
transformers' ``models/wav2vec2_bert``, with the transformer's names for what all have. There is no positional
convolution: attention knows the distance of frames, by sinusoids of it (``rel_pos``, https://arxiv.org/abs/1901.02860),
by rotation (``rope``), which is applied before the projections of queries and keys, not after, or by a table of
distances up to a limit (``relative_key``, https://arxiv.org/abs/1803.02155).
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upstream.packing import Packing
from upstream.products import Linear
from upstream.wav2vec2.config import Wav2Vec2Config


class ConformerPositions(nn.Module):
    """What attention knows of positions; no parameters."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.config = config
        self.relative = config.pos_enc_type == "rel_pos"
        self.size = config.encoder_embed_dim // (1 if self.relative else config.encoder_attention_heads)

    def forward(self, frames: int, device: torch.device) -> Tensor:
        """``rel_pos``: (2 * frames - 1, dim), sinusoids of the distances frames - 1 … 1 - frames, query - key.
        ``rope``: (frames, 2, dim / head), cosines and sines of each position.
        ``relative_key``: (frames, frames), rows of the table for each query and key."""
        if self.config.pos_enc_type == "relative_key":
            left, right = self.config.left_max_position_embeddings, self.config.right_max_position_embeddings
            frame = torch.arange(frames, device=device)
            return (frame - frame[:, None]).clamp(-left, right) + left
        exponents = torch.arange(0, self.size, 2, device=device) / self.size
        if self.relative:
            angles = torch.arange(frames - 1, -frames, -1, device=device)[:, None] * 10000.0**-exponents
            return torch.stack((angles.sin(), angles.cos()), dim=2).flatten(1)
        angles = (torch.arange(frames, device=device)[:, None] * 10000.0**-exponents).repeat(1, 2)
        return torch.stack((angles.cos(), angles.sin()), dim=1)


class FeedForward(nn.Module):
    """(row, dim) -> the same."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.config = config
        self.layer_norm = nn.LayerNorm(config.encoder_embed_dim)
        self.fc1 = Linear(config.encoder_embed_dim, config.encoder_ffn_embed_dim)
        self.fc2 = Linear(config.encoder_ffn_embed_dim, config.encoder_embed_dim)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = F.dropout(F.silu(self.fc1(self.layer_norm(x))), self.config.activation_dropout, self.training)
        return F.dropout(self.fc2(x), self.config.dropout, self.training)


class Convolution(nn.Module):
    """(row, dim) -> the same: a gated linear unit, a convolution of each channel within utterances, BatchNorm over the
    rows; or, with ``causal_conv``, a convolution of no later frame and LayerNorm."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        dim, kernel = config.encoder_embed_dim, config.depthwise_conv_kernel_size
        self.config = config
        self.layer_norm = nn.LayerNorm(dim)
        self.pointwise_conv1 = nn.Conv1d(dim, 2 * dim, 1, bias=False)
        self.before, self.after = (kernel - 1, 0) if config.causal_conv else (kernel // 2, kernel // 2)
        self.depthwise_conv = nn.Conv1d(dim, dim, kernel, groups=dim, bias=False)
        if config.causal_conv:
            self.depthwise_layer_norm = nn.LayerNorm(dim)
        else:
            self.batch_norm = nn.BatchNorm1d(dim)
        self.pointwise_conv2 = nn.Conv1d(dim, dim, 1, bias=False)

    def forward(self, x: Tensor, packing: Packing) -> Tensor:  # noqa: D102
        x = F.glu(F.linear(self.layer_norm(x), self.pointwise_conv1.weight.squeeze(2)), dim=1)

        def convolve(x: Tensor) -> Tensor:
            padded = F.pad(x.transpose(1, 2), (self.before, self.after))
            return cast(Tensor, self.depthwise_conv(padded)).transpose(1, 2)

        x = packing.apart(x, self.before, convolve)
        x = self.depthwise_layer_norm(x) if self.config.causal_conv else self.batch_norm(x)
        x = F.linear(F.silu(x), self.pointwise_conv2.weight.squeeze(2))
        return F.dropout(x, self.config.dropout, self.training)


class ConformerAttention(nn.Module):
    """Multi-head self-attention with one of the three kinds of positions."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        dim = config.encoder_embed_dim
        self.heads, self.config = config.encoder_attention_heads, config
        self.k_proj = Linear(dim, dim)
        self.v_proj = Linear(dim, dim)
        self.q_proj = Linear(dim, dim)
        self.out_proj = Linear(dim, dim)
        if config.pos_enc_type == "rel_pos":
            self.pos_proj = Linear(dim, dim, bias=False)
            self.pos_bias_u = nn.Parameter(torch.zeros(self.heads, dim // self.heads))
            self.pos_bias_v = nn.Parameter(torch.zeros(self.heads, dim // self.heads))
        elif config.pos_enc_type == "relative_key":
            distances = config.left_max_position_embeddings + config.right_max_position_embeddings + 1
            self.distance_embedding = nn.Embedding(distances, dim // self.heads)
            nn.init.normal_(self.distance_embedding.weight, std=0.02)

    def forward(self, x: Tensor, packing: Packing, positions: Tensor) -> Tensor:
        """(row, dim) -> the same; ``positions`` from :class:`ConformerPositions`."""
        kind = self.config.pos_enc_type
        source = self._rotate(x, packing, positions) if kind == "rope" else x
        q = self.q_proj(source).unflatten(1, (self.heads, -1))  # (row, head, dim / head)
        k = self.k_proj(source).unflatten(1, (self.heads, -1))
        v = self.v_proj(x).unflatten(1, (self.heads, -1))
        dropout = self.config.attention_dropout if self.training else 0.0
        if kind == "rope":
            x = packing.attend(q, k, v, dropout)
        elif kind == "rel_pos":
            x = self._attend_by_sinusoids(packing, q, k, v, positions, dropout)
        else:
            x = self._attend_by_table(packing, q, k, v, positions, dropout)
        return cast(Tensor, self.out_proj(x.flatten(1)))

    def _rotate(self, x: Tensor, packing: Packing, positions: Tensor) -> Tensor:
        cos, sin = packing.pack(positions.expand(len(packing.lengths), -1, -1, -1)).to(x.dtype)[:, :, None].unbind(1)
        heads = x.view(len(x), self.heads, -1)
        one, two = heads.chunk(2, dim=2)
        return (heads * cos + torch.cat((-two, one), dim=2) * sin).flatten(1)

    def _attend_by_sinusoids(
        self, packing: Packing, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, dropout: float
    ) -> Tensor:
        """One utterance after the other: the logits are biased by what each query makes of each distance."""
        distances = self.pos_proj(positions.to(q.dtype)).unflatten(1, (self.heads, -1)).permute(1, 2, 0)
        content, position = q + self.pos_bias_u.to(q.dtype), q + self.pos_bias_v.to(q.dtype)
        parts = []
        for one, other, two, three in zip(*map(packing.split, (content, position, k, v)), strict=True):
            n = len(one)
            near = distances[..., packing.longest - n : packing.longest + n - 1]  # n - 1 … 1 - n
            by_distance = torch.matmul(other.transpose(0, 1), near)  # (head, query, distance)
            # Query i takes from key j what stands at distance i - j: place n - 1 - i + j of its row.
            bias = by_distance.contiguous().as_strided(
                (self.heads, n, n), (n * (2 * n - 1), 2 * n - 2, 1), n - 1
            ) / math.sqrt(q.size(2))
            parts.append(_attend(one, two, three, bias, dropout))
        return torch.cat(parts)

    def _attend_by_table(
        self, packing: Packing, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, dropout: float
    ) -> Tensor:
        """The same, with a vector for each distance that all heads share."""
        table = self.distance_embedding.weight.to(q.dtype)
        parts = []
        for one, two, three in zip(*map(packing.split, (q, k, v)), strict=True):
            n = len(one)
            by_distance = torch.matmul(one.transpose(0, 1), table.t()) / math.sqrt(q.size(2))  # (head, query, distance)
            bias = by_distance.gather(2, positions[:n, :n].expand(self.heads, -1, -1))
            parts.append(_attend(one, two, three, bias, dropout))
        return torch.cat(parts)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, dropout: float) -> Tensor:
    """Scaled dot-product attention of one utterance: (frame, head, dim) each, ``bias`` (head, query, key)."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, bias[None], dropout)[0].transpose(0, 1)


class ConformerBlock(nn.Module):
    """Half a feed-forward layer, attention, convolution, half a feed-forward layer, LayerNorm."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.config = config
        self.ffn1 = FeedForward(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.encoder_embed_dim)
        self.self_attn = ConformerAttention(config)
        self.conv_module = Convolution(config)
        self.ffn2 = FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(config.encoder_embed_dim)

    def forward(self, x: Tensor, packing: Packing, positions: Tensor) -> Tensor:
        """(row, dim) -> the same."""
        x = x + 0.5 * self.ffn1(x)
        attended = self.self_attn(self.self_attn_layer_norm(x), packing, positions)
        x = x + F.dropout(attended, self.config.dropout, self.training)
        x = x + self.conv_module(x, packing)
        return cast(Tensor, self.final_layer_norm(x + 0.5 * self.ffn2(x)))
