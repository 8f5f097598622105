"""The Conformer block (https://arxiv.org/abs/2005.08100) as fairseq's wav2vec 2.0 Conformer has it.

Follows fairseq's ``modules/conformer_layer.py``, ``espnet_multihead_attention.py`` and its two position encodings, with
the transformer's names for what both have. There is no positional convolution: attention knows the distance of frames,
by sinusoids of it (``rel_pos``, https://arxiv.org/abs/1901.02860) or by rotation (``rope``), which is applied before
the projections of queries and keys, not after.
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
        self.relative = config.pos_enc_type == "rel_pos"
        self.size = config.encoder_embed_dim // (1 if self.relative else config.encoder_attention_heads)

    def forward(self, frames: int, device: torch.device) -> Tensor:
        """``rel_pos``: (2 * frames - 1, dim), sinusoids of the distances frames - 1 … 1 - frames, query - key.
        ``rope``: (frames, 2, dim / head), cosines and sines of each position."""
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
    rows."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        dim, kernel = config.encoder_embed_dim, config.depthwise_conv_kernel_size
        self.config = config
        self.layer_norm = nn.LayerNorm(dim)
        self.pointwise_conv1 = nn.Conv1d(dim, 2 * dim, 1, bias=False)
        self.depthwise_conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim, bias=False)
        self.batch_norm = nn.BatchNorm1d(dim)
        self.pointwise_conv2 = nn.Conv1d(dim, dim, 1, bias=False)

    def forward(self, x: Tensor, packing: Packing) -> Tensor:  # noqa: D102
        x = F.glu(F.linear(self.layer_norm(x), self.pointwise_conv1.weight.squeeze(2)), dim=1)

        def convolve(x: Tensor) -> Tensor:
            return cast(Tensor, self.depthwise_conv(x.transpose(1, 2))).transpose(1, 2)

        x = packing.apart(x, self.config.depthwise_conv_kernel_size // 2, convolve)
        x = F.linear(F.silu(self.batch_norm(x)), self.pointwise_conv2.weight.squeeze(2))
        return F.dropout(x, self.config.dropout, self.training)


class ConformerAttention(nn.Module):
    """Multi-head self-attention with one of the two kinds of positions."""

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

    def forward(self, x: Tensor, packing: Packing, positions: Tensor) -> Tensor:
        """(row, dim) -> the same; ``positions`` from :class:`ConformerPositions`."""
        relative = self.config.pos_enc_type == "rel_pos"
        source = x if relative else self._rotate(x, packing, positions)
        q = self.q_proj(source).unflatten(1, (self.heads, -1))  # (row, head, dim / head)
        k = self.k_proj(source).unflatten(1, (self.heads, -1))
        v = self.v_proj(x).unflatten(1, (self.heads, -1))
        dropout = self.config.attention_dropout if self.training else 0.0
        x = self._attend(packing, q, k, v, positions, dropout) if relative else packing.attend(q, k, v, dropout)
        return cast(Tensor, self.out_proj(x.flatten(1)))

    def _rotate(self, x: Tensor, packing: Packing, positions: Tensor) -> Tensor:
        cos, sin = packing.pack(positions.expand(len(packing.lengths), -1, -1, -1)).to(x.dtype)[:, :, None].unbind(1)
        heads = x.view(len(x), self.heads, -1)
        one, two = heads.chunk(2, dim=2)
        return (heads * cos + torch.cat((-two, one), dim=2) * sin).flatten(1)

    def _attend(self, packing: Packing, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, dropout: float) -> Tensor:
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
            one, two, three = (x.transpose(0, 1)[None] for x in (one, two, three))
            parts.append(F.scaled_dot_product_attention(one, two, three, bias[None], dropout)[0].transpose(0, 1))
        return torch.cat(parts)


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
