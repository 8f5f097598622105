"""WavLM's gated relative-position bias (https://arxiv.org/abs/2110.13900, section 3.1).

The bias of an attention logit depends on the head and on how far the key is from the query, in buckets; one table
serves all blocks. Each block scales it by a gate of the query's frame. Follows the authors' code
(https://github.com/microsoft/unilm/blob/master/wavlm/modules.py).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upstream.packing import Packing, with_prefix


class RelativePositions(nn.Module):
    """The table of biases, (bucket, head)."""

    def __init__(self, heads: int, num_buckets: int, max_distance: int) -> None:
        super().__init__()
        self.num_buckets, self.max_distance = num_buckets, max_distance
        self.weight = nn.Parameter(torch.empty(num_buckets, heads))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, frames: int, device: torch.device) -> Tensor:
        """Biases (head, query, key) of ``frames`` frames."""
        distances = torch.arange(1 - frames, frames, device=device)
        by_distance = F.embedding(self._bucket(distances), self.weight).t()  # (head, distance)
        # Row r of `unfold` starts at distance r + 1 - frames: the last query's keys come first.
        return by_distance.unfold(1, frames, 1).flip(1)

    def _bucket(self, distances: Tensor) -> Tensor:
        """Distances, key - query -> their buckets."""
        buckets = self.num_buckets // 2
        exact = buckets // 2
        far = distances.abs()
        scale = math.log(self.max_distance / exact)
        logarithmic = exact + (torch.log(far.float() / exact) / scale * (buckets - exact)).long()
        bucket = torch.where(far < exact, far, logarithmic.clamp(max=buckets - 1))
        return bucket + buckets * (distances > 0)


class PositionGate(nn.Module):
    """How much of the bias a frame takes, by head: (row, dim) -> (row, head), between 1 and 2 + ``scale``."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.linear = nn.Linear(dim // heads, 8)
        self.scale = nn.Parameter(torch.ones(1, heads, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Gates (row, head) of the attention's input (row, dim)."""
        parts: Tensor = self.linear(x.view(len(x), self.heads, -1))
        parts = parts.view(len(x), self.heads, 2, 4).sum(3)
        update, reset = torch.sigmoid(parts).unbind(2)
        return update * (reset * self.scale.view(-1) - 1.0) + 2.0


def attend(
    packing: Packing,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    gates: Tensor | None,
    dropout: float = 0.0,
    prefix: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Scaled dot-product attention within each utterance, its logits biased by distance.

    Args:
        packing: which rows are whose.
        q, k, v: (row, head, dim).
        positions: (head, longest, longest) from :class:`RelativePositions`.
        gates: (row, head) from :class:`PositionGate`; ``None``: all are 1.
        dropout: of the attention weights.
        prefix: see :meth:`upstream.packing.Packing.attend`; it is at no distance from anything, and has no bias.

    Returns:
        (row, head, dim).
    """
    places = 0 if prefix is None else len(prefix[0])
    positions = positions.to(q.dtype)
    gates = q.new_ones(q.shape[:2]) if gates is None else gates.to(q.dtype)
    if packing.one_by_one():
        parts = []
        for one, two, three, gate in zip(*map(packing.split, (q, k, v, gates)), strict=True):
            bias = F.pad(gate.t()[..., None] * positions[:, : len(one), : len(one)], (places, 0))
            if prefix is not None:
                two, three = torch.cat((prefix[0], two)), torch.cat((prefix[1], three))
            one, two, three = (x.transpose(0, 1)[None] for x in (one, two, three))
            parts.append(F.scaled_dot_product_attention(one, two, three, bias[None], dropout)[0].transpose(0, 1))
        return torch.cat(parts)
    bias = packing.pad(gates).transpose(1, 2)[..., None] * positions  # (utterance, head, query, key)
    valid = packing.pad(torch.ones(packing.rows, dtype=torch.bool, device=q.device))
    bias = F.pad(bias.masked_fill(~valid[:, None, None, :], float("-inf")), (places, 0))
    q, k, v = (packing.pad(x) for x in (q, k, v))
    if prefix is not None:
        k, v = with_prefix(k, prefix[0]), with_prefix(v, prefix[1])
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return packing.pack(F.scaled_dot_product_attention(q, k, v, bias, dropout).transpose(1, 2))
