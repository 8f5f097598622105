"""Files as libsndfile has to be given them, whole or in pieces with a corrected header, and exact reads of any stretch.

libsndfile's own seeking is exact for samples and for some blocks. Of MP3, Vorbis and Opus the first samples after a
seek are wrong, and some formats cannot seek: these are decoded from an earlier place, or from the start.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from benchmark.data import source
from benchmark.data.views import View

_EXACT = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "ALAC_")
"""Encodings in which libsndfile finds any sample."""
_BEFORE_MPEG = 2**15
"""Samples to decode before a stretch of MPEG audio. A frame of Layer III takes up to 511 bytes from those before it,
which are at most 23 frames of 1,152 samples (at 8 kbit/s and 24 kHz)."""
_BEFORE_OGG = 2**18
"""Samples to decode before a stretch of Vorbis or Opus. Opus remembers for seconds. Vorbis is found at a wrong place in
the last page, of up to 255 packets of 1,024 samples, so that no seek goes there."""
_BLOCK = 2**16
"""Samples that are decoded and dropped at a time."""


class BrokenError(Exception):
    """Why the audio of a file is not complete, as in ``ends early: …``."""


def ends_early(how: str) -> BrokenError:
    """The end of a file is missing, which is known from ``how``."""
    return BrokenError(f"ends early: {how}; fetch the file again")


class Piece(NamedTuple):
    """A part of a file that libsndfile reads as a file of its own."""

    head: str
    """Bytes (hexadecimal) that stand before those of the file: a header that says the truth."""
    start: int
    """First byte in the file."""
    stop: int
    """The byte after the last."""
    frames: int = 0
    """Samples of each channel; 0: libsndfile knows."""


class _View(View):
    """A piece as a file."""

    def __init__(self, path: str, piece: Piece):
        self._head = bytes.fromhex(piece.head)
        self._start = piece.start - len(self._head)
        """Where the view would begin in the file."""
        super().__init__(piece.stop - self._start, self._read)
        file = source.open_file(path)
        self._file = io.BufferedReader(file) if isinstance(file, io.RawIOBase) else file

    def close(self) -> None:
        self._file.close()
        super().close()

    def _read(self, at: int, count: int) -> bytes:
        data = self._head[at : at + count]
        if len(data) < count:
            self._file.seek(self._start + at + len(data))
            data += self._file.read(count - len(data))
        return data


class _Stream(soundfile.SoundFile):  # type: ignore[misc]
    """soundfile seeks after each read of a file that can seek, which spoils what the next read decodes."""

    def seekable(self) -> bool:
        return False


def _stream(view: Any, path: str) -> Any:
    try:
        return _Stream(view)
    except soundfile.LibsndfileError as error:  # which names the object
        raise soundfile.LibsndfileError(error.code, prefix=f"Error opening {path!r}: ") from error


@contextmanager
def opened(path: str, piece: Piece | None = None) -> Iterator[Any]:
    """A ``soundfile.SoundFile`` of a file, or of a piece of it."""
    if piece is None and source.is_plain(path):
        with _Stream(path) as file:
            yield file
    elif piece is None:
        with source.open_file(path) as view, _stream(view, path) as file:
            yield file
    else:
        with _View(path, piece) as view, _stream(view, path) as file:
            yield file


def blocks(
    path: str, pieces: Sequence[Piece], first: int, frames: int, size: int = _BLOCK
) -> Iterator[NDArray[np.float32]]:
    """Decode a stretch of a file.

    Args:
        path: the file.
        pieces: of the file; none where it is read as it is.
        first: the first sample.
        frames: number of samples.
        size: the most samples to yield at a time.

    Yields:
        (sample, channel) in [-1, 1], the same as of the whole file decoded from its start (of MPEG audio, to the
        precision of float32). Fewer samples than asked for where the file ends early.

    Raises:
        soundfile.SoundFileError, OSError: the file cannot be read.
    """
    for piece in pieces or (None,):
        if piece is not None and len(pieces) > 1 and first >= piece.frames:
            first -= piece.frames
            continue
        if frames <= 0:
            return
        with opened(path, piece) as file:
            _go_to(file, first)
            remaining = frames if piece is None or len(pieces) == 1 else min(frames, piece.frames - first)
            while remaining and len(block := file.read(min(size, remaining), dtype="float32", always_2d=True)):
                remaining -= len(block)
                frames -= len(block)
                yield block
        if remaining:
            return
        first = 0


def _go_to(file: Any, first: int) -> None:
    """Have the next read of an open file begin at a sample."""
    if file.subtype.startswith("MPEG"):
        start = first - _BEFORE_MPEG
    elif file.format == "OGG":
        start = min(first, file.frames - _BEFORE_OGG) - _BEFORE_OGG
    else:
        start = first if file.subtype.startswith(_EXACT) else 0
    if start > 0:
        file.seek(start)
    remaining = first - max(0, start)
    while remaining and (done := len(file.read(min(_BLOCK, remaining), dtype="float32", always_2d=True))):
        remaining -= done
