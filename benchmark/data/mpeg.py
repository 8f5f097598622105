"""MPEG audio, which has no header: its frames are counted, and compared with what a Xing header says.

Formats: `frames <http://www.mp3-tech.org/programmer/frame_header.html>`_, `Xing header
<http://gabriel.mp3-tech.org/mp3infotag.html>`_.
"""

from __future__ import annotations

import mmap
from functools import lru_cache
from typing import NamedTuple

from benchmark.data.pieces import Piece, ends_early


class _Run(NamedTuple):
    """Frames that follow each other."""

    start: int
    stop: int
    frames: int
    claimed: int | None
    """Frames, as the Xing header before them has it."""
    after: int
    """First byte after the Xing header."""
    head: int
    """The first frame's head."""


def pieces(data: mmap.mmap, at: int) -> list[Piece]:
    """See :func:`benchmark.data.containers.pieces`; frames begin at ``at``.

    Files that were joined are pieces of their own. libsndfile estimates the length of frames without a Xing header from
    the size of the file, and reads no more than that: these get a Xing header.
    """
    runs, complete = _runs(data, at)
    result = []
    for run in runs:
        if run.claimed == run.frames:
            result.append(Piece("", run.start, run.stop))
            continue
        if run.claimed is not None and (run.frames < run.claimed - 1 or not complete):
            raise ends_early(f"its header promises {run.claimed:,} frames, it has {run.frames:,}")
        _, samples, side = _frame(run.head)
        if side:
            result.append(Piece(_xing(run.head, run.frames).hex(), run.after, run.stop))
        else:  # no Xing header can stand before other layers
            result.append(Piece("", run.start, run.stop, run.frames * samples))
    if runs and not complete and runs[-1].claimed != runs[-1].frames:
        raise ends_early("its last frame is cut off")
    return [] if [run.claimed for run in runs] == [runs[0].frames if runs else 0] else result


def _runs(data: mmap.mmap, at: int) -> tuple[list[_Run], bool]:
    """The file's runs of frames, and whether the last frame is complete."""
    runs: list[_Run] = []
    size = len(data)
    start = after = at
    key = head = frames = 0
    claimed: int | None = None

    def end(at: int) -> None:
        if frames:
            runs.append(_Run(start, at, frames, claimed, after, head))

    while at + 4 <= size:
        number = int.from_bytes(data[at : at + 4], "big")
        length, _, side = _frame(number)
        if length and (not key or number & _SAME == key):
            if at + length > size:
                end(at)
                return runs, False
            tag = data[at + 4 + side : at + 16 + side] if side else b""
            if tag[:4] in (b"Xing", b"Info") or data[at + 36 : at + 40] == b"VBRI":
                end(at)
                start, after, frames = at, at + length, 0
                claimed = int.from_bytes(tag[8:12], "big") if tag[:1] in b"XI" and tag[7:8] and tag[7] & 1 else None
            else:
                frames += 1
                head = head or number
            key = number & _SAME
            at += length
            continue
        end(at)
        if data[at : at + 3] == b"ID3":
            at += id3_size(data[at : at + 10])
        elif (at := _resync(data, at)) < 0:
            return runs, True
        start = after = at
        key = head = frames = 0
        claimed = None
    end(at)
    return runs, data[at : at + 1] != b"\xff"  # the first bytes of a head


_SAME = 0xFFFE0C00
"""Version, layer and rate of a frame's head."""
_DELAY = 529
"""Samples that a decoder drops beside those of the encoder."""
_RATES = (44100, 48000, 32000)
_BITRATES = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""(Version, layer) -> kbit/s."""


@lru_cache(2**12)
def _frame(head: int) -> tuple[int, int, int]:
    """(bytes, samples, bytes of side information) of a frame by its head; 0 bytes: it is none. Layer III alone has side
    information."""
    version = {0: 4, 2: 2, 3: 1}.get(head >> 19 & 3)  # 4: the extension "2.5", to a quarter of the rates
    layer, bitrate, rate = 4 - (head >> 17 & 3), head >> 12 & 15, head >> 10 & 3
    if head >> 21 != 0x7FF or version is None or layer == 4 or bitrate in (0, 15) or rate == 3:
        return 0, 0, 0
    kbits = _BITRATES[min(version, 2), layer][bitrate - 1]
    hertz, padding = _RATES[rate] // version, head >> 9 & 1
    if layer == 1:
        return (12000 * kbits // hertz + padding) * 4, 384, 0
    low, mono = version > 1, head >> 6 & 3 == 3
    samples = 576 if layer == 3 and low else 1152
    side = (9 if low and mono else 17 if low or mono else 32) if layer == 3 else 0
    return 125 * samples * kbits // hertz + padding, samples, side


def _resync(data: mmap.mmap, at: int) -> int:
    """Where frames begin again: three heads in the right distances, or the end of the file; -1: nowhere."""
    while (at := data.find(b"\xff", at)) >= 0:
        first = following = int.from_bytes(data[at : at + 4], "big")
        position = at
        for _ in range(3):
            length = _frame(following)[0]
            if not length or (first ^ following) & _SAME:
                break
            position += length
            if position == len(data):
                return at
            following = int.from_bytes(data[position : position + 4], "big")
        else:
            return at
        at += 1
    return -1


def _xing(head: int, frames: int) -> bytes:
    """A Xing header for these frames of Layer III, and a silent frame.

    After a Xing header decoders drop :data:`_DELAY` samples and what its LAME extension says: here, the silent frame.
    """
    head = head & ~0xF200 | 0x10000  # no bit rate, no padding, no check
    for bitrate in range(1, 15):
        length, samples, side = _frame(head | bitrate << 12)
        if length >= 4 + side + 12 + 36:
            break
    silent = (head | bitrate << 12).to_bytes(4, "big").ljust(length, b"\0")
    tag = b"Info" + (1).to_bytes(4, "big") + (frames + 1).to_bytes(4, "big")
    lame = b"LAME".ljust(21, b"\0") + ((samples - _DELAY) << 12 | _DELAY).to_bytes(3, "big")
    return (silent[: 4 + side] + tag + lame).ljust(length, b"\0") + silent


def id3_size(head: bytes) -> int:
    """Bytes of an ID3v2 tag by its first ten."""
    return 10 + sum((byte & 127) << 7 * place for place, byte in enumerate(reversed(head[6:10])))
