"""Headers of audio files: the one place that reads them, each once, remembered until the file changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import soundfile
from tqdm import tqdm

from benchmark import memory
from benchmark.data import containers, source
from benchmark.data.pieces import BrokenError, Piece, blocks, opened
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Utterance

TOLERANCE = 0.025
"""Seconds by which an utterance may reach beyond its file, where it is cut, and by which neighbouring utterances may
overlap: times are rounded, and other decoders count some samples more. As in lhotse
(LHOTSE_AUDIO_DURATION_MISMATCH_TOLERANCE)."""
_CHUNK = 64
"""Files that a thread is given at a time."""
_UNKNOWN = 2**40
"""Samples from which on a length is no length: libsndfile has 2^63 - 1 for unknown ones."""


class AudioError(BenchmarkError):
    """An utterance whose audio cannot be used; the message names it."""


class Header(NamedTuple):
    """What the header of an audio file says, corrected where the file holds more or does not say how much it holds."""

    rate: int
    """Hz."""
    frames: int
    """Samples of each channel."""
    channels: int
    pieces: tuple[Piece, ...] = ()
    """How libsndfile has to be given the file; none: as it is."""

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

    headers = memory.remembered("audio extent", paths, find)
    made: dict[int, Header] = {}  # of a million headers, few differ, and those are one object in memory
    for values in headers.values():
        if id(values) not in made:
            made[id(values)] = _header(*values)
    return unusable | {path: made[id(values)] for path, values in headers.items()}


def of(path: str) -> Header:
    """The header of one file, known to this process until the file changes.

    Raises:
        AudioError: the file cannot be used.
    """
    try:
        stamp = memory.stamp(path)
    except (OSError, ValueError) as error:
        raise AudioError(_why(error)) from error
    return _of(path, stamp)


@lru_cache(2**18)
def _of(path: str, stamp: memory.Stamp) -> Header:
    header = read([path], workers=1)[path]
    if isinstance(header, str):
        raise AudioError(header)
    return header


def _header(rate: int, frames: int, channels: int, pieces: Iterable[Iterable[object]]) -> Header:
    return Header(rate, frames, channels, tuple(Piece(*values) for values in pieces))  # type: ignore[arg-type]


def _read_all(paths: list[str]) -> list[Header | str]:
    return [_read(path) for path in paths]


def _read(path: str) -> Header | str:
    try:
        with source.open_file(path) as file:
            pieces = containers.pieces(file)
        if pieces:
            return _join(path, pieces)
        with soundfile.SoundFile(path) if source.is_plain(path) else opened(path) as audio:
            header = Header(audio.samplerate, audio.frames, audio.channels)
        if header.frames >= _UNKNOWN:
            return header._replace(frames=sum(len(block) for block in blocks(path, (), 0, header.frames)))
        return header
    except BrokenError as error:
        return str(error)
    except TypeError:  # soundfile asks for the rate of what is called .raw, whatever it holds
        return "is called .raw, as files without a header are: neither rate nor encoding is known. Convert or rename it"
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        return _why(error)


def _why(error: Exception) -> str:
    return "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read as audio ({error})"


def _join(path: str, pieces: Iterable[Piece]) -> Header | str:
    headers = []
    for piece in pieces:
        with opened(path, piece) as audio:
            frames = piece.frames or audio.frames
            headers.append(Header(audio.samplerate, frames, audio.channels, (piece._replace(frames=frames),)))
    if formats := {header.format for header in headers[1:]} - {headers[0].format}:
        return f"is several files in one, of {headers[0].format} and {', '.join(sorted(formats))}; split it"
    frames = sum(header.frames for header in headers)
    return headers[0]._replace(frames=frames, pieces=tuple(header.pieces[0] for header in headers))


def span(utterance: Utterance, frames: int, rate: int) -> tuple[int, int]:
    """First frame and number of frames of an utterance in its file.

    An utterance that reaches beyond the end by no more than :data:`TOLERANCE` is cut there.

    Raises:
        AudioError: the file is empty, or the utterance reaches further beyond it.
    """
    first = round(utterance.start * rate)
    last = frames if utterance.duration is None else first + round(utterance.duration * rate)
    if frames == 0:
        raise AudioError(f"utterance {utterance.id}: {utterance.path} holds no audio (0 samples); remove it")
    if not 0 <= first < min(last, frames) or last > frames + TOLERANCE * rate:
        raise AudioError(
            f"utterance {utterance.id}: {utterance.path} is {frames / rate:.3f} s long, but the utterance spans "
            f"{first / rate:.3f}–{last / rate:.3f} s of it"
        )
    return first, min(last, frames) - first
