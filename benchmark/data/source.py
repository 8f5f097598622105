"""The bytes of audio, wherever they are: in a file, in an archive (:mod:`benchmark.data.archives`) or elsewhere
(:mod:`benchmark.remote`)."""

from __future__ import annotations

import os
from typing import Any

from benchmark import remote
from benchmark.data import archives
from benchmark.files import is_url, split_member


def is_plain(path: str) -> bool:
    """Whether a path is that of a file that libsndfile can open by itself."""
    return not is_url(path) and split_member(path) is None


def open_file(path: str) -> Any:
    """The content as a file that can seek, of one reader at a time.

    Raises:
        FileNotFoundError: it does not exist.
        OSError: it cannot be read.
    """
    if is_url(path):
        return remote.open_file(path)
    return open(path, "rb", buffering=0) if split_member(path) is None else archives.open_member(path)


def size(path: str) -> int:
    """Bytes of the content; raises as :func:`open_file`."""
    if is_url(path):
        return remote.stamp(path)[0]
    member = split_member(path)
    return os.stat(path).st_size if member is None else archives.find(*member).size
