"""BEST-RQ's targets: codes of random projections, which nothing trains (2202.01855, section 3.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RandomProjectionQuantizer(nn.Module):
    """Features -> the nearest vectors of random codebooks, each after a random projection, all of unit length.

    With one codebook it is SpeechBrain's ``RandomProjectionQuantizer``, whose tensors lack the first axis here; with
    several it is USM's (2303.01037). The nearest of vectors of unit length is that of the largest inner product.

    Args:
        input_dim: features.
        cb_dim: of a code.
        cb_vocab: codes in a codebook.
        codebooks: how many.
        seed: of the projections (Xavier, uniform) and the codes (normal).
    """

    def __init__(self, input_dim: int, cb_dim: int, cb_vocab: int, *, codebooks: int = 1, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        bound = (6 / (input_dim + cb_dim)) ** 0.5
        self.register_buffer("P", (2 * torch.rand(codebooks, input_dim, cb_dim, generator=generator) - 1) * bound)
        self.register_buffer("CB", F.normalize(torch.randn(codebooks, cb_vocab, cb_dim, generator=generator), dim=2))
        self.P: Tensor
        self.CB: Tensor

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """(frame, input_dim) -> (frame, codebook) codes, int64."""
        with torch.autocast(x.device.type, enabled=False):
            return (x.float() @ self.P @ self.CB.transpose(1, 2)).argmax(2).T
