"""Writing files so that a crash leaves the old one or the new one, never half of either."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from benchmark.errors import BenchmarkError

MARKER = "synthetic.json"
"""Lies in the folder of a corpus that a program made; reports on such data say so."""


def cache_dir() -> Path:
    """``$BENCHMARK_CACHE``, else ``wavbench`` in the user's cache folder."""
    if own := os.environ.get("BENCHMARK_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "wavbench"


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
    except OSError as error:
        raise BenchmarkError(
            f"cannot write {path}: {error.strerror or error}. The previous file is untouched. Free some space or use "
            "another folder, and resume (a run: with -a)"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """:func:`write_atomically`, for text."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """:func:`write_atomically`, for bytes."""
    write_atomically(path, lambda file: file.write(data))


def write_files(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Write each content under its name."""
    for name, content in files.items():
        write_bytes(folder / name, content.encode() if isinstance(content, str) else content)


def remove_partial(folder: Path) -> None:
    """Remove what killed processes left half-written; only while no other process writes there."""
    for leftover in folder.rglob(".*.part"):
        leftover.unlink(missing_ok=True)
