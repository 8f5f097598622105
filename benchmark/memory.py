"""What was slow to find out about files (headers, hashes), remembered on disk until a file changes.

One SQLite file in the cache folder, shared by all processes. A value belongs to an absolute path, a size, a time of
modification and a time of change, which also tells files apart that were replaced by others of the same size and date
(``cp -p``, ``rsync -t``, ``touch -r``). Where the folder cannot be written, or the file is locked or damaged,
everything works as if nothing had been remembered.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import time
from array import array
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
_MANY = 2000
"""Paths from which on the values of all of them are kept in one piece, too, which are read in a tenth of the time."""
_FAR = 200e-6
"""Seconds for ``os.stat`` from which on files are looked at by threads; those of nearer ones would wait for each
other."""
_SAVE_EVERY = 20_000
"""Values that an interruption may cost."""
_TABLES = """
CREATE TABLE IF NOT EXISTS memory (
    kind TEXT, path BLOB, size INTEGER, modified TEXT, value TEXT, PRIMARY KEY (kind, path)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lists (
    kind TEXT, paths BLOB, stamps BLOB, different TEXT, places BLOB, PRIMARY KEY (kind, paths)
);
"""
"""``lists``: digests of paths and of their stamps; the values that differ, as JSON; which of them each path has."""

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
    digests = _digests(stamps) if len(stamps) >= _MANY else None
    if digests and (values := _recall_all(kind, stamps, digests)):
        return values
    values = _recall(kind, stamps)
    unknown = [path for path in stamps if path not in values]
    if unknown:
        found = iter(find(unknown))
        while batch := dict(islice(found, _SAVE_EVERY)):
            values |= batch
            _remember(kind, stamps, batch)
    if digests and len(values) == len(stamps):
        _remember_all(kind, stamps, digests, values)
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
    found: list[list[Stamp | None]] = []
    near = True
    while near and len(found) < len(chunks):
        begun = time.perf_counter()
        found.append(_stamps_of(chunks[len(found)]))
        near = time.perf_counter() - begun < _FAR * _AT_ONCE
    with ThreadPoolExecutor(8) as pool:
        found += pool.map(_stamps_of, chunks[len(found) :])
    return dict(zip(once, chain.from_iterable(found), strict=True))


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
            connection.executescript(_TABLES)
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


def _settled() -> int:
    """Files that were modified before are not taken to be written any more."""
    return time.time_ns() - int(_SETTLED * 1e9)


def _remember(kind: str, stamps: dict[str, Stamp | None], values: dict[str, Any]) -> None:
    settled = _settled()
    rows = [
        (kind, _key(path), *_columns(known), json.dumps(value))
        for path, value in values.items()
        if (known := stamps[path]) and known[1] < settled
    ]
    if rows:
        _use(lambda connection: connection.executemany("INSERT OR REPLACE INTO memory VALUES (?, ?, ?, ?, ?)", rows))


def _digests(stamps: dict[str, Stamp | None]) -> tuple[bytes, bytes] | None:
    """Of all paths, in order, and of their stamps; ``None``: a file is not there, or may still be written."""
    settled = _settled()
    if not all(known and known[1] < settled for known in stamps.values()):
        return None
    here = os.getcwd()
    paths = "\0".join([path if path.startswith("/") else os.path.join(here, path) for path in stamps])
    numbers = array("q", chain.from_iterable(stamps.values()))  # type: ignore[arg-type]
    return hashlib.sha256(os.fsencode(paths)).digest(), hashlib.sha256(numbers).digest()


def _recall_all(kind: str, stamps: dict[str, Stamp | None], digests: tuple[bytes, bytes]) -> dict[str, Any]:
    values: dict[str, Any] = {}

    def select(connection: sqlite3.Connection) -> None:
        query = "SELECT different, places FROM lists WHERE kind = ? AND paths = ? AND stamps = ?"
        for different, places in connection.execute(query, (kind, *digests)):
            known = json.loads(different)
            numbers = array("I", places)
            if len(numbers) == len(stamps) and max(numbers) < len(known):
                values.update(zip(stamps, map(known.__getitem__, numbers), strict=True))

    _use(select)
    return values


def _remember_all(
    kind: str, stamps: dict[str, Stamp | None], digests: tuple[bytes, bytes], values: dict[str, Any]
) -> None:
    different: dict[str, int] = {}
    places = array("I", [different.setdefault(json.dumps(values[path]), len(different)) for path in stamps])
    row = (kind, *digests, f"[{', '.join(different)}]", places.tobytes())
    _use(lambda connection: connection.execute("INSERT OR REPLACE INTO lists VALUES (?, ?, ?, ?, ?)", row))
