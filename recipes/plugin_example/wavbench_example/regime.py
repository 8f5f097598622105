"""A regime: of the upstream, the normalisation layers of the blocks are trained."""

from __future__ import annotations

from typing import Any

from torch import nn

from benchmark.interfaces import Regime, Upstream


class Norms(Regime):
    """Gives the parameters of every LayerNorm of the blocks a gradient."""

    def apply(self, upstream: Upstream, tune: Any) -> None:
        """Choose the parameters; all come without a gradient."""
        for block in upstream.blocks:
            for module in block.modules():
                if isinstance(module, nn.LayerNorm):
                    module.requires_grad_(True)
