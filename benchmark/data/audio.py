"""The one place that decodes: files become mono float32 at the upstream's rate."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import soundfile
import torch
import torchaudio
from numpy.typing import NDArray
from tqdm import tqdm

from benchmark.errors import BenchmarkError
from benchmark.interfaces import Seconds, Utterance


class AudioError(BenchmarkError):
    """An utterance whose audio cannot be used; the message names it."""


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
        with soundfile.SoundFile(utterance.path) as file:
            first, frames = span(utterance, file.frames, file.samplerate)
            if crop is not None:
                wanted = round(crop[0] * file.samplerate)
                if frames > wanted:
                    first += int(crop[1] * (frames - wanted + 1))
                    frames = wanted
            rate = file.samplerate
            file.seek(first)
            samples: NDArray[np.float32] = file.read(frames, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise unreadable(utterance, error) from error
    if len(samples) < frames:
        raise AudioError(
            f"utterance {utterance.id}: {utterance.path} ends early: its header promises {frames} samples from "
            f"{first}, {len(samples)} could be decoded; fetch the file again"
        )
    wav = torch.from_numpy(samples.mean(axis=1))  # (sample, channel) -> (sample,)
    if not torch.isfinite(wav).all():
        raise AudioError(f"utterance {utterance.id}: {utterance.path} has NaN or infinite samples; mend or remove it")
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


def durations(utterances: Sequence[Utterance], *, description: str = "reading headers") -> NDArray[np.float64]:
    """Seconds of each utterance, from the files' headers, read in parallel.

    Raises:
        AudioError: names every unusable item (the first ten by reason), after one pass over all of them.
    """

    def one(utterance: Utterance) -> float | AudioError:
        try:
            refuse_truncated(utterance)
            with soundfile.SoundFile(utterance.path) as file:
                rate: int = file.samplerate
                return span(utterance, file.frames, rate)[1] / rate
        except AudioError as error:
            return error
        except (soundfile.SoundFileError, OSError) as error:
            return unreadable(utterance, error)

    with ThreadPoolExecutor(max_workers=8) as pool:
        progress = tqdm(
            pool.map(one, utterances), total=len(utterances), desc=description, unit="file", leave=False, delay=1.0
        )
        found = list(progress)
    broken = [item for item in found if isinstance(item, AudioError)]
    if broken:
        shown = "\n  ".join(str(error) for error in broken[:10])
        more = f"\n  … and {len(broken) - 10} more" if len(broken) > 10 else ""
        raise AudioError(f"{len(broken)} of {len(utterances)} utterances have unusable audio:\n  {shown}{more}")
    return np.array(found, dtype=np.float64)


def span(utterance: Utterance, frames: int, rate: int) -> tuple[int, int]:
    """First frame and number of frames of an utterance in its file."""
    first = round(utterance.start * rate)
    last = frames if utterance.duration is None else first + round(utterance.duration * rate)
    if frames == 0:
        raise AudioError(f"utterance {utterance.id}: {utterance.path} holds no audio (0 samples); remove it")
    if not 0 <= first < last <= frames:
        raise AudioError(
            f"utterance {utterance.id}: {utterance.path} is {frames / rate:.3f} s long, but the utterance spans "
            f"{first / rate:.3f}–{last / rate:.3f} s of it"
        )
    return first, last - first


def refuse_truncated(utterance: Utterance) -> None:
    """A RIFF file says its size; libsndfile reads what is left of a truncated one without a word."""
    with open(utterance.path, "rb") as file:
        header = file.read(8)
        size = file.seek(0, os.SEEK_END)
    promised = int.from_bytes(header[4:8], "little") + 8
    if header[:4] == b"RIFF" and size < promised < 2**32 - 1:  # the largest value: written by a stream, size unknown
        raise AudioError(
            f"utterance {utterance.id}: {utterance.path} ends early: its header promises {promised:,} bytes, it has "
            f"{size:,}; fetch the file again"
        )


def unreadable(utterance: Utterance, error: Exception) -> AudioError:
    """What is said of a file that libsndfile refuses."""
    return AudioError(f"utterance {utterance.id}: {utterance.path} cannot be read as audio ({error})")
