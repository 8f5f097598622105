"""Utterances end to end: the GPU's way of computing a batch, on the CPU, against one utterance at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from upstream.packing import Packing
from upstream.wav2vec2 import extractor
from upstream.wav2vec2 import model as module
from upstream.wav2vec2.config import Wav2Vec2Config
from upstream.wav2vec2.model import Wav2Vec2Model

CONV = "[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16,2,2)] + [(16,2,2)]"
SMALL = {"conv_feature_layers": CONV, "encoder_layers": 2, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 64,
         "encoder_attention_heads": 4, "conv_pos_groups": 4, "attention_dropout": 0.0}  # fmt: skip
FAMILIES = {
    "group norm, even kernel": {"conv_pos": 16},
    "layer norm, odd kernel, normalize": {
        "extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True, "normalize": True, "conv_pos": 15,
    },
    "deep positions": {"pos_conv_depth": 3, "conv_pos": 15},
}  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES.values(), ids=FAMILIES)
def model(request: pytest.FixtureRequest) -> Wav2Vec2Model:
    torch.manual_seed(0)
    return Wav2Vec2Model(Wav2Vec2Config(**SMALL, **request.param)).eval()


States = list[list[Tensor]]


def as_on_a_gpu(model: Wav2Vec2Model, wavs: list[Tensor], most: int = 10**6, *, attend: bool = True) -> States:
    """The states of each utterance, in the form in which a GPU computes a batch; ``attend``: attention too (half
    precision's needs a GPU)."""
    lens = torch.tensor([len(wav) for wav in wavs])
    padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "one_by_one", lambda _: False)
        patch.setattr(extractor, "one_by_one", lambda _: False)
        patch.setattr(extractor, "MOST_SAMPLES", most)
        if attend:
            patch.setattr(Packing, "one_by_one", lambda _: False)
        states = model._forward_batch(padded, lens.tolist(), list(range(model.num_states)))
    frames = model.output_lengths(lens).tolist()
    for state in states:
        for i, n in enumerate(frames):
            assert not state[i, n:].any()
    return [[state[i, :n] for state in states] for i, n in enumerate(frames)]


@settings(deadline=None)
@given(samples=st.lists(st.integers(400, 4000), min_size=2, max_size=5), most=st.sampled_from([10**6, 3000]))
def test_an_utterance_has_the_same_states_alone_and_packed(model: Wav2Vec2Model, samples: list[int], most: int) -> None:
    torch.manual_seed(1)
    wavs = [torch.randn(n) + 0.3 for n in samples]
    with torch.no_grad():
        together = as_on_a_gpu(model, wavs, most)
        for wav, states in zip(wavs, together, strict=True):
            alone = model(wav[None], torch.tensor([len(wav)])).states
            for found, expected in zip(states, alone, strict=True):
                torch.testing.assert_close(found, expected[0], atol=1e-5, rtol=1e-4)


def test_gradients_too(model: Wav2Vec2Model) -> None:
    torch.manual_seed(1)
    wavs = [torch.randn(n) for n in (3000, 1200, 2100)]

    def gradients() -> list[Tensor]:
        found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        return found

    torch.stack([state[-1].sin().sum() for state in as_on_a_gpu(model, wavs)]).sum().backward()
    together = gradients()
    for wav in wavs:
        model(wav[None], torch.tensor([len(wav)])).states[-1].sin().sum().backward()
    alone = gradients()
    assert len(together) == len(alone) > 10
    largest = max(float(gradient.abs().max()) for gradient in alone)  # those of the keys' biases are 0 but for rounding
    for found, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6 * largest, rtol=1e-3)


@pytest.mark.parametrize(("dim", "groups", "kernel", "frames"), [(32, 4, 128, 500), (24, 4, 15, 77), (16, 2, 16, 1)])
def test_convolution_by_fourier_transform(dim: int, groups: int, kernel: int, frames: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, dim, frames, dtype=torch.float32, requires_grad=True)
    weight = torch.randn(dim, dim // groups, kernel, requires_grad=True)
    bias = torch.randn(dim, requires_grad=True)
    expected = torch.nn.functional.conv1d(x, weight, bias, padding=kernel // 2, groups=groups)
    found = module.fft_conv(x, weight, bias, kernel // 2, groups)
    torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.detach().abs().max()), rtol=1e-5)
    weights = torch.randn_like(expected)
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), (x, weight, bias)),
        torch.autograd.grad((expected * weights).sum(), (x, weight, bias)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-5 * float(other.abs().max()), rtol=1e-5)


def test_autocast_packed(model: Wav2Vec2Model) -> None:
    torch.manual_seed(1)
    wavs = [torch.randn(n) for n in (3000, 1200)]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        together = as_on_a_gpu(model, wavs, attend=False)
        for wav, states in zip(wavs, together, strict=True):
            for found, expected in zip(states, model(wav[None], torch.tensor([len(wav)])).states, strict=True):
                error = (found.float() - expected[0].float()).square().mean().sqrt()
                assert error < 0.03 * expected.float().square().mean().sqrt()
