"""Writing files so that a crash leaves the old one or the new one, never half of either."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from benchmark.errors import BenchmarkError


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
            f"cannot write {path}: {error.strerror or error}. What was there before is untouched; free some room or "
            "choose another folder with -p, then go on with -a"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """:func:`write_atomically`, for text."""
    write_atomically(path, partial(_write, text.encode()))


def write_files(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Write each content under its name."""
    for name, content in files.items():
        write_atomically(folder / name, partial(_write, content.encode() if isinstance(content, str) else content))


def _write(data: bytes, file: BinaryIO) -> None:
    file.write(data)


def remove_partial(folder: Path) -> None:
    """Remove what killed processes left half-written; only while no other process writes there."""
    for leftover in folder.rglob(".*.part"):
        leftover.unlink(missing_ok=True)
