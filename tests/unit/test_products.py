"""Linear layers by oneDNN against PyTorch's own, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upstream import products
from upstream.products import Linear
from upstream.wav2vec2.config import Wav2Vec2Config
from upstream.wav2vec2.extractor import STRETCH, ConvFeatureExtractor


@pytest.fixture
def calls() -> Iterator[list[str]]:
    """What was computed by oneDNN."""
    made: list[str] = []
    product = products._product

    def watched(x: Tensor, weight: Tensor, bias: Tensor | None = None, then: str = "none") -> Tensor:
        made.append(then)
        return product(x, weight, bias, then)

    with mock.patch.object(products, "_product", watched):
        yield made


@pytest.fixture
def layer() -> Linear:
    torch.manual_seed(0)
    return Linear(48, 96)


def test_forward_and_gradients_are_pytorchs(layer: Linear, calls: list[str]) -> None:
    assert torch.backends.mkl.is_available()
    x = torch.randn(7, 48, requires_grad=True)
    expected = F.linear(x, layer.weight, layer.bias)
    found = layer(x)
    torch.testing.assert_close(found, expected)
    wanted, weights = (x, layer.weight, layer.bias), torch.randn_like(expected)
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), wanted),
        torch.autograd.grad((expected * weights).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert calls == ["none"] * 3


def test_no_gradient_is_computed_that_nobody_wants(layer: Linear, calls: list[str]) -> None:
    layer.requires_grad_(False)
    x = torch.randn(7, 48, requires_grad=True)
    layer(x).sum().backward()
    assert len(calls) == 2
    assert layer.weight.grad is None
    layer(x.detach())
    assert len(calls) == 3


@pytest.mark.parametrize("gradients", [False, True])
def test_gelu(layer: Linear, calls: list[str], gradients: bool) -> None:
    x = 3 * torch.randn(50, 48)
    with torch.set_grad_enabled(gradients):
        found = layer.gelu(x)
    torch.testing.assert_close(found, F.gelu(F.linear(x, layer.weight, layer.bias)), atol=2e-6, rtol=1e-5)
    assert found.requires_grad == gradients
    assert calls == ["none" if gradients else "gelu"]


def test_what_is_not_float32_and_two_dimensional_is_left_to_pytorch(layer: Linear, calls: list[str]) -> None:
    layer(torch.randn(2, 3, 48))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(3, 48)).dtype == torch.bfloat16
        assert layer.gelu(torch.randn(3, 48)).dtype == torch.bfloat16
    layer.double()(torch.randn(3, 48, dtype=torch.float64))
    with torch.backends.mkldnn.flags(enabled=False):
        layer.float()(torch.randn(3, 48))
    assert calls == []


CONV = "[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16,2,2)] + [(16,2,2)]"


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("mode", ["default", "layer_norm"])
@pytest.mark.parametrize("frames", [1, STRETCH, 2 * STRETCH + 1])
def test_stretches_of_a_waveform_are_the_whole(mode: str, bias: bool, frames: int) -> None:
    """Frozen convolutions go stretch by stretch, with moments that are not computed from their outputs."""
    torch.manual_seed(0)
    config = Wav2Vec2Config(conv_feature_layers=CONV, extractor_mode=mode, conv_bias=bias)
    extractor = ConvFeatureExtractor(config)
    for module in extractor.modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    wav = torch.randn((frames - 1) * extractor.hop + extractor.min_samples + 319) + 0.5
    whole = extractor([wav])
    assert whole.requires_grad
    assert whole.shape == (frames, 16)
    with torch.no_grad():
        torch.testing.assert_close(extractor([wav]), whole, atol=1e-5, rtol=1e-4)
    extractor.requires_grad_(False)
    torch.testing.assert_close(extractor([wav]), whole, atol=1e-5, rtol=1e-4)


def test_a_trained_bias_of_frozen_weights_has_a_gradient() -> None:
    """As in regime bitfit, in the first block, whose input has none."""
    torch.manual_seed(0)
    for function in (Linear.forward, Linear.gelu):
        layer = Linear(48, 16)
        layer.weight.requires_grad_(False)
        function(layer, torch.randn(5, 48)).sum().backward()
        assert layer.bias.grad is not None
        assert layer.bias.grad.abs().min() > 0
