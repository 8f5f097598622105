"""ALiBi (https://arxiv.org/abs/2108.12409) as data2vec 2.0 has it: both ways, with learnt scales.

Follows fairseq's ``examples/data2vec/models/modalities/base.py``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Alibi(nn.Module):
    """A penalty on attention logits, in proportion to the distance of frames, by head."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = nn.Parameter(torch.ones(heads))
        """(head,), negative ones count as 0."""

    def forward(self, frames: int, device: torch.device) -> Tensor:
        """Biases (head, query, key) of ``frames`` frames."""
        frame = torch.arange(frames, device=device)
        distances = (frame - frame[:, None]).abs()
        slopes = torch.tensor(_slopes(self.heads), device=device) * self.scale.float().clamp(min=0)
        return -slopes[:, None, None] * distances


def _slopes(heads: int) -> list[float]:
    """A geometric sequence that ends with 1 / 256; for numbers that are no power of two, filled up with every second
    slope of the next power's."""
    power = 2 ** math.floor(math.log2(heads))
    first = 2.0 ** (-8.0 / power)
    slopes = [first ** (i + 1) for i in range(power)]
    return slopes if power == heads else slopes + _slopes(2 * power)[0::2][: heads - power]
