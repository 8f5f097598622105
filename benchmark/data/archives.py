"""Audio inside tar and zip files: where each member lies, and its bytes.

A member is named by a path through its archive, ``/corpora/audio-00000.tar/id10001/x/00001.wav``. Archives are
``.tar``, ``.zip``, and files that ``split`` made of one, the first of which is named (``vox1_dev_wav_partaa``). Nothing
is unpacked: stored members are read where they are, deflated ones into memory.

Where members lie is kept in an index, a text file beside the archive (written by ``wavbench pack``) or in the cache::

    wavbench-index 1 <size of the archive in bytes> <its SHA-256, or ->
    <name> TAB <first byte> TAB <size in bytes> TAB <0, or bytes in a zip file, where a local header is at the first>

with the lines after the first sorted by the bytes of the names. An index is searched where it lies on disk, so that
processes share it however many members there are.
"""

from __future__ import annotations

import hashlib
import io
import logging
import mmap
import os
import re
import string
import tarfile
import threading
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from benchmark.data.views import View
from benchmark.errors import BenchmarkError, shorten
from benchmark.files import cache_dir, is_safe, split_member, write_bytes

log = logging.getLogger("wavbench")

ENDING = ".index"
"""Of an index beside its archive."""
_MAGIC = b"wavbench-index 1 "
_LARGEST = 2**30
"""Bytes of a deflated member that are taken into memory."""
_BUFFER = 2**14
"""Bytes of a stored member that are read at once: reading a header must not read all of the audio."""
_OPEN = 256
"""Archives whose files are kept open."""
_LINE = re.compile(rb"([^\t\n]+)\t(\d{1,18})\t(\d{1,18})\t(\d{1,18})\n")
_HEAD = re.compile(rb"wavbench-index 1 (\d{1,18}) ([0-9a-f]{64}|-)\n")


_Stamps = tuple[tuple[int, int, int], ...]


class ArchiveError(BenchmarkError, OSError):
    """An archive, or its index, that cannot be used; readers of audio take it for a file that cannot be read."""


class Member(NamedTuple):
    """Where a file lies in an archive."""

    name: str
    start: int
    """The first byte of the file; of a member of a zip file, of its local header."""
    size: int
    """Bytes of the file."""
    packed: int = 0
    """Bytes that it takes in a zip file; 0: it lies in the archive as it is."""


# ------------------------------------------------------------------------------------------------------------- bytes


