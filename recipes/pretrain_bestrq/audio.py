"""Audio files -> log mel frames, all in memory."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor
from tqdm import tqdm

from benchmark.errors import BenchmarkError
from upstream.bestrq.frontend import HOP, SAMPLE_RATE, log_mel, mel_frames

log = logging.getLogger("wavbench")

FORMATS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3")
SHORTEST = SAMPLE_RATE // 2
"""Samples; what is shorter is left out."""
PIECE = 30 * SAMPLE_RATE
"""Samples; what is longer is cut."""
TOGETHER = 600 * SAMPLE_RATE
"""Samples whose frames are computed at once."""

Wave = np.ndarray[Any, np.dtype[np.int16]]


@dataclass
class Frames:
    """The log mel frames of many utterances, end to end."""

    mels: Tensor
    """(frame, band) float16 decibels."""
    starts: Tensor
    """(utterance + 1,) first frames, and the number of frames, on the host."""

    @property
    def hours(self) -> float:
        """Of audio."""
        return len(self.mels) * HOP / SAMPLE_RATE / 3600


def find(folders: Sequence[Path]) -> list[Path]:
    """All audio files in folders, and files given by name, sorted.

    Raises:
        BenchmarkError: there are none in one of them.
    """
    files: list[Path] = []
    for folder in folders:
        found = [folder] if folder.is_file() else [p for p in folder.rglob("*") if p.suffix.lower() in FORMATS]
        if not found:
            raise BenchmarkError(f"no audio in {folder}: expected files that end in {', '.join(FORMATS)}")
        files += sorted(found)
    return files


def decode(path: Path) -> list[Wave]:
    """A file's first channel at 16 kHz, in pieces of up to 30 s; none of a file that cannot be read."""
    try:
        wav, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        log.warning("left out: %s (%s)", path, error)
        return []
    wav = wav[:, 0]
    if rate != SAMPLE_RATE:
        from torchaudio.functional import resample

        wav = resample(torch.from_numpy(np.ascontiguousarray(wav)), rate, SAMPLE_RATE).numpy()
    pieces = np.array_split(wav, max(1, math.ceil(len(wav) / PIECE)))
    return [(piece * 32767).clip(-32768, 32767).astype(np.int16) for piece in pieces if len(piece) >= SHORTEST]


def read(files: Sequence[Path], *, workers: int, bands: int, device: torch.device) -> Frames:
    """Decode files by threads, which libsndfile lets run side by side, and compute their log mel frames on a device.

    Raises:
        BenchmarkError: none of the files has audio.
    """
    with ThreadPoolExecutor(workers) as pool:
        waves = tqdm(pool.map(decode, files), total=len(files), desc="audio", unit="file")
        parts, lengths = [], []
        for group in _groups(piece for pieces in waves for piece in pieces):
            ends = torch.tensor([len(wave) for wave in group])
            padded = torch.zeros(len(group), int(ends.max()), dtype=torch.int16)
            for row, wave in zip(padded, group, strict=True):
                row[: len(wave)] = torch.from_numpy(wave)
            frames = mel_frames(ends)
            mels = log_mel(padded.to(device).float() / 32768, frames.to(device), bands).half()
            parts.append(torch.cat([row[:n] for row, n in zip(mels, frames.tolist(), strict=True)]))
            lengths += frames.tolist()
    if not lengths:
        raise BenchmarkError("none of the files has half a second of audio that can be read")
    return Frames(torch.cat(parts), torch.tensor([0, *lengths]).cumsum(0))


def _groups(waves: Iterable[Wave]) -> Iterator[list[Wave]]:
    """Waves in groups of :data:`TOGETHER` samples, padding counted."""
    group: list[Wave] = []
    for wave in waves:
        if group and max(len(wave), *map(len, group)) * (len(group) + 1) > TOGETHER:
            yield group
            group = []
        group.append(wave)
    if group:
        yield group
