"""``wavbench check-upstream``: it passes the project's own upstreams, and finds each fault of broken ones by name."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support import Cli
from torch import Tensor, nn
from toys import ToyUpstream

from benchmark.engine.conformance import CHECKS, Finding, check, examine
from benchmark.errors import BenchmarkError
from benchmark.interfaces import HiddenStates
from benchmark.registry import upstreams
from upstream import load_upstream


def without_download() -> list[str]:
    """Upstreams that load in an empty cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCHMARK_CACHE", "nowhere")
        own = [entry for entry in upstreams if entry.origin == "built in"]
        return [entry.name for entry in own if entry.missing(None) is None]


def outcomes(findings: Sequence[Finding]) -> dict[str, str]:
    return {finding.check.name: finding.outcome for finding in findings}


@pytest.mark.medium
@pytest.mark.parametrize("name", without_download())
def test_what_loads_offline_keeps_its_promises(name: str) -> None:
    findings = examine(load_upstream(name))
    assert not [finding for finding in findings if finding.outcome == "wrong"]
    assert outcomes(findings)["lengths"] == outcomes(findings)["batches"] == "ok"


@pytest.mark.medium
def test_random_weights_and_a_local_checkpoint_keep_them(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from upstream.wav2vec2.cards import FOLDER

    random = cli("check-upstream", "wav2vec2_tiny", "--option", "random_weights=true")
    local = cli("check-upstream", "wav2vec2_local", "-k", FOLDER / "wav2vec2_tiny.pt")
    assert random.returncode == local.returncode == 0
    assert random.stdout.startswith("wav2vec2_tiny: 7 states of 192 features, a frame every 320 samples (20 ms) at 16,")
    assert ", 0 broken, " in random.stdout


def test_the_upstream_of_the_readme_keeps_them(cli: Cli, plugin: Path) -> None:
    done = cli("check-upstream", "log_spectrum", "--plugin", plugin)
    assert done.returncode == 0
    assert "12 of 14 promises are kept, 0 broken" in done.stdout or torch.cuda.is_available()


class Broken(ToyUpstream):
    """One fault; state k is tanh of a linear map of state k - 1."""

    def __init__(self) -> None:
        super().__init__()
        self.eval()

    def spoil(self, hidden: HiddenStates, wavs: Tensor, wav_lens: Tensor) -> HiddenStates:
        return hidden

    def forward(self, wavs: Tensor, wav_lens: Tensor, *, keep: Sequence[int] | None = None) -> HiddenStates:
        return self.spoil(super().forward(wavs, wav_lens, keep=keep), wavs, wav_lens)


def masked(state: Tensor, lengths: Tensor) -> Tensor:
    return state * (torch.arange(state.shape[1], device=state.device) < lengths[:, None])[..., None]


class OneFrameMore(Broken):
    """As of windows that are centred."""

    def output_lengths(self, wav_lens: Tensor) -> Tensor:
        return torch.div(wav_lens, 320, rounding_mode="floor")


class LastFrameLost(Broken):
    def output_lengths(self, wav_lens: Tensor) -> Tensor:
        return (super().output_lengths(wav_lens) - 1).clamp(min=0)


class WrongShift(Broken):
    frame_shift = 160


class Dropout(Broken):
    def spoil(self, hidden: HiddenStates, wavs: Tensor, wav_lens: Tensor) -> HiddenStates:
        return HiddenStates([nn.functional.dropout(state, 0.1) for state in hidden.states], hidden.lengths)


class InPlace(Broken):
    def forward(self, wavs: Tensor, wav_lens: Tensor, *, keep: Sequence[int] | None = None) -> HiddenStates:
        wavs /= 2
        return super().forward(wavs, wav_lens, keep=keep)


class NormalisedWithPadding(Broken):
    """As GroupNorm over padded utterances."""

    def spoil(self, hidden: HiddenStates, wavs: Tensor, wav_lens: Tensor) -> HiddenStates:
        states = [masked(state - state.mean(1, keepdim=True), hidden.lengths) for state in hidden.states]
        return HiddenStates(states, hidden.lengths)


class PaddingNotZero(Broken):
    def spoil(self, hidden: HiddenStates, wavs: Tensor, wav_lens: Tensor) -> HiddenStates:
        states = [
            state + (torch.arange(state.shape[1]) >= hidden.lengths[:, None])[..., None] for state in hidden.states
        ]
        return HiddenStates(states, hidden.lengths)


class LongestIsTheTensor(Broken):
    """Positions are counted from the end of the tensor; the longest utterance is at its own."""

    def spoil(self, hidden: HiddenStates, wavs: Tensor, wav_lens: Tensor) -> HiddenStates:
        surplus = (wavs.shape[1] - int(wav_lens.max())) / wavs.shape[1]
        return HiddenStates([state * (1 + surplus) for state in hidden.states], hidden.lengths)


class KeepIgnored(Broken):
    def forward(self, wavs: Tensor, wav_lens: Tensor, *, keep: Sequence[int] | None = None) -> HiddenStates:
        return super().forward(wavs, wav_lens)


class KeepMistaken(Broken):
    def forward(self, wavs: Tensor, wav_lens: Tensor, *, keep: Sequence[int] | None = None) -> HiddenStates:
        return super().forward(wavs, wav_lens, keep=None if keep is None else [0] * len(keep))


class Deviation(Broken):
    """Of frames over time: of one frame there is none."""

    def spoil(self, hidden: HiddenStates, wavs: Tensor, wav_lens: Tensor) -> HiddenStates:
        rows = [
            torch.stack([nn.functional.pad(row[:n] / (row[:n].std(0) + 1), (0, 0, 0, len(row) - n)) for row, n in
                         zip(state, hidden.lengths.tolist(), strict=True)])
            for state in hidden.states
        ]  # fmt: skip
        return HiddenStates(rows, hidden.lengths)


class LogOfEnergy(Broken):
    def forward(self, wavs: Tensor, wav_lens: Tensor, *, keep: Sequence[int] | None = None) -> HiddenStates:
        scale = torch.stack([wav[:n].norm() for wav, n in zip(wavs, wav_lens.tolist(), strict=True)])
        return super().forward(wavs / scale[:, None], wav_lens, keep=keep)


class NoGradient(Broken):
    def forward(self, wavs: Tensor, wav_lens: Tensor, *, keep: Sequence[int] | None = None) -> HiddenStates:
        with torch.no_grad():
            return super().forward(wavs, wav_lens, keep=keep)


class Detached(Broken):
    """The blocks below the last are cut off."""

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return self.layers

    def forward(self, wavs: Tensor, wav_lens: Tensor, *, keep: Sequence[int] | None = None) -> HiddenStates:
        hidden = super().forward(wavs, wav_lens)
        last = masked(torch.tanh(self.layers[2](hidden.states[1].detach())), hidden.lengths)
        states = [*hidden.states[:2], last]
        return HiddenStates([states[k] for k in range(3) if keep is None or k in keep], hidden.lengths)


class LayerDrop(Broken):
    def spoil(self, hidden: HiddenStates, wavs: Tensor, wav_lens: Tensor) -> HiddenStates:
        return HiddenStates(hidden.states[:2] if self.training else hidden.states, hidden.lengths)


class Cancellation(Broken):
    """Adds a large number and takes it away again."""

    def spoil(self, hidden: HiddenStates, wavs: Tensor, wav_lens: Tensor) -> HiddenStates:
        return HiddenStates([masked((state + 3e4) - 3e4, hidden.lengths) for state in hidden.states], hidden.lengths)


class Overflow(Broken):
    """Fine in float32, not under autocast."""

    def spoil(self, hidden: HiddenStates, wavs: Tensor, wav_lens: Tensor) -> HiddenStates:
        if torch.is_autocast_enabled("cpu"):
            return HiddenStates([state * math.inf for state in hidden.states], hidden.lengths)
        return hidden


class PlainTensor(Broken):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.ones(8)

    def spoil(self, hidden: HiddenStates, wavs: Tensor, wav_lens: Tensor) -> HiddenStates:
        return HiddenStates([state * self.scale for state in hidden.states], hidden.lengths)


class StateTooMany(Broken):
    def spoil(self, hidden: HiddenStates, wavs: Tensor, wav_lens: Tensor) -> HiddenStates:
        return HiddenStates([*hidden.states, hidden.states[-1]], hidden.lengths)


class Narrow(Broken):
    def spoil(self, hidden: HiddenStates, wavs: Tensor, wav_lens: Tensor) -> HiddenStates:
        return HiddenStates([state[..., :4] for state in hidden.states], hidden.lengths)


class Fails(Broken):
    def forward(self, wavs: Tensor, wav_lens: Tensor, *, keep: Sequence[int] | None = None) -> HiddenStates:
        raise RuntimeError("no such kernel")


FAULTS = [
    (OneFrameMore, "shapes", r"states 0, 1, 2: \(4, 64, 8\) of float32, expected \(4, 65, 8\)"),
    (StateTooMany, "shapes", "there are 4 states, num_states is 3"),
    (Narrow, "shapes", r"states 0, 1, 2: \(4, 64, 4\) of float32, expected \(4, 64, 8\)"),
    (Fails, "shapes", "it fails with RuntimeError: no such kernel"),
    (LastFrameLost, "lengths", r"of 720 samples output_lengths says 1 frame, forward gives 2 in states and \[1\] in"),
    (WrongShift, "lengths", "frame_shift is 160 samples, but output_lengths gives a frame every 320 samples"),
    (Dropout, "determinism", "the same batch twice: states 0, 1, 2 differ by up to"),
    (InPlace, "input", "forward changes the waveforms"),
    (NormalisedWithPadding, "batches", "an utterance of 0.7 s alone and in a batch of 4: states 0, 1, 2 differ by up"),
    (PaddingNotZero, "zeros", "states 0, 1, 2: frames beyond an utterance's length are not zero"),
    (LongestIsTheTensor, "padding", "without and with half a second of zeros behind the batch: states 0, 1, 2 differ"),
    (KeepIgnored, "keep", r"keep=\[2\] gives 3 states"),
    (KeepMistaken, "keep", r"keep=\[2\] does not give state 2 as they are without keep"),
    (Deviation, "one frame", "the shortest utterance with a frame, of 400 samples, gives infinite or NaN values"),
    (LogOfEnergy, "silence", "a second of silence gives infinite or NaN values in states 0, 1, 2"),
    (NoGradient, "gradient", "the states carry no gradient, though parameters are to be trained"),
    (Detached, "gradient", "blocks 0, 1 get no gradient from the last state"),
    (LayerDrop, "gradient", "in training mode there are 2 states, num_states is 3"),
    (Cancellation, "float64", "in float32 and in float64: states 0, 1, 2 differ by up to"),
    (Overflow, "bfloat16", "state 0 changes by nan%"),
    (PlainTensor, "device", "scale: plain tensors, which"),
]  # fmt: skip


@pytest.mark.parametrize(("upstream", "name", "message"), FAULTS, ids=[fault.__name__ for fault, _, _ in FAULTS])
def test_each_fault_is_found_by_name(upstream: Any, name: str, message: str) -> None:
    if upstream is PlainTensor and torch.cuda.is_available():
        message = "it fails with RuntimeError"
    findings = examine(upstream())
    (found,) = (finding for finding in findings if finding.check.name == name)
    assert found.outcome == "wrong"
    assert re.search(message, "; ".join(found.details)), found.details
    others = {other for other, outcome in outcomes(findings).items() if outcome == "wrong"} - {name}
    assert others <= ALSO.get(upstream, set())


ALSO: dict[Any, set[str]] = {
    Dropout: {"batches", "padding", "keep", "float64", "bfloat16"},  # whatever compares two passes
    NormalisedWithPadding: {"padding"},
    Cancellation: {"bfloat16"},
    Deviation: {"batches", "padding", "keep", "float64", "bfloat16", "gradient", "lengths", "device", "determinism"},
}
"""Checks that a fault breaks beside its own."""


def test_a_good_one_passes_and_stays_as_it_was() -> None:
    upstream = ToyUpstream().eval()
    upstream.layers[0].requires_grad_(False)
    trained = [parameter.requires_grad for parameter in upstream.parameters()]
    state = torch.random.get_rng_state()
    found = outcomes(examine(upstream))
    assert set(found.values()) <= {"ok", "skipped"}
    assert [name for name, outcome in found.items() if outcome == "skipped"] in ([], ["device"])
    assert list(found) == [check.name for check in CHECKS]
    assert [parameter.requires_grad for parameter in upstream.parameters()] == trained
    assert not any(module.training for module in upstream.modules())
    assert all(parameter.grad is None for parameter in upstream.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_python_code_gets_one_error() -> None:
    upstream: Any = LastFrameLost()
    upstream.info = {"name": "mine"}
    with pytest.raises(BenchmarkError, match=r"(?s)'mine' does not keep its contract:\n  lengths: .*Off by one is the"):
        check(upstream)
    check(ToyUpstream().eval())
    upstream.frame_shift = None
    with pytest.raises(BenchmarkError, match="frame_shift is None, expected a whole number of 1 or more"):
        check(upstream)


def test_the_command_says_what_to_do(cli: Cli) -> None:
    upstreams.register("layer_drop", LayerDrop)
    broken = cli("check-upstream", "layer_drop")
    assert broken.returncode == 1
    assert "WRONG    gradient    what is to be trained gets a gradient" in broken.stdout
    assert "To do: Take torch.no_grad" in broken.stdout
    assert "1 broken" in broken.stdout
    assert cli("check-upstream", "fbank").returncode == 0
    wrong = cli("check-upstream", "fbank", "--option", "bins")
    assert wrong.returncode == 1
    assert "--option bins: expected NAME=VALUE" in wrong.stderr
    assert "unknown upstream 'fbnk'. Did you mean 'fbank'" in cli("check-upstream", "fbnk").stderr
