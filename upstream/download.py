"""Checkpoints from the web: into a cache, with progress, resumed after an interruption, complete or not at all.

Imports no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import IO

from tqdm import tqdm

from benchmark.errors import BenchmarkError
from benchmark.files import cache_dir

try:
    import fcntl
except ImportError:  # Windows: two processes must not fetch the same file at the same time
    fcntl = None  # type: ignore[assignment]

TIMEOUT = 30.0  # seconds without an answer
ATTEMPTS = 3
CHUNK = 1 << 20  # bytes


def place(url: str, name: str | None = None) -> Path:
    """Where the local copy of ``url`` is or would be: ``<cache>/checkpoints/<name, or the last part of the url>``."""
    return cache_dir() / "checkpoints" / (name or Path(urllib.parse.urlsplit(url).path).name)


def cached(url: str, *, name: str | None = None, sha256: str | None = None) -> tuple[Path, str]:
    """The local copy of ``url``, fetched if there is none.

    A file that somebody put there by hand is taken as it is. Where ``sha256`` is not known, that of the first copy is
    recorded beside it as ``<name>.sha256`` and compared ever after.

    Args:
        url: http or https.
        name: of the file; ``None`` for the last part of the url.
        sha256: hexadecimal, where known.

    Returns:
        The file and its sha256.

    Raises:
        BenchmarkError: without network, saying what to fetch and where to put it; for a file that is not the one
            expected; for a cache that cannot be written.
    """
    target = place(url, name)
    record = target.with_name(target.name + ".sha256")
    if not target.exists():
        _fetch(url, target, sha256)
    digest = sha256_of(target)
    known, source = sha256, "its card"
    if known is None and record.exists():
        known, source = record.read_text(encoding="ascii", errors="replace").split()[0], str(record)
    if known is None:
        with contextlib.suppress(OSError):  # a read-only cache: nothing to compare with next time
            record.write_text(f"{digest}  {target.name}\n", encoding="ascii")
    elif digest != known:
        raise BenchmarkError(
            f"{target} has sha256 {digest}, but {source} says {known}. Delete {target} to fetch {url} again"
            + ("" if sha256 else f", and {record} too if the file was meant to change")
        )
    return target, digest


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(url: str, target: Path, sha256: str | None) -> None:
    part = target.with_name(target.name + ".part")
    by_hand = f"Fetch it elsewhere and put it at {target}, or give a local file with -k FILE"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = part.open("ab")
    except OSError as error:
        raise BenchmarkError(
            f"cannot write {part}: {error.strerror}. Set BENCHMARK_CACHE to a folder that can be written"
        ) from error
    with file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        if target.exists():  # another process was faster
            return
        for attempt in range(1, ATTEMPTS + 1):
            try:
                _download(url, file)
                break
            except urllib.error.HTTPError as error:
                if error.code < 500 or attempt == ATTEMPTS:
                    raise BenchmarkError(f"{url} answered HTTP {error.code} {error.reason}. {by_hand}") from error
            except (OSError, http.client.HTTPException) as error:
                if attempt == ATTEMPTS:
                    so_far = f" ({file.tell():,} bytes are kept and will be resumed from)" if file.tell() else ""
                    raise BenchmarkError(f"cannot fetch {url}: {error}{so_far}. {by_hand}") from error
            time.sleep(0.2 * attempt)
        file.flush()
        os.fsync(file.fileno())
        if sha256 is not None and (digest := sha256_of(part)) != sha256:
            file.truncate(0)
            raise BenchmarkError(
                f"{url} was fetched, but has sha256 {digest} and its card says {sha256}; it was thrown away. {by_hand}"
            )
        os.replace(part, target)


def _download(url: str, file: IO[bytes]) -> None:
    """Append the rest of ``url`` to ``file``."""
    start = file.seek(0, os.SEEK_END)
    headers = {"Range": f"bytes={start}-"} if start else {}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # nothing beyond start: complete, or not the same file
            total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
            if total == str(start):
                return
            file.truncate(0)
            return _download(url, file)
        raise
    with response:
        if start and response.status != 206:  # the server knows no ranges: from the beginning
            file.truncate(0)
            start = 0
        length = response.headers.get("Content-Length")
        total_bytes = start + int(length) if length is not None else None
        name = Path(urllib.parse.urlsplit(url).path).name
        with tqdm(total=total_bytes, initial=start, unit="B", unit_scale=True, desc=name) as progress:
            while chunk := response.read(CHUNK):
                _write(file, chunk)
                progress.update(len(chunk))
    if total_bytes is not None and file.tell() != total_bytes:
        raise http.client.HTTPException(f"the connection ended after {file.tell():,} of {total_bytes:,} bytes")


def _write(file: IO[bytes], chunk: bytes) -> None:
    try:
        file.write(chunk)
        file.flush()
    except OSError as error:
        raise BenchmarkError(f"cannot write {file.name}: {error.strerror}. Free some room and start again") from error
