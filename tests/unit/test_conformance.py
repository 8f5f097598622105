"""The check of upstreams by their authors, over the registry and on upstreams that break their promise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import ToyUpstream

from benchmark.engine.conformance import check
from benchmark.errors import BenchmarkError
from benchmark.interfaces import HiddenStates
from upstream import load_upstream


@pytest.mark.parametrize("name", ["wav2vec2_tiny", "fbank"])
def test_the_projects_own_keep_their_promise(name: str) -> None:
    check(load_upstream(name))


class Broken(ToyUpstream):
    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def forward(self, wavs: Tensor, wav_lens: Tensor, *, keep: Sequence[int] | None = None) -> HiddenStates:
        hidden = super().forward(wavs, wav_lens, keep=None if self.fault == "keep" else keep)
        if self.fault == "padding" and keep is None:
            hidden.states[1] = hidden.states[1] - hidden.states[1].mean(1, keepdim=True)
            valid = torch.arange(hidden.states[1].shape[1]) < hidden.lengths[:, None]
            hidden.states[1] = hidden.states[1] * valid[..., None]
        elif self.fault == "zeros":
            hidden.states[0] = hidden.states[0] + 1
        elif self.fault == "number":
            hidden.states.append(hidden.states[0])
        elif self.fault == "lengths":
            hidden.lengths = hidden.lengths - 1
        elif self.fault == "size":
            hidden.states = [state[..., :4] for state in hidden.states]
        return hidden


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("padding", "layer 1 of an utterance differs by up to .* when it is padded"),
        ("zeros", "layer 0 is not zero beyond the frames"),
        ("number", "4 hidden states, num_states is 3"),
        ("lengths", r"lengths are \[.*\] and \[.*\], expected"),
        ("size", r"layer 2 has shape \(2, 64, 4\), expected \(2, 64, 8\)"),
        ("keep", r"keep=\[2\] does not give the hidden state 2 alone"),
    ],
)
def test_what_is_wrong_is_listed(fault: str, message: str) -> None:
    upstream: Any = Broken(fault).eval()
    upstream.info = {"name": "mine"}
    with pytest.raises(BenchmarkError, match=r"(?s)upstream 'mine' does not keep its contract:\n.*" + message):
        check(upstream)
    check(ToyUpstream().eval())