class _Parts:
    """The open files of an archive. Any number of threads and processes may read: nothing has a position."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._files: list[int] = []
        self._starts: list[int] = []
        self.size = 0
        for part in paths:
            self._files.append(os.open(part, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)))
            self._starts.append(self.size)
            self.size += os.fstat(self._files[-1]).st_size

    def __del__(self) -> None:
        for file in self._files:
            os.close(file)

    def read(self, start: int, count: int) -> bytes:
        """Up to ``count`` bytes, fewer only at the end."""
        found = []
        for file, begin, end in zip(self._files, self._starts, [*self._starts[1:], self.size], strict=True):
            while count > 0 and begin <= start < end:
                data = os.pread(file, min(count, end - start), start - begin)
                if not data:
                    raise OSError("the file became shorter while it was read")
                found.append(data)
                start, count = start + len(data), count - len(data)
        return found[0] if len(found) == 1 else b"".join(found)


def parts(path: str) -> list[str]:
    """The files of an archive, in their order: itself, or with ``…_partaa`` those that follow it without a gap."""
    if not path.endswith("_partaa"):
        return [path]
    stem, found = path[:-2], [path]
    for first in string.ascii_lowercase:
        for second in string.ascii_lowercase:
            if (first, second) != ("a", "a"):
                if not os.path.isfile(part := f"{stem}{first}{second}"):
                    return found
                found.append(part)
    return found


_open_files: OrderedDict[tuple[str, _Stamps], _Parts] = OrderedDict()
_lock = threading.Lock()
if hasattr(os, "register_at_fork"):  # a thread of the parent may hold it
    os.register_at_fork(after_in_child=lambda: globals().update(_lock=threading.Lock()))


def _opened(archive: str) -> _Parts:
    """The open files of an archive, until another one is at its path; closed when nobody reads them any more."""
    files = parts(archive)
    key = (archive, _stamps(files))
    with _lock:
        if key not in _open_files:
            _open_files[key] = _Parts(files)
            while len(_open_files) > _OPEN:
                _open_files.popitem(last=False)
        _open_files.move_to_end(key)
        return _open_files[key]


def _stamps(files: Iterable[str]) -> _Stamps:
    """What tells files from others that have been at their paths."""
    return tuple((status.st_size, status.st_mtime_ns, status.st_ctime_ns) for status in map(os.stat, files))


def open_member(path: str) -> BinaryIO:
    """A member as a file that can seek.

    Raises:
        FileNotFoundError: there is no such archive or member.
        OSError: it cannot be read, or takes over 1 GiB of memory to unpack.
    """
    archive, name = _split(path)
    data, member = _opened(archive), find(archive, name)
    if member.packed:
        member, deflated = _zipped(data, member)
        if deflated:
            return io.BytesIO(_inflated(data, member))
    if member.start + member.size > data.size:
        raise ArchiveError(f"{archive} ends before {name} does; fetch or pack it again")
    return io.BufferedReader(View(member.size, lambda at, count: data.read(member.start + at, count)), _BUFFER)


def _zipped(data: _Parts, member: Member) -> tuple[Member, bool]:
    """A member of a zip file with ``start`` behind its local header, and whether it is deflated."""
    head = data.read(member.start, 30)
    method = int.from_bytes(head[8:10], "little")
    if len(head) < 30 or head[:4] != b"PK\3\4" or method not in (0, 8):
        raise ArchiveError(f"{member.name} is not where the zip file says; fetch it again")
    name, extra = int.from_bytes(head[26:28], "little"), int.from_bytes(head[28:30], "little")
    return member._replace(start=member.start + 30 + name + extra), method == 8


def _inflated(data: _Parts, member: Member) -> bytes:
    if max(member.size, member.packed) > _LARGEST:
        raise ArchiveError(f"{member.name} takes {member.size:,} bytes of memory to unpack; unpack the zip file")
    try:
        content = zlib.decompressobj(-15).decompress(data.read(member.start, member.packed), member.size + 1)
    except zlib.error as error:
        raise ArchiveError(f"{member.name} cannot be unpacked ({error}); fetch the zip file again") from error
    if len(content) != member.size:
        raise ArchiveError(f"{member.name} has not the {member.size:,} bytes that the zip file says; fetch it again")
    return content


def _split(path: str) -> tuple[str, str]:
    both = split_member(path)
    if both is None:
        raise FileNotFoundError(path)
    return both


# ------------------------------------------------------------------------------------------------------------- index


class Index:
    """Where the members of an archive lie.

    Args:
        path: of the index.
        size: of the archive, which must be the one that the index gives.
        content: of the index, where it is not on disk.

    Raises:
        ArchiveError: it is no index, or of another archive.
    """

    def __init__(self, path: Path, size: int, content: bytes | None = None) -> None:
        try:
            if content is None:
                with open(path, "rb") as file:
                    self._data: mmap.mmap | bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            else:
                self._data = content
        except (OSError, ValueError) as error:
            raise ArchiveError(f"index {path} cannot be read ({error})") from error
        head = _HEAD.match(self._data)
        if head is None:
            raise ArchiveError(f"{path} is not an index as 'wavbench pack' writes it")
        self.path, self.digest = path, head[2].decode()
        self._body = head.end()
        if int(head[1]) != size:
            raise ArchiveError(
                f"the archive has {size:,} bytes, its index {path} is of one of {int(head[1]):,}: one of them is not "
                "whole, or was written later. Fetch or pack them again"
            )

    def find(self, name: str) -> Member | None:
        """The member of a name; takes about 20 steps for a million members."""
        wanted = _encoded(name) + b"\t"
        low, high = self._body, len(self._data)  # both begin lines
        while low < high:
            middle = (low + high) // 2
            start = max(low, self._data.rfind(b"\n", low, middle) + 1)
            end = self._data.find(b"\n", start) + 1 or len(self._data)
            line = self._data[start:end]
            if line.startswith(wanted):
                return self._member(line)
            if line[: line.find(b"\t") + 1] < wanted:
                low = end
            else:
                high = start
        return None

    def __iter__(self) -> Iterator[Member]:
        at = self._body
        while at < len(self._data):
            end = self._data.find(b"\n", at) + 1 or len(self._data)
            yield self._member(self._data[at:end])
            at = end

    def _member(self, line: bytes) -> Member:
        match = _LINE.fullmatch(line)
        if match is None:
            raise ArchiveError(f"index {self.path} is damaged: {line[:80]!r}; pack the corpus again")
        return Member(os.fsdecode(match[1]), int(match[2]), int(match[3]), int(match[4]))


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def index_bytes(members: Iterable[Member], size: int, digest: str = "-") -> bytes:
    """The content of an index; names must be free of control characters."""
    lines = sorted(
        b"%s\t%d\t%d\t%d\n" % (_encoded(member.name), member.start, member.size, member.packed) for member in members
    )
    return b"".join([b"%s%d %s\n" % (_MAGIC, size, digest.encode()), *lines])


def find(archive: str, name: str) -> Member:
    """Where a member lies.

    Raises:
        FileNotFoundError: there is no such archive or member.
        ArchiveError: the archive or its index cannot be read.
    """
    member = index(archive).find(name)
    if member is None:
        raise FileNotFoundError(f"{archive} has no member {name}")
    return member


def index(archive: str) -> Index:
    """The index of an archive: the one beside it, or one that is made once and kept in the cache folder.

    Raises:
        FileNotFoundError: there is no such archive.
        ArchiveError: the archive or the index beside it cannot be read.
    """
    return _index(archive, _stamps(parts(archive)))


@lru_cache(4096)
def _index(archive: str, stamps: _Stamps) -> Index:
    size = sum(stamp[0] for stamp in stamps)
    beside = Path(archive + ENDING)
    if beside.exists():
        return Index(beside, size)
    key = (os.path.abspath(archive), stamps, "hard links")  # which indices of before do not have
    name = hashlib.sha256(repr(key).encode()).hexdigest()[:32]
    path = cache_dir() / "indices" / f"{name}{ENDING}"
    if not path.exists():
        content = index_bytes(listed(archive), size)
        try:
            write_bytes(path, content)
        except BenchmarkError as error:
            log.warning("the index of %s is not kept: %s", archive, error)
            return Index(path, size, content)
    return Index(path, size)


def listed(archive: str) -> list[Member]:
    """The regular files of an archive, from the archive itself. Of several of one name, the last, as when unpacking.
    Symbolic links and sparse files in it are left out with a warning.

    Members are left out whose names are absolute, lead out of the archive (``..``) or hold control characters.

    Raises:
        ArchiveError: it is no archive, is damaged, encrypted, or compressed in a way that is not supported.
    """
    data = _opened(archive)
    try:
        file = View(data.size, data.read)
        found = _zip_members(file) if data.read(0, 2) == b"PK" else _tar_members(file, archive)
        members = {member.name: member for member in found if is_safe(member.name)}
    except ArchiveError:
        raise
    except Exception as error:  # whatever tarfile and zipfile raise on what is no archive
        why = f"{type(error).__name__}: {error}"
        raise ArchiveError(f"{archive} cannot be read as a tar or zip file ({why}); fetch it again") from error
    if (end := max((m.start + m.size for m in members.values() if not m.packed), default=0)) > data.size:
        raise ArchiveError(f"{archive} ends early: it has {data.size:,} bytes of {end:,}; fetch the rest of it")
    return list(members.values())


def _tar_members(file: Any, path: str) -> Iterator[Member]:
    found: dict[str, Member] = {}
    left_out: list[str] = []
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (info := archive.next()) is not None:
            vars(archive)["members"].clear()  # tarfile would keep a million of them
            name = info.name.removeprefix("./")
            if info.isreg() and not info.issparse():
                found[name] = Member(name, info.offset_data, info.size)
                yield found[name]
            elif info.islnk() and (target := found.get(info.linkname.removeprefix("./"))):
                found[name] = target._replace(name=name)
                yield found[name]
            elif info.islnk() or info.issym() or info.issparse():
                left_out.append(name)
    if left_out:
        log.warning(
            "%s: %s members are left out, which are links or sparse files, not the audio itself: %s. Make the archive "
            "again with tar --dereference, without --sparse", path, f"{len(left_out):,}", shorten(left_out)
        )  # fmt: skip


def _zip_members(file: Any) -> Iterator[Member]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ArchiveError(f"{info.filename} is encrypted, or compressed by another method than deflate")
            yield Member(info.filename, info.header_offset, info.file_size, info.compress_size)
