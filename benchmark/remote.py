"""Files elsewhere, by fsspec: ``s3://bucket/a.wav``, ``gs://``, ``hdfs://``, ``https://`` …

A file is fetched as a whole, each time that it is read, or with ``BENCHMARK_KEEP_REMOTE=1`` once, into the cache
folder. What is known of it (its size, and what its server says of its version) is asked once per process. Protocols
that would run other programs, or read other files in place of the one that is named, are refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, BinaryIO, TypeVar

from benchmark.errors import BenchmarkError
from benchmark.files import cache_dir, write_bytes

KEEP = "BENCHMARK_KEEP_REMOTE"
"""Environment variable: 1 keeps fetched files in the cache folder."""
PROTOCOLS = (
    "s3", "s3a", "gs", "gcs", "hdfs", "webhdfs", "abfs", "abfss", "az", "http", "https", "sftp", "hf", "memory",
)  # fmt: skip
"""What may stand before ``://``."""
_TRIES = 3
_VERSION = ("ETag", "etag", "version_id", "generation", "md5Hash", "LastModified", "last_modified", "mtime", "created")
"""What file systems call something that changes with a file's content."""

T = TypeVar("T")


class RemoteError(BenchmarkError, OSError):
    """A file elsewhere that cannot be had."""


@lru_cache(2**20)
def stamp(url: str) -> tuple[int, int, int]:
    """Size in bytes, and twice a number that changes with the file's version, as far as its server says so.

    Raises:
        FileNotFoundError: there is no such file.
        RemoteError: it cannot be asked for.
    """
    found: dict[str, Any] = _ask(url, lambda files: files.info(url))
    if found.get("type") == "directory" or not isinstance(found.get("size"), int):
        raise RemoteError(f"{url} is a folder, or its server does not say how large it is")
    versions = repr([found.get(name) for name in _VERSION])
    number = int.from_bytes(hashlib.sha256(versions.encode()).digest()[:6])
    return found["size"], number, number


def open_file(url: str) -> BinaryIO:
    """The whole content of a file.

    Raises:
        FileNotFoundError, RemoteError: as :func:`stamp`.
    """
    if os.environ.get(KEEP) != "1":
        return io.BytesIO(_fetch(url))
    name = hashlib.sha256(repr((url, stamp(url))).encode()).hexdigest()[:32]
    path = cache_dir() / "remote" / name[:2] / name
    if not path.exists():
        write_bytes(path, _fetch(url))
    return open(path, "rb")


def _fetch(url: str) -> bytes:
    size = stamp(url)[0]
    data: bytes = _ask(url, lambda files: files.cat_file(url))
    if len(data) != size:
        raise RemoteError(f"{url} ended after {len(data):,} of {size:,} bytes")
    return data


def _ask(url: str, question: Callable[[Any], T]) -> T:
    """Have a file system answer, after a moment once more where it fails for no known reason."""
    protocol = url.partition(":")[0].lower()
    if protocol not in PROTOCOLS or not url.startswith("://", len(protocol)):
        raise RemoteError(f"{url}: urls begin with one of {', '.join(f'{name}://' for name in PROTOCOLS)}")
    for left in reversed(range(_TRIES)):
        try:
            with _in_words(url, protocol):
                return question(_files(protocol))
        except RemoteError:
            if not left:
                raise
            time.sleep(0.5 * (_TRIES - left))
    raise AssertionError


@contextlib.contextmanager
def _in_words(url: str, protocol: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        absent = (
            isinstance(error.__cause__, FileNotFoundError | type(None)) or getattr(error.__cause__, "status", 0) == 404
        )
        if not absent:
            raise RemoteError(f"{url} cannot be reached ({error.__cause__})") from error  # so says fsspec over http
        raise FileNotFoundError(f"{url} does not exist") from None
    except PermissionError as error:
        raise Refused(f"{url} may not be read: {error}. See how fsspec finds credentials for {protocol}://") from error
    except ImportError as error:
        raise Refused(
            f"{url}: {error}. Audio elsewhere needs fsspec and its file system: pip install 'wavbench[remote]', and "
            "s3fs, gcsfs, pyarrow (hdfs), adlfs or aiohttp (http)"
        ) from error
    except Exception as error:  # whatever the libraries of a dozen services raise
        raise RemoteError(f"{url} cannot be read ({type(error).__name__}: {error})") from error


class Refused(BenchmarkError, OSError):
    """A file elsewhere that will not be had by asking again."""


@lru_cache
def _files(protocol: str) -> Any:
    import fsspec

    return fsspec.filesystem(protocol)
