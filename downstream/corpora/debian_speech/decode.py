"""From a recording's bytes to 16 kHz, mono, in a FLAC file."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from benchmark.errors import BenchmarkError
from benchmark.files import write_atomically

SAMPLE_RATE = 16_000
NARROW = 8_000
"""Hz: twice the band that all material for language identification is limited to."""
_ALS_RATE, _ALS_HEADER = 11_025, 32
_SHARP = 64
"""Zero crossings of the resampling filter: at torchaudio's 6, some of what lies above 4 kHz would remain."""

Audio = NDArray[np.float32]


def _with_soundfile(data: bytes) -> tuple[Audio, int]:
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return samples.mean(axis=1), int(rate)


def _with_av(data: bytes, kind: str) -> tuple[Audio, int]:
    try:
        import av
    except ImportError as error:
        raise BenchmarkError(f"decoding {kind} needs PyAV: pip install -e '.[real]'") from error
    parts: list[NDArray[Any]] = []
    rate = 0
    with av.open(io.BytesIO(data), format=kind) as container:
        for frame in container.decode(audio=0):
            part = frame.to_ndarray()  # (channel, sample), or (1, sample * channel)
            if part.dtype.kind == "i":
                part = part / np.float32(np.iinfo(part.dtype).max + 1)
            parts.append(
                part.mean(axis=0) if frame.format.is_planar else part.reshape(-1, frame.layout.nb_channels).mean(axis=1)
            )
            rate = frame.sample_rate
    return np.concatenate(parts).astype(np.float32), rate


def _als(data: bytes) -> tuple[Audio, int]:
    samples = np.frombuffer(data, np.uint8)[_ALS_HEADER:].astype(np.float32)
    return np.asarray((samples - 128) / 128, np.float32), _ALS_RATE


DECODERS: dict[str, Callable[[bytes], tuple[Audio, int]]] = {
    "file": _with_soundfile,
    "als": _als,
    "g722": lambda data: _with_av(data, "g722"),
    "gsm": lambda data: _with_av(data, "gsm"),
    "mp3": lambda data: _with_av(data, "mp3"),
}
"""Format -> bytes to samples in [-1, 1] and their rate."""


def decode(data: bytes, kind: str) -> Audio:
    """The samples (sample,) at :data:`SAMPLE_RATE`.

    Raises:
        ValueError: the bytes are no such audio.
        BenchmarkError: PyAV is not installed.
    """
    try:
        samples, rate = DECODERS[kind](data)
    except (OSError, RuntimeError, ValueError, LookupError) as error:  # PyAV's errors are some of these
        raise ValueError(f"no {kind}: {error}") from error
    if not len(samples):
        raise ValueError(f"no {kind}: it is empty")
    return resample(samples, rate, SAMPLE_RATE)


def resample(samples: Audio, rate: int, target: int) -> Audio:
    """(sample,) at ``rate`` Hz -> (sample,) at ``target`` Hz."""
    from torchaudio.functional import resample as by_torchaudio

    if rate == target:
        return samples
    wav = by_torchaudio(
        torch.from_numpy(samples), rate, target, lowpass_filter_width=_SHARP if NARROW in (rate, target) else 6
    )
    return np.asarray(wav.numpy(), np.float32)


def narrow(samples: Audio) -> Audio:
    """The same samples without what lies above 4 kHz."""
    return resample(resample(samples, SAMPLE_RATE, NARROW), NARROW, SAMPLE_RATE)[: len(samples)]


def write_flac(path: Path, samples: Audio) -> None:
    """Write 16 bits a sample; a crash leaves no half of a file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples.clip(-1, 1), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    write_atomically(path, lambda file: file.write(buffer.getbuffer()))
