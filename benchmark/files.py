"""Writing files so that a crash leaves the old one or the new one, never half of either."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmark.errors import BenchmarkError


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in its place.

    Raises:
        BenchmarkError: the disk is full, read-only or otherwise refuses; what stood at ``path`` is untouched.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch.save wraps a full disk into a RuntimeError
        cause = error
        while not isinstance(cause, OSError) and (cause.__context__ or cause.__cause__) is not None:
            cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]
        if not isinstance(cause, OSError) and "PytorchStreamWriter" not in str(error):
            raise
        reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(error).splitlines()[0]
        raise BenchmarkError(
            f"cannot write {path}: {reason}. What was there before is untouched; free some room or choose another "
            "folder with -p, then go on with -a"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """:func:`write_atomically`, for text."""
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
