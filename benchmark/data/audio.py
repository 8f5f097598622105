"""The one place that decodes: files become mono float32 at the upstream's rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import soundfile
import torch
import torchaudio
from numpy.typing import ArrayLike, NDArray

from benchmark.data import headers
from benchmark.data.headers import AudioError, span
from benchmark.data.pieces import blocks
from benchmark.interfaces import Seconds, Utterance


def load(utterance: Utterance, sample_rate: int, *, crop: tuple[Seconds, float] | None = None) -> torch.Tensor:
    """Decode one utterance.

    Args:
        utterance: what to read.
        sample_rate: Hz of the result; other rates are resampled (``torchaudio.functional.resample``).
        crop: (length in seconds, position in [0, 1)): read only a stretch of this length, whose place among all
            possible ones the position gives. Shorter utterances are read whole.

    Returns:
        (sample,) float32 in [-1, 1]; channels are averaged.

    Raises:
        AudioError: missing, unreadable, empty or non-finite audio.
    """
    try:
        header = headers.of(utterance.path)
    except AudioError as error:
        raise AudioError(f"utterance {utterance.id}: {utterance.path} {error}") from error
    rate = header.rate
    first, frames = span(utterance, header.frames, rate)
    if crop is not None:
        wanted = round(crop[0] * rate)
        if frames > wanted:
            first += int(crop[1] * (frames - wanted + 1))
            frames = wanted
    try:
        decoded = list(blocks(utterance.path, header.pieces, first, frames, frames))
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(f"utterance {utterance.id}: {utterance.path} cannot be read as audio ({error})") from error
    samples = np.concatenate(decoded) if decoded else np.zeros((0, 1), np.float32)
    if len(samples) < frames:
        raise AudioError(
            f"utterance {utterance.id}: {utterance.path} ends early: its header promises {frames} samples from "
            f"{first}, {len(samples)} could be decoded; fetch the file again"
        )
    wav = torch.from_numpy(samples.mean(axis=1))  # (sample, channel) -> (sample,)
    if not torch.isfinite(wav).all():
        raise AudioError(f"utterance {utterance.id}: {utterance.path} has NaN or infinite samples; fix or remove it")
    return wav if rate == sample_rate else resample(wav, rate, sample_rate)


def resample(wav: torch.Tensor, rate: int, sample_rate: int) -> torch.Tensor:
    """(sample,) at ``rate`` Hz -> (sample,) at ``sample_rate`` Hz.

    By torchaudio, except for rates without a large common divisor (44,101 Hz), for which its table of kernels would
    take gigabytes: these go through ``scipy.signal.resample_poly``.
    """
    common = math.gcd(rate, sample_rate)
    up, down = sample_rate // common, rate // common
    if up * down < 1_000_000:
        resampled: torch.Tensor = torchaudio.functional.resample(wav, rate, sample_rate)
        return resampled
    from scipy.signal import resample_poly

    return torch.from_numpy(resample_poly(wav.numpy(), up, down).astype(np.float32))


def samples(seconds: ArrayLike, rate: int) -> NDArray[np.int64]:
    """Samples that audio of these durations has when it is loaded at ``rate`` Hz, from a file of any rate."""
    return np.ceil(np.asarray(seconds, dtype=np.float64) * rate - 1e-6).astype(np.int64)


def durations(utterances: Sequence[Utterance]) -> NDArray[np.float64]:
    """(utterance,) seconds, from the headers of the files.

    Raises:
        AudioError: names every unusable utterance (the first ten with the reason), after one pass over all of them.
    """
    found = headers.read(utterance.path for utterance in utterances)
    seconds: list[float] = []
    broken: list[str] = []
    for utterance in utterances:
        header = found[utterance.path]
        if not isinstance(header, str) and header.frames and utterance.duration is None and utterance.start == 0:
            seconds.append(header.frames / header.rate)  # the usual case, of which there may be a million
            continue
        try:
            if isinstance(header, str):
                raise AudioError(f"utterance {utterance.id}: {utterance.path} {header}")
            seconds.append(span(utterance, header.frames, header.rate)[1] / header.rate)
        except AudioError as error:
            broken.append(str(error))
    if broken:
        shown = "\n  ".join(broken[:10])
        more = f"\n  … and {len(broken) - 10:,} more" if len(broken) > 10 else ""
        raise AudioError(f"{len(broken):,} of {len(utterances):,} utterances have unusable audio:\n  {shown}{more}")
    return np.array(seconds, dtype=np.float64)
