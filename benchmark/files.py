"""Writing files so that a crash leaves the old one or the new one, never half of either."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import re
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock

from benchmark.errors import BenchmarkError

log = logging.getLogger("wavbench")

Content = str | bytes | Callable[[], bytes]
"""Of a file: text, bytes, or what draws a figure, which not everybody keeps."""
MARKER = "synthetic.json"
"""Lies in the folder of a corpus that a program made; reports on such data say so."""


def cache_dir() -> Path:
    """``$BENCHMARK_CACHE``, else ``wavbench`` in the user's cache folder; for a user without a home, in ``/tmp``."""
    if own := os.environ.get("BENCHMARK_CACHE"):
        return Path(own).expanduser()
    if general := os.environ.get("XDG_CACHE_HOME"):
        return Path(general).expanduser() / "wavbench"
    try:
        return Path.home() / ".cache" / "wavbench"
    except RuntimeError:  # a container's user without a name, and no $HOME
        return Path(tempfile.gettempdir()) / f"wavbench-{os.getuid()}"


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in its place.

    Raises:
        BenchmarkError: the disk is full, read-only or otherwise refuses; what stood at ``path`` is untouched.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(unfinished, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except (OSError, RuntimeError) as error:
        reason = error if isinstance(error, OSError) else error.__context__  # torch.save hides it behind its own
        if not isinstance(reason, OSError):
            raise
        raise BenchmarkError(
            f"cannot write {path}: {reason.strerror or reason}. The previous file is untouched. Free some space or use "
            "another folder, and resume (a run: with -a)"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """:func:`write_atomically`, for text in UTF-8. Bytes of file names that are not UTF-8, which Python has as
    surrogates, are written as ``\\udce9``, as JSON has them."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_bytes(path: Path, data: bytes) -> None:
    """:func:`write_atomically`, for bytes."""
    write_atomically(path, lambda file: file.write(data))


def write_files(folder: Path, files: Mapping[str, Content], *, figures: bool = True) -> None:
    """Write each content under its name; ``figures``: also those that are still to be drawn."""
    for name, content in files.items():
        if isinstance(content, str):
            write_text(folder / name, content)
        elif isinstance(content, bytes):
            write_bytes(folder / name, content)
        elif figures:
            write_bytes(folder / name, content())


_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of file systems that know no locks, such as NFS or Lustre that are mounted without them."""


@contextlib.contextmanager
def locked(path: Path, timeout: float = -1) -> Iterator[None]:
    """Hold a lock file; where the file system knows no locks, go on without, with a warning.

    Args:
        path: the file, in a folder that exists.
        timeout: seconds to wait for another process; -1: as long as it takes.

    Raises:
        filelock.Timeout: another process holds it.
        OSError: the file cannot be written.
    """
    lock = FileLock(path, timeout=timeout)
    try:
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        log.warning("%s cannot be locked (%s); do not run two processes there", path.parent, error)
    try:
        yield
    finally:
        lock.release()


PACK = "pack.json"
"""Lies in a folder of archives that 'wavbench pack' wrote."""

_ARCHIVE = re.compile(r"(?:\.tar|\.zip|_partaa)(?=/)")


def split_member(path: str) -> tuple[str, str] | None:
    """The archive and the member that a path through an archive names, ``…/audio.tar/a/1.wav``; else ``None``."""
    for match in _ARCHIVE.finditer(path):
        if os.path.isfile(archive := path[: match.end()]):
            return archive, path[match.end() + 1 :]
    return None


_UNSAFE = re.compile(r"[\0-\x1f\x7f\\]|^[A-Za-z]:|(?:^|/)\.{0,2}(?:/|\Z)")


def is_safe(name: str) -> bool:
    """Whether a name stays below the folder that an archive is unpacked to, and is free of control characters."""
    return _UNSAFE.search(name) is None


def is_url(path: str) -> bool:
    """Whether a path is the address of a file elsewhere, ``s3://bucket/a.wav``."""
    return "://" in path and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


def on_disk(path: str) -> str:
    """The path as the file system spells it, where that differs in the normalisation of Unicode: a list says ``é`` in
    one character, a folder that was copied from macOS in two. The path itself where nothing fits, or several do."""
    if path.isascii() or os.path.lexists(path):
        return path
    folder, name = os.path.split(path)
    if not name or not folder:
        return path
    folder = on_disk(folder)
    try:
        changed = os.stat(folder).st_mtime_ns
    except OSError:
        return path
    fitting = _spellings(folder, changed).get(unicodedata.normalize("NFC", name), [])
    return os.path.join(folder, fitting[0]) if len(fitting) == 1 else path


@functools.lru_cache(maxsize=64)
def _spellings(folder: str, changed: int) -> dict[str, list[str]]:
    """Name in form C -> the names in a folder that are the same."""
    spellings: dict[str, list[str]] = {}
    for name in os.listdir(folder):
        spellings.setdefault(unicodedata.normalize("NFC", name), []).append(name)
    return spellings


def remove_partial(folder: Path) -> None:
    """Remove what killed processes left half-written; only while no other process writes there."""
    for leftover in folder.rglob(".*.part"):
        leftover.unlink(missing_ok=True)
