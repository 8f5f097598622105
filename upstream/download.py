"""Downloading checkpoints into a cache, with progress; an interrupted download resumes, and is never left half done.

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
from benchmark.files import cache_dir, locked
from benchmark.memory import remembered

TIMEOUT = 30.0
"""Seconds without an answer."""
ATTEMPTS = 3
CHUNK = 1 << 20
"""Bytes."""


def place(url: str, name: str | None = None) -> Path:
    """Where the local copy of ``url`` is or would be: ``<cache>/checkpoints/<name, or the last part of the url>``."""
    return cache_dir() / "checkpoints" / (name or Path(urllib.parse.urlsplit(url).path).name)


def cached(url: str, *, name: str | None = None, sha256: str | None = None) -> tuple[Path, str]:
    """The local copy of ``url``, downloaded if there is none.

    A file that was put there by hand is used as it is. Where ``sha256`` is not known, that of the first copy is written
    next to it as ``<name>.sha256``, and later copies must match it.

    Args:
        url: http or https.
        name: of the file; ``None`` for the last part of the url.
        sha256: hexadecimal, where known.

    Returns:
        The file and its sha256.

    Raises:
        BenchmarkError: no network (the message says what to download and where to put it), a file that is not the one
            expected, or a cache that cannot be written.
    """
    target = place(url, name)
    record = target.with_name(target.name + ".sha256")
    if not target.exists():
        fetch(url, target, sha256)
    digest = sha256_of(target)
    expected, source = sha256, "its card"
    recorded = record.read_text(encoding="ascii", errors="replace").split() if record.exists() else []
    if expected is None and recorded:  # not what a crash left empty
        expected, source = recorded[0], str(record)
    if expected is None:
        with contextlib.suppress(OSError):  # a read-only cache: nothing to compare with next time
            record.write_text(f"{digest}  {target.name}\n", encoding="ascii")
    elif digest != expected:
        raise BenchmarkError(
            f"{target} has sha256 {digest}, but {source} says {expected}. Delete {target} to download {url} again"
            + ("" if sha256 else f"; delete {record} too if the file is meant to change")
        )
    return target, digest


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file, remembered on disk until its size or time of modification changes."""
    return str(remembered("sha256", [str(path)], lambda paths: [(path, _sha256_of(path)) for path in paths])[str(path)])


def _sha256_of(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(url: str, target: Path, sha256: str | None) -> None:
    """Download ``url`` to ``target``, which appears complete or not at all; what arrived before is not asked for again.

    Raises:
        BenchmarkError: as :func:`cached`.
    """
    part = target.with_name(target.name + ".part")
    by_hand = f"Download it elsewhere and put it at {target}, or give a local file with -k FILE"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.with_name(f".{target.name}.lock")):
            if target.exists():  # another process was faster
                return
            with part.open("ab") as file:
                _download_patiently(url, file, by_hand)
                file.flush()
                os.fsync(file.fileno())
            if sha256 is not None and (digest := _sha256_of(part)) != sha256:
                os.truncate(part, 0)
                raise BenchmarkError(
                    f"{url} was downloaded and deleted: it has sha256 {digest}, but its card says {sha256}. {by_hand}"
                )
            os.replace(part, target)
    except OSError as error:
        raise BenchmarkError(
            f"cannot write {part}: {error.strerror}. Free some space, or set BENCHMARK_CACHE to a folder that can be "
            "written"
        ) from error


def _download_patiently(url: str, file: IO[bytes], by_hand: str) -> None:
    """:func:`_download`, again after errors that may pass."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _download(url, file)
        except urllib.error.HTTPError as error:
            if error.code < 500 or attempt == ATTEMPTS:
                raise BenchmarkError(f"{url} answered HTTP {error.code} {error.reason}. {by_hand}") from error
        except (OSError, http.client.HTTPException) as error:
            if attempt == ATTEMPTS:
                so_far = f" ({file.tell():,} bytes are kept, and the next attempt resumes)" if file.tell() else ""
                raise BenchmarkError(f"cannot download {url}: {error}{so_far}. {by_hand}") from error
        time.sleep(0.2 * attempt)


def _download(url: str, file: IO[bytes]) -> None:
    """Append the rest of ``url`` to ``file``."""
    start = file.seek(0, os.SEEK_END)
    headers = {"Range": f"bytes={start}-"} if start else {}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # nothing beyond start: complete, or another file
            total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
            if total == str(start):
                return
            file.truncate(0)
            return _download(url, file)
        raise
    with response:
        if start and response.status != 206:  # the server does not support ranges: start again
            file.truncate(0)
            start = 0
        length = response.headers.get("Content-Length") or ""
        total_bytes = start + int(length) if length.isdecimal() else None
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
    except OSError as error:  # not the connection's: trying again does not help
        raise BenchmarkError(f"cannot write {file.name}: {error.strerror}. Free some space and start again") from error
