"""Bytes that lie somewhere, as a file that can seek."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any


class View(io.RawIOBase):
    """A file to read.

    Args:
        size: bytes.
        read: (first byte, number of bytes, which are there) -> these bytes.
    """

    def __init__(self, size: int, read: Callable[[int, int], bytes]) -> None:
        self._size, self._bytes, self._at = size, read, 0

    def seekable(self) -> bool:
        """Always."""
        return True

    def readable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The next byte to be read."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte, which may be beyond the end; returns which."""
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, up to the end; returns the number of bytes."""
        data = self._bytes(self._at, max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
