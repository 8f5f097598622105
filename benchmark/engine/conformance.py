"""Whether an upstream keeps what :class:`benchmark.interfaces.Upstream` promises."""

from __future__ import annotations

import torch

from benchmark.errors import BenchmarkError
from benchmark.interfaces import HiddenStates, Upstream

TOLERANCE = 1e-4
"""Largest difference between an utterance alone and padded, as a share of the largest value of the hidden state."""


@torch.inference_mode()
def check(upstream: Upstream, seconds: tuple[float, float] = (1.3, 0.7)) -> None:
    """Run an upstream over noise: one utterance alone, and padded beside a longer one.

    Args:
        upstream: in evaluation mode.
        seconds: of the longer and of the shorter utterance.

    Raises:
        BenchmarkError: lists what is not as promised: numbers of hidden states and frames, their size, zeros beyond an
            utterance's frames, hidden states that depend on padding, and ``keep``.
    """
    generator = torch.Generator().manual_seed(0)
    long, short = (0.1 * torch.randn(int(length * upstream.sample_rate), generator=generator) for length in seconds)
    together, alone = upstream([long, short]), upstream([short])
    frames = upstream.output_lengths(torch.tensor([len(long), len(short)])).tolist()
    problems = []
    if together.lengths.tolist() != frames or alone.lengths.tolist() != frames[1:]:
        problems.append(f"lengths are {together.lengths.tolist()} and {alone.lengths.tolist()}, expected {frames}")
    if len(together.states) != upstream.num_states:
        problems.append(f"{len(together.states)} hidden states, num_states is {upstream.num_states}")
    for layer, (padded, single) in enumerate(zip(together.states, alone.states, strict=False)):
        if padded.shape[0] != 2 or padded.shape[1] < frames[0] or padded.shape[2:] != (upstream.hidden_size,):
            expected = f"(2, {frames[0]}, {upstream.hidden_size})"
            problems.append(f"layer {layer} has shape {tuple(padded.shape)}, expected {expected}")
            continue
        difference = float((padded[1, : frames[1]] - single[0, : frames[1]]).abs().max())
        if difference > TOLERANCE * float(single.abs().max()):
            problems.append(f"layer {layer} of an utterance differs by up to {difference:.3g} when it is padded")
        if padded[1, frames[1] :].any():
            problems.append(f"layer {layer} is not zero beyond the frames of the shorter utterance")
    problems += _check_keep(upstream, together, [long, short])
    if problems:
        name = getattr(upstream, "info", {}).get("name", type(upstream).__name__)
        raise BenchmarkError(f"upstream '{name}' does not keep its contract:\n  " + "\n  ".join(problems))


def _check_keep(upstream: Upstream, together: HiddenStates, wavs: list[torch.Tensor]) -> list[str]:
    last = upstream.num_states - 1
    kept = upstream(wavs, keep=[last]).states
    if len(kept) != 1 or len(together.states) <= last or not torch.allclose(kept[0], together.states[last], atol=1e-5):
        return [f"keep=[{last}] does not give the hidden state {last} alone"]
    return []
