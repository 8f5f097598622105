"""What was slow to find out about files (headers, hashes), remembered on disk until a file changes.

One SQLite file in the cache folder, shared by all processes. A value belongs to an absolute path, a size, a time of
modification and a time of change, which also tells files apart that were replaced by others of the same size and date
(``cp -p``, ``rsync -t``, ``touch -r``). Where the folder cannot be written, or the file is locked or damaged,
everything works as if nothing had been remembered.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain, islice
from typing import Any

from benchmark import remote
from benchmark.files import cache_dir, is_url, split_member

log = logging.getLogger("wavbench")

FILE = "memory.sqlite"
_SETTLED = 2.0
"""Seconds that a file must have been left alone. Of one that was written twice at the same time, as far as the file
system's clock can tell, the first content might be remembered for the second."""
_LOCKED = 1.0
"""Seconds to wait for another process."""
_AT_ONCE = 500
"""Paths in one query."""
_SAVE_EVERY = 20_000
"""Values that an interruption may cost."""
_TABLE = """
CREATE TABLE IF NOT EXISTS memory (
    kind TEXT, path BLOB, size INTEGER, modified TEXT, value TEXT, PRIMARY KEY (kind, path)
) WITHOUT ROWID
"""

Stamp = tuple[int, int, int]
"""Size in bytes; times of modification and of change in nanoseconds."""


def remembered(
    kind: str, paths: Iterable[str], find: Callable[[list[str]], Iterable[tuple[str, Any]]]
) -> dict[str, Any]:
    """Values of files: those that are remembered, and what ``find`` finds for the others.

    Args:
        kind: what the values are; a new name where their meaning changes.
        paths: of the files; each is looked at once (``os.stat``).
        find: paths whose value is not known -> (path, value) of each that has one; it may leave paths out. Values are
            what JSON can hold.

    Returns:
        path -> value, of all paths that have one.
    """
    stamps = _stamps(paths)
    values = _recall(kind, stamps)
    unknown = [path for path in stamps if path not in values]
    if unknown:
        found = iter(find(unknown))
        while batch := dict(islice(found, _SAVE_EVERY)):
            values |= batch
            _remember(kind, stamps, batch)
    return values


def stamp(path: str) -> Stamp:
    """What tells a file from another one that has been at its path; of a member of an archive, the archive from another
    one. Raises as :func:`os.stat`."""
    if is_url(path):
        return remote.stamp(path)
    try:
        status = os.stat(path)
    except NotADirectoryError:
        member = split_member(path)
        if member is None:
            raise
        status = os.stat(member[0])
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _stamps(paths: Iterable[str]) -> dict[str, Stamp | None]:
    """Of each path; in threads, for file systems that are far away."""
    once = list(dict.fromkeys(paths))
    chunks = [once[first : first + _AT_ONCE] for first in range(0, len(once), _AT_ONCE)]
    with ThreadPoolExecutor(8) as pool:
        return dict(zip(once, chain.from_iterable(pool.map(_stamps_of, chunks)), strict=True))


def _stamps_of(paths: list[str]) -> list[Stamp | None]:
    return [_stamp(path) for path in paths]


def _stamp(path: str) -> Stamp | None:
    try:
        return stamp(path)
    except (OSError, ValueError):
        return None


def _columns(known: Stamp | None) -> tuple[int, str]:
    """A stamp as it is kept: size, and both times."""
    size, modified, changed = known or (0, 0, 0)
    return size, f"{modified} {changed}"


def _key(path: str) -> bytes:
    return os.fsencode(path if path.startswith("/") else os.path.join(os.getcwd(), path))


def _use(use: Callable[[sqlite3.Connection], object]) -> None:
    """Let ``use`` read or write in one transaction; what goes wrong ends it and is otherwise ignored."""
    try:
        folder = cache_dir()
        folder.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(folder / FILE, timeout=_LOCKED)) as connection, connection:
            connection.execute(_TABLE)
            use(connection)
    except (sqlite3.Error, OSError, ValueError) as error:
        log.debug("%s is not used: %s", FILE, error)


def _recall(kind: str, stamps: dict[str, Stamp | None]) -> dict[str, Any]:
    keys = {_key(path): path for path, stamp in stamps.items() if stamp}
    values: dict[str, Any] = {}
    known: dict[str, Any] = {}

    def select(connection: sqlite3.Connection) -> None:
        remaining = iter(keys)
        while batch := list(islice(remaining, _AT_ONCE)):
            marks = ", ".join("?" * len(batch))
            rows = connection.execute(
                f"SELECT path, size, modified, value FROM memory WHERE kind = ? AND path IN ({marks})", (kind, *batch)
            )
            for key, size, modified, value in rows:
                path = keys[key]
                if _columns(stamps[path]) == (size, modified):
                    if value not in known:  # of a million headers, few differ
                        known[value] = json.loads(value)
                    values[path] = known[value]

    if keys:
        _use(select)
    return values


def _remember(kind: str, stamps: dict[str, Stamp | None], values: dict[str, Any]) -> None:
    settled = time.time_ns() - int(_SETTLED * 1e9)
    rows = [
        (kind, _key(path), *_columns(known), json.dumps(value))
        for path, value in values.items()
        if (known := stamps[path]) and known[1] < settled
    ]
    if rows:
        _use(lambda connection: connection.executemany("INSERT OR REPLACE INTO memory VALUES (?, ?, ?, ?, ?)", rows))
