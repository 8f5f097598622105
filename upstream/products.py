"""Matrix products in float32 on a CPU, by oneDNN.

PyTorch gives these to MKL, which leaves half of an AMD processor's vector units unused: 105 GFLOP/s on one core of an
EPYC (Zen 5), where oneDNN, which PyTorch computes convolutions with, reaches 230. PyTorch has no public call for it;
the one here is what ``torch.compile`` uses. Results differ from MKL's by the order of sums only.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

BOTH: bool = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
"""Whether this PyTorch has the two libraries."""


class Linear(nn.Linear):
    """``nn.Linear``, of (row, feature)."""

    def forward(self, x: Tensor) -> Tensor:
        """(row, in) -> (row, out)."""
        if not by_onednn(x, self.weight):
            return F.linear(x, self.weight, self.bias)
        if self._tracked(x):
            return cast(Tensor, _Differentiable.apply(x, self.weight, self.bias))  # type: ignore[no-untyped-call]
        return _product(x, self.weight, self.bias)

    def gelu(self, x: Tensor) -> Tensor:
        """GELU of (row, in) -> (row, out); where there are no gradients, while the product is written."""
        if self._tracked(x) or not by_onednn(x, self.weight):
            return F.gelu(self(x))
        return _product(x, self.weight, self.bias, "gelu")

    def _tracked(self, x: Tensor) -> bool:
        """Whether the product has a gradient. With trained biases and frozen weights, too."""
        trained = (x, self.weight, self.bias)
        return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in trained)


def by_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether a product goes to oneDNN: two dimensions, float32, on a CPU on which MKL would have it."""
    return (
        x.device.type == "cpu"
        and x.dim() == 2
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and BOTH
        and bool(torch.backends.mkldnn.enabled)
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None, then: str = "none") -> Tensor:
    """``x @ weight.T + bias``, and its GELU where ``then`` says ``gelu`` (by erf)."""
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, [], "none" if then == "gelu" else ""))


class _Differentiable(torch.autograd.Function):
    """The product with its gradients, which are products, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(row, in), (out, in), (out,) -> (row, out)."""
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of ``x``, ``weight`` and ``bias``."""
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        gradient = gradient.contiguous()
        return (
            _product(gradient, weight.t()) if of_x else None,
            _product(gradient.t(), x.t()) if of_weight else None,
            gradient.sum(0) if of_bias else None,
        )
