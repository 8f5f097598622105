"""What the bytes of an audio file say about its length, where libsndfile takes the header's word for it.

libsndfile never reads more than a header claims, and takes what is left of a truncated file for the whole. Here the
claim is compared with the file: with its size (WAV and other containers of samples), with its last frame (FLAC), or
with all of its frames or pages (MP3, Ogg). The result is a list of pieces, each of which libsndfile reads in full.

Formats: `RIFF and RF64 <https://tech.ebu.ch/docs/tech/tech3306v1_1.pdf>`_, `FLAC
<https://www.rfc-editor.org/rfc/rfc9639>`_, `Ogg <https://www.rfc-editor.org/rfc/rfc3533>`_.
"""

from __future__ import annotations

import io
import mmap
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, BinaryIO, Literal, NamedTuple

from benchmark.data import mpeg
from benchmark.data.pieces import BrokenError, Piece, ends_early

_PADDING = 64
"""Bytes after the audio that are taken for padding, whatever they are."""
_FLAC_MARK = b"fLaC\0\0\0\x22"
_TAGS = (b"TAG", b"APETAGEX", b"ID3", b"LYRICSBEGIN", b"3DI")
"""With which tags begin that programs append to any file."""


def pieces(file: BinaryIO, *, thorough: bool = False) -> list[Piece]:
    """What libsndfile has to be given to read all audio of a file.

    Args:
        file: an open file.
        thorough: look for joined FLAC files of the same length, too, which takes reading all of the file.

    Returns:
        The file's parts; none where libsndfile reads all of it as it is, or where its format is not known here.

    Raises:
        BrokenError: the file ends before its audio does.
    """
    size = file.seek(0, os.SEEK_END)
    magic = _at(file, 0, 16)
    start = 0
    if magic[:3] == b"ID3":
        start = mpeg.id3_size(magic)
        magic = _at(file, start, 16)
    if magic[:4] == b"fLaC":
        return _flac(file, start, size, thorough)
    if magic[:4] == b"OggS":
        with _whole(file) as data:
            return _ogg(data, start)
    if start or magic[:1] == b"\xff":
        with _whole(file) as data:
            return mpeg.pieces(data, start)
    return _samples(file, magic, size)


def _at(file: BinaryIO, position: int, count: int) -> bytes:
    file.seek(max(0, position))
    return file.read(count)


@contextmanager
def _whole(file: BinaryIO) -> Iterator[Any]:
    """All bytes of a file: mapped, or of a member of an archive, which is no file by itself, read."""
    try:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except io.UnsupportedOperation:
        file.seek(0)
        yield file.read()
    else:
        with mapped:
            yield mapped


# ------------------------------------------------------------------------------------------- containers of samples

_Order = Literal["big", "little"]


class _Layout(NamedTuple):
    """How a container's chunks are laid out."""

    id_bytes: int
    size_bytes: int
    order: _Order
    pad: int
    """Chunks begin at multiples of this."""


class _Claim(NamedTuple):
    """How long the audio is, as the header has it."""

    start: int
    """First byte of audio."""
    size: int
    """Bytes of audio."""
    position: int
    """Of the size in the header; below 0: where more follows, it is left alone."""
    bits: int
    """Of the size."""
    order: _Order
    extra: int = 0
    """Bytes that the size counts beside the audio."""
    layout: _Layout | None = None
    """Of the chunks after the audio; ``None``: nothing is after it."""


