"""Frame rate is the upstream's: what uses frames counts them, from 10 ms to 80 ms each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import ToyUpstream

from benchmark.engine.conformance import check
from benchmark.engine.prepare import frame_counts
from benchmark.interfaces import HiddenStates
from downstream.asr.heads import HEADS, CTCHeadConfig, make_head
from downstream.asr.specaugment import SpecAugmentConfig
from downstream.embedders import EMBEDDERS, EmbedderConfig

SHIFTS = [160, 640, 1280]
"""Samples from one frame to the next: fbank's, half of wav2vec 2.0's rate, an eightfold subsampling's."""


class Toy(ToyUpstream):
    """The toy upstream at another frame rate."""

    def __init__(self, frame_shift: int) -> None:
        super().__init__()
        self.frame_shift = frame_shift

    def output_lengths(self, wav_lens: Tensor) -> Tensor:
        return torch.div(wav_lens - 400, self.frame_shift, rounding_mode="floor").clamp(min=-1) + 1

    def forward(self, wavs: Tensor, wav_lens: Tensor, *, keep: Sequence[int] | None = None) -> HiddenStates:
        lengths = self.output_lengths(wav_lens)
        x = torch.tanh(self.layers[0](wavs.unfold(1, 400, self.frame_shift)))
        x = x * (torch.arange(x.size(1)) < lengths[:, None])[..., None]
        states = [x, x + 0 * self.layers[1](x), x + 0 * self.layers[2](x)]
        return HiddenStates([states[k] for k in (range(3) if keep is None else keep)], lengths)


@pytest.mark.parametrize("shift", SHIFTS)
def test_heads_take_any_frame_rate(shift: int) -> None:
    """Also where half a second has 6 frames, fewer than the x-vector's context of 15."""
    upstream = Toy(shift).eval()
    check(upstream)
    hidden = upstream([torch.randn(16000), torch.randn(8000)])
    features, lengths = hidden.states[-1], hidden.lengths
    assert lengths.tolist() == [(n - 400) // shift + 1 for n in (16000, 8000)]
    for name in HEADS:
        head = make_head(8, 5, CTCHeadConfig(name=name, size=4, hidden=4), SpecAugmentConfig()).train()
        targets = (torch.tensor([[1, 2, 3], [2, 0, 0]]), torch.tensor([3, 1]))
        loss = head.loss(features, lengths, targets)
        assert loss.isfinite()
        assert loss > 0
        assert [len(rows) for rows in head.eval().predict(features, lengths)] == lengths.tolist()
    for embedder in EMBEDDERS.values():
        size = EmbedderConfig(size=4, pooled=8, channels=8, attention=4)
        embeddings = embedder(8, size).eval().embed(features, lengths)
        alone = embedder(8, size).eval()
        assert embeddings.shape == (2, 4)
        torch.testing.assert_close(
            alone.embed(features, lengths)[1:], alone.embed(features[1:, : lengths[1]], lengths[1:]), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("shift", SHIFTS)
def test_what_ctc_can_align_is_counted_in_the_upstreams_frames(shift: int) -> None:
    seconds = np.array([0.5, 1.0, 0.02])
    expected = [max(0, (int(s * 16000) - 400) // shift + 1) for s in seconds]
    assert frame_counts(Toy(shift), seconds).tolist() == expected
