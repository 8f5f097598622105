"""The filterbank baseline."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_upstream_wav2vec2 import ragged
from torchaudio.compliance import kaldi
from torchaudio.transforms import ComputeDeltas

from benchmark.config import RunConfig
from benchmark.engine.features import warn_of_zero_means
from benchmark.errors import BenchmarkError
from upstream.fbank import Fbank


def test_features_are_superbs() -> None:
    """Kaldi's log mel energies, two differences of window 5, zero mean and unit variance over time."""
    wavs, wav_lens = ragged([16000])
    (features,) = Fbank()(wavs, wav_lens).states
    mel = kaldi.fbank(wavs, num_mel_bins=80, frame_length=25.0, frame_shift=10.0, use_log_fbank=True)
    deltas = ComputeDeltas(win_length=5)
    first = deltas(mel.T.unsqueeze(0))
    expected = torch.cat([mel.T.unsqueeze(0), first, deltas(first)], dim=1)
    expected = (expected - expected.mean(dim=2, keepdim=True)) / (expected.std(dim=2, keepdim=True) + 1e-10)
    torch.testing.assert_close(features, expected.transpose(1, 2))
    assert features.shape == (1, 98, 240)


@settings(max_examples=10, deadline=None)
@given(samples=st.lists(st.integers(400, 8000), min_size=2, max_size=4))
def test_states_do_not_depend_on_the_batch(samples: list[int]) -> None:
    wavs, wav_lens = ragged(samples, padding=float("nan"))
    out = Fbank()(wavs, wav_lens)
    for i, n in enumerate(samples):
        alone = Fbank()(wavs[i : i + 1, :n], wav_lens[i : i + 1])
        frames = alone.lengths.item()
        assert out.lengths[i] == frames == (n - 400) // 160 + 1
        assert torch.equal(out.states[0][i, :frames], alone.states[0][0])
        assert not out.states[0][i, frames:].any()


@pytest.mark.parametrize("level", [0.0, 1e-30, 1.0])
@pytest.mark.parametrize("samples", [400, 560, 4000])
def test_silence_and_single_frames_are_finite(level: float, samples: int) -> None:
    assert Fbank()(torch.full((1, samples), level), torch.tensor([samples])).states[0].isfinite().all()


def test_too_short_waveforms_are_named() -> None:
    with pytest.raises(BenchmarkError, match="item 1 of the batch has 399 samples; expected 400 or more"):
        Fbank()(torch.zeros(2, 1000), torch.tensor([1000, 399]))
    with pytest.raises(BenchmarkError, match=r"keep = \[0, 1\]: fbank has one state, number 0"):
        Fbank()(torch.zeros(1, 1000), torch.tensor([1000]), keep=[0, 1])


@pytest.mark.parametrize(
    ("means", "normalize", "said"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_that_its_means_are_zero_is_said(
    means: bool, normalize: bool, said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    upstream, model, run = Fbank(), SimpleNamespace(mean_suffices=means), RunConfig()
    assert float(upstream([torch.randn(16000)]).states[0].mean(1).abs().max()) < 1e-5
    run.featurizer.normalize = normalize
    other: Any = model
    with caplog.at_level(logging.WARNING):
        warn_of_zero_means(run, upstream, other)
    assert ("can learn nothing of them" in caplog.text) == said
