"""Headers of audio files: the one place that reads them, each once, remembered until the file changes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import soundfile
from tqdm import tqdm

from benchmark import memory
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Utterance

_CHUNK = 64
"""Files that a thread is given at a time."""


class AudioError(BenchmarkError):
    """An utterance whose audio cannot be used; the message names it."""


class Header(NamedTuple):
    """What the header of an audio file says."""

    rate: int
    """Hz."""
    frames: int
    """Samples of each channel."""
    channels: int

    @property
    def format(self) -> str:
        """``16000 Hz, 1 channel``."""
        return f"{self.rate} Hz, {self.channels} channel{'s' if self.channels > 1 else ''}"


def read(paths: Iterable[str], *, workers: int = 8) -> dict[str, Header | str]:
    """Read headers, in threads.

    Args:
        paths: audio files; one that occurs more than once is read once.
        workers: threads.

    Returns:
        path -> its header, or why the file cannot be used, as in ``does not exist``.
    """
    unusable: dict[str, str] = {}

    def find(unknown: list[str]) -> Iterator[tuple[str, Header]]:
        chunks = [unknown[first : first + _CHUNK] for first in range(0, len(unknown), _CHUNK)]
        with (
            ThreadPoolExecutor(workers) as pool,
            tqdm(total=len(unknown), desc="reading headers", unit="file", leave=False, delay=1.0) as bar,
        ):
            for chunk, headers in zip(chunks, pool.map(_read_all, chunks), strict=True):
                bar.update(len(chunk))
                for path, header in zip(chunk, headers, strict=True):
                    if isinstance(header, str):
                        unusable[path] = header
                    else:
                        yield path, header

    headers = memory.remembered("audio header", paths, find)
    return unusable | {path: Header(*values) for path, values in headers.items()}


def _read_all(paths: list[str]) -> list[Header | str]:
    return [_read(path) for path in paths]


def _read(path: str) -> Header | str:
    try:
        with open(path, "rb") as file:
            start = file.read(8)
            size = file.seek(0, os.SEEK_END)
        # A RIFF file says its size; libsndfile reads what is left of a truncated one without a word.
        promised = int.from_bytes(start[4:8], "little") + 8
        if start[:4] == b"RIFF" and size < promised < 2**32 - 1:  # the largest value: written by a stream, size unknown
            return f"ends early: its header promises {promised:,} bytes, it has {size:,}; fetch the file again"
        with soundfile.SoundFile(path) as audio:
            return Header(audio.samplerate, audio.frames, audio.channels)
    except FileNotFoundError:
        return "does not exist"
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        return f"cannot be read as audio ({error})"


def span(utterance: Utterance, frames: int, rate: int) -> tuple[int, int]:
    """First frame and number of frames of an utterance in its file.

    Raises:
        AudioError: the file is empty, or the utterance reaches beyond it.
    """
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
