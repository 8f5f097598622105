"""Mixed precision: what is rounded once gives what autocast gives, and nothing leaks to other runs."""

from __future__ import annotations

import copy

import pytest
import torch

from benchmark.engine.precision import Precision, use_tf32
from upstream.wav2vec2.config import Wav2Vec2Config
from upstream.wav2vec2.model import Wav2Vec2Model

CONV = "[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16,2,2)] + [(16,2,2)]"


@pytest.fixture(scope="module", params=["default", "layer_norm"])
def model(request: pytest.FixtureRequest) -> Wav2Vec2Model:
    torch.manual_seed(0)
    return Wav2Vec2Model(
        Wav2Vec2Config(
            extractor_mode=request.param, conv_feature_layers=CONV, encoder_layers=2, encoder_embed_dim=32,
            encoder_ffn_embed_dim=64, encoder_attention_heads=4, conv_pos=16, conv_pos_groups=4,
        )
    ).eval()  # fmt: skip


def test_weights_rounded_once_are_what_autocast_makes_of_them(model: Wav2Vec2Model) -> None:
    before = copy.deepcopy(model.state_dict())
    precision = Precision("bf16", torch.device("cpu"))
    frozen = precision.frozen(model)
    wavs = torch.randn(2, 8000)
    with torch.no_grad(), precision.autocast():
        for found, expected in zip(
            frozen(wavs, torch.tensor([8000, 5000])).states, model(wavs, torch.tensor([8000, 5000])).states, strict=True
        ):
            if model.config.extractor_mode == "default":  # its norm is folded into weights that are rounded already
                difference = (found.float() - expected.float()).square().mean().sqrt()
                assert difference < 0.02 * expected.float().square().mean().sqrt()
            else:
                assert torch.equal(found, expected)
    assert frozen.encoder.layers[0].fc1.weight.dtype == torch.bfloat16
    assert frozen.encoder.layer_norm.weight.dtype == torch.float32
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[name])


def test_in_full_precision_nothing_is_copied(model: Wav2Vec2Model) -> None:
    assert Precision("no", torch.device("cpu")).frozen(model) is model


def test_tf32_is_off_unless_it_is_asked_for() -> None:
    """torch's own default is to use it in convolutions."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        for enabled in (True, False):
            use_tf32(enabled)
            assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == enabled
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