def _samples(file: BinaryIO, magic: bytes, size: int) -> list[Piece]:
    claim = _claim(file, magic, size)
    if claim is None:
        promised = int.from_bytes(magic[4:8], "little" if magic[:4] == b"RIFF" else "big") + 8
        if magic[:4] in (b"RIFF", b"RIFX", b"FORM") and size < promised < 0xFFFF0000:  # cut before its audio begins
            raise ends_early(f"its header promises {promised:,} bytes, it has {size:,}")
        return []
    end = claim.start + claim.size
    if _unknown(claim):
        if _at(file, claim.start, 20).startswith((magic[:12], bytes(4) + magic[:12])):
            raise BrokenError("has its header twice, as SoX writes this format to a pipe; have it write a file")
        if claim.position < 0 or not _audio_follows(file, claim.start, size, claim.layout):
            return []
    elif end > size:
        raise ends_early(f"its header promises {end:,} bytes, it has {size:,}")
    elif claim.position < 0 or not _audio_follows(file, end, size, claim.layout):
        return []
    if magic[:4] == b"NIST":
        return [Piece(_longer_nist(_at(file, 0, claim.start), end, size).hex(), claim.start, size)]
    head = bytearray(_at(file, 0, claim.start))
    number = min(size - claim.start + claim.extra, 2**claim.bits - 1)
    head[claim.position : claim.position + claim.bits // 8] = number.to_bytes(claim.bits // 8, claim.order)
    return [Piece(head.hex(), claim.start, size)]


def _unknown(claim: _Claim) -> bool:
    """Whether the size is one that programs write while they do not know it: 0, the largest number of 31, 32, 63 or 64
    bits, perhaps less a header or a block, or 7F000000 (SoX)."""
    size = claim.size
    if claim.bits == 64:
        return size <= 0 or size >= 2**62
    return size <= 0 or 0x7F000000 - 64 <= size <= 0x7F000000 + 64 or 0x7FFF0000 <= size <= 2**31 or size >= 0xFFFF0000


def _audio_follows(file: BinaryIO, end: int, size: int, layout: _Layout | None) -> bool:
    """Whether what follows the audio that a header claims is audio, too, and not padding, a tag or other chunks."""
    if size - end <= _PADDING:
        return False
    rest = _at(file, end, 2**20)
    if rest.startswith(_TAGS) or not rest.strip(b"\0"):
        return False
    if layout is None:
        return True
    for name, start, length, _ in _chunks(file, end, size, layout):
        if not all(32 <= byte < 127 for byte in name[:4]) or start + length > size + _PADDING:
            return True
    return False


def _chunks(file: BinaryIO, at: int, size: int, layout: _Layout) -> Iterator[tuple[bytes, int, int, int]]:
    """(id, first byte of content, bytes of content, position of the size) of each chunk from ``at`` on."""
    at += -at % layout.pad
    while at + layout.id_bytes + layout.size_bytes <= size:
        file.seek(at)
        head = file.read(layout.id_bytes + layout.size_bytes)
        start = at + len(head)
        length = int.from_bytes(head[layout.id_bytes :], layout.order)
        yield head[: layout.id_bytes], start, length - _counted(layout), at + layout.id_bytes
        at = start + max(0, length - _counted(layout))
        at += -at % layout.pad


def _counted(layout: _Layout) -> int:
    """Bytes of a chunk's head that its size counts: those of Wave 64."""
    return 24 if layout.id_bytes == 16 else 0


def _claim(file: BinaryIO, magic: bytes, size: int) -> _Claim | None:
    name, kind = magic[:4], magic[8:12]
    if name in (b"RIFF", b"RF64", b"BW64") and kind == b"WAVE":
        return _chunked(file, size, 12, _Layout(4, 4, "little", 2), b"data")
    if name == b"RIFX" and kind == b"WAVE":
        return _chunked(file, size, 12, _Layout(4, 4, "big", 2), b"data")
    if name == b"FORM" and kind in (b"AIFF", b"AIFC"):
        return _chunked(file, size, 12, _Layout(4, 4, "big", 2), b"SSND")
    if name == b"FORM" and kind in (b"8SVX", b"16SV"):
        return _chunked(file, size, 12, _Layout(4, 4, "big", 2), b"BODY")
    if name == b"riff":
        return _chunked(file, size, 40, _Layout(16, 8, "little", 8), b"data")
    if name == b"caff":
        return _chunked(file, size, 8, _Layout(4, 8, "big", 1), b"data")
    if name in (b".snd", b"dns."):
        order: _Order = "big" if name == b".snd" else "little"
        return _Claim(int.from_bytes(magic[4:8], order), int.from_bytes(magic[8:12], order), 8, 32, order)
    if magic[:8] == b"NIST_1A\n":
        return _nist(file)
    return _rare(file, magic)


def _chunked(file: BinaryIO, size: int, at: int, layout: _Layout, audio: bytes) -> _Claim | None:
    bits = 8 * layout.size_bytes
    long_size = None
    for name, start, length, position in _chunks(file, at, size, layout):
        if name == b"ds64":
            file.seek(start + 8)
            long_size = int.from_bytes(file.read(8), "little"), start + 8
        elif name[:4] == audio:
            if long_size and length == 0xFFFFFFFF:
                return _Claim(start, long_size[0], long_size[1], 64, "little", 0, layout)
            return _Claim(start, length, position, bits, layout.order, _counted(layout), layout)
    return None


def _rare(file: BinaryIO, magic: bytes) -> _Claim | None:
    """Of a VOC file the first block, AVR, Psion's WVE."""
    head = _at(file, 0, 128)
    if magic == b"Creative Voice F" and len(head) == 128:
        start = int.from_bytes(head[20:22], "little")
        return _Claim(start + 4, int.from_bytes(head[start + 1 : start + 4], "little"), -1, 24, "little")
    if magic[:4] == b"2BIT":
        block = (2 if head[12:14] == b"\xff\xff" else 1) * (int.from_bytes(head[14:16], "big") // 8)
        return _Claim(128, int.from_bytes(head[26:30], "big") * block, -1, 32, "big")
    if magic == b"ALawSoundFile**\0":
        return _Claim(32, int.from_bytes(head[18:22], "big"), -1, 32, "big")
    return None


_COUNT = re.compile(rb"(sample_count -i )(\d+)")


def _nist(file: BinaryIO) -> _Claim | None:
    """SPHERE: lines of ``name -type value``, padded to the size that the second line gives."""
    text = _at(file, 0, 1024)
    fields = {name: int(value) for name, value in re.findall(rb"(\w+) -i (\d+)", text)}
    size = text[8:16].strip()
    if not size.isdigit() or b"embedded" in text or b"sample_count" not in fields:  # compressed inside
        return None
    block = fields.get(b"sample_n_bytes", 1) * fields.get(b"channel_count", 1)
    return _Claim(int(size), fields[b"sample_count"] * block, 0, 64, "big")


def _longer_nist(header: bytes, end: int, size: int) -> bytes:
    """The header with a number of samples for audio up to ``size`` instead of ``end``."""
    longer = _COUNT.sub(lambda m: m[1] + b"%d" % (int(m[2]) * (size - len(header)) // (end - len(header))), header)
    return longer.rstrip(b" \0\n").ljust(len(header), b"\n")


# ------------------------------------------------------------------------------------------------------------- FLAC


def _flac(file: BinaryIO, start: int, size: int, thorough: bool) -> list[Piece]:
    head = bytearray(_at(file, start, 42))
    if len(head) < 42 or not head.startswith(_FLAC_MARK):
        return []
    block, largest = int.from_bytes(head[8:10], "big"), int.from_bytes(head[15:18], "big")
    total = int.from_bytes(head[21:26], "big") & (2**36 - 1)
    tail_size = min(size - start - 42, (largest or 2**17) + 2**12)
    tail = _at(file, size - tail_size, tail_size)
    end = _flac_end(tail, block, total)
    if 0 < end == total and not thorough:
        return []
    if joined := _flac_joined(file, start, size):
        return joined
    if not end and not total:
        raise ends_early("its header does not say how long it is, and its last frame is cut off")
    if end <= total:
        ends = [end for end, _ in _flac_ends(tail, block)]
        if ends and max(ends) < total:
            raise ends_early(f"its header promises {total:,} samples, its last frame ends at {ends[0]:,}")
        return []
    head[21:26] = (int.from_bytes(head[21:26], "big") - total + end).to_bytes(5, "big")
    return [Piece(head.hex(), start + 42, size)]


def _flac_joined(file: BinaryIO, start: int, size: int) -> list[Piece]:
    """Pieces of several FLAC files that were written one after another, as by ``cat``."""
    with _whole(file) as data:
        starts = [start]
        while (at := data.find(_FLAC_MARK, starts[-1] + 42, size)) >= 0:
            starts.append(at)
    if len(starts) == 1:
        return []
    ranges = zip(starts, [*starts[1:], size], strict=True)
    return [piece for ends in ranges for piece in _flac(file, *ends, False) or [Piece("", *ends)]]


def _flac_end(tail: bytes, block: int, total: int) -> int:
    """``total``, unless a frame behind the one that ends there is whole: then where that one ends; 0: neither."""
    audio = tail[:-128] if tail[-128:-125] == b"TAG" else tail
    for end, at in _flac_ends(tail, block):
        if end == total or (end > total and not _crc(audio[at:], 16, 0x8005)):
            return end
    return 0


def _flac_ends(tail: bytes, block: int) -> Iterator[tuple[int, int]]:
    """(number of the sample after the frame, position of the frame) of frames, from the last to the first. Where the
    8 bits of a check agree by chance, it is none."""
    end = len(tail)
    while (at := max(tail.rfind(b"\xff\xf8", 0, end), tail.rfind(b"\xff\xf9", 0, end))) >= 0:
        end = at + 1
        head = tail[at : at + 16].ljust(16, b"\0")  # a frame of one sample takes less
        ones = 8 - (head[4] ^ 0xFF).bit_length()
        if ones == 1 or ones > 7 or head[3] & 1 or not head[2] >> 4:
            continue
        number, after = head[4] & 0x7F >> ones, 5
        for byte in head[5 : 4 + max(1, ones)]:  # as in UTF-8
            number, after = number << 6 | byte & 63, after + 1
        code = head[2] >> 4
        if code in (6, 7):
            samples = int.from_bytes(head[after : after + code - 5], "big") + 1
            after += code - 5
        else:
            samples = 192 if code == 1 else 576 << code - 2 if code < 6 else 256 << code - 8
        after += {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)  # the rate
        if at + after < len(tail) and not _crc(head[: after + 1], 8, 0x07):
            yield (number if head[1] & 1 else number * block) + samples, at


def _crc(data: bytes, bits: int, polynomial: int) -> int:
    """The check of RFC 9639, section 9; 0 over data that end in theirs."""
    table, mask, value = _crc_table(bits, polynomial), 2**bits - 1, 0
    for byte in data:
        value = (value << 8 ^ table[value >> bits - 8 ^ byte]) & mask
    return value


@lru_cache
def _crc_table(bits: int, polynomial: int) -> list[int]:
    table = []
    for value in range(256):
        value <<= bits - 8
        for _ in range(8):
            value = value << 1 ^ (polynomial if value >> bits - 1 else 0) & 2**bits - 1
            value &= 2**bits - 1
        table.append(value)
    return table


# -------------------------------------------------------------------------------------------------------------- Ogg


def _ogg(data: mmap.mmap, start: int) -> list[Piece]:
    """The streams of a chain (what ``cat`` makes of two files), each of which must be marked as complete."""
    links: list[int] = []
    at, first, ended = start, False, True
    while (at := data.find(b"OggS", at)) >= 0:
        head = data[at : at + 27]
        lacing = data[at + 27 : at + 27 + head[26]] if len(head) == 27 else b""
        if len(head) < 27 or len(lacing) < head[26] or at + 27 + len(lacing) + sum(lacing) > len(data):
            raise ends_early("its last page is cut off")
        if head[5] & 2 and not first:  # the streams of one link begin together
            if not ended:
                raise ends_early("a stream in it has no last page")
            links.append(at)
        first, ended = bool(head[5] & 2), bool(head[5] & 4)
        at += 27 + len(lacing) + sum(lacing)
    if links and not ended:
        raise ends_early("its last page is not marked as the last")
    stops = [*links[1:], len(data)]
    return [Piece("", *ends) for ends in zip(links, stops, strict=True)] if len(links) > 1 else []
