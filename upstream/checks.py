"""What every native model checks of its input."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from benchmark.errors import BenchmarkError


def check_keep(keep: Sequence[int] | None, num_states: int) -> list[int]:
    """The states to return; raises :class:`BenchmarkError` on states that do not exist."""
    if keep is None:
        return list(range(num_states))
    kept = list(keep)
    if not kept or kept != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= num_states:
        raise BenchmarkError(f"keep = {kept}: expected increasing states from 0 to {num_states - 1}, at least one")
    return kept


def check_input(wavs: Tensor, wav_lens: Tensor, min_samples: int, sample_rate: int) -> list[int]:
    """The valid samples of each waveform; raises :class:`BenchmarkError` on other shapes and on short waveforms.

    Args:
        wavs: expected (batch, sample).
        wav_lens: expected (batch,).
        min_samples: the shortest waveform that gives a frame.
        sample_rate: Hz.
    """
    if wavs.dim() != 2 or wav_lens.shape != wavs.shape[:1] or wavs.size(0) == 0:
        raise BenchmarkError(
            "expected waveforms (batch, sample) and their lengths (batch,), "
            f"got {list(wavs.shape)} and {list(wav_lens.shape)}"
        )
    samples: list[int] = wav_lens.tolist()
    for i, n in enumerate(samples):
        if n > wavs.size(1):
            raise BenchmarkError(f"item {i} of the batch: length {n} in a batch of {wavs.size(1)} samples")
        if n < min_samples:
            raise BenchmarkError(
                f"item {i} of the batch has {n} samples; "
                f"the model needs at least {min_samples} ({1000 * min_samples / sample_rate:g} ms)"
            )
    return samples
