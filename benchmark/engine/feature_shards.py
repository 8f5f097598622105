"""Files of kept features: a *shard* holds those of many utterances, one after the other.

A shard is one safetensors file that never changes: it is written under another name and renamed when it is whole, so
that a writer which is killed leaves nothing that is trusted. Its header holds the index and a checksum of the numbers;
tensors are mapped into memory, not read. Shards lie in one folder a store, all stores below one root::

    features/<digest of the upstream>/frames/about.json           what is kept there, for people
                                             <name>.safetensors   shards
                                             0.lock … f.lock      who is at work on which keys
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from benchmark.errors import BenchmarkError
from benchmark.files import write_bytes

Entries = Mapping[str, tuple[int, int]]
"""Key of an utterance -> (first row, number of rows)."""


def write(folder: Path, tensors: Mapping[str, Tensor], entries: Entries) -> Path:
    """Write one shard, whole or not at all.

    Args:
        folder: of the store; exists.
        tensors: (row, …) each, on the CPU.
        entries: which rows belong to which utterance.

    Raises:
        BenchmarkError: the disk is full, or the folder cannot be written.
    """
    path = folder / f"{uuid.uuid4().hex[:16]}.safetensors"
    kept = {name: tensor.contiguous() for name, tensor in tensors.items()}
    about = {"entries": json.dumps({key: list(rows) for key, rows in entries.items()}), "checksum": checksum(kept)}
    write_bytes(path, save(kept, metadata=about))
    return path


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """Of the numbers of some tensors."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


class Unreadable(BenchmarkError):
    """A shard that cannot be read now, and may be whole: no right to, no memory, a disk that does not answer."""


@contextlib.contextmanager
def _reading(path: Path, *passing: type[Exception]) -> Iterator[None]:
    """Tell a shard that cannot be read now (for lack of memory, by the system, by one of ``passing``) from a damaged
    one, of which safetensors raises its own, and whatever the header lacks."""
    now: tuple[type[Exception], ...] = (OSError, MemoryError, *passing)
    try:
        yield
    except BenchmarkError:
        raise
    except now as error:
        raise Unreadable(f"the stored features in {path} cannot be read ({error})") from error
    except Exception as error:
        raise BenchmarkError(f"the stored features in {path} are damaged ({error})") from error


class Shard:
    """A shard that is there.

    Raises:
        Unreadable: it cannot be read now.
        BenchmarkError: it is not whole.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _reading(path):
            self._file = safe_open(path, framework="pt").__enter__()  # type: ignore[no-untyped-call]
            about = self._file.metadata()
            self.checksum: str = about["checksum"]
            self.entries: dict[str, tuple[int, int]] = {
                key: (first, rows) for key, (first, rows) in json.loads(about["entries"]).items()
            }
        self._tensors: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        """(row, …), mapped into memory."""
        if name not in self._tensors:
            with _reading(self.path, RuntimeError):  # torch maps the file once more
                self._tensors[name] = self._file.get_tensor(name)
        return self._tensors[name]

    @cached_property
    def names(self) -> list[str]:
        """Of the tensors."""
        return list(self._file.keys())

    def check(self) -> None:
        """Compare the numbers with those that were written.

        Raises:
            Unreadable: they cannot be read now.
            BenchmarkError: they are others.
        """
        with _reading(self.path):
            found = checksum({name: self[name] for name in self.names})
        if found != self.checksum:
            raise BenchmarkError(f"the stored features in {self.path} are damaged")


def intact(paths: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Of files that can be read, whether they are shards with the numbers that were written."""
    for path in paths:
        try:
            Shard(Path(path)).check()
            yield path, True
        except Unreadable:
            continue
        except BenchmarkError:
            yield path, False


@dataclass(frozen=True)
class Store:
    """A folder of shards, as ``wavbench cache`` lists it."""

    folder: Path
    about: Mapping[str, Any]
    """What ``about.json`` says: upstream, kind, layers, size."""
    shards: Sequence[Path]
    size: int
    """Bytes of the shards."""
    used: float
    """When it was last used, in seconds since 1970."""


def stores(root: Path) -> Iterator[Store]:
    """All stores below a root, the one that was used longest ago first."""
    found = []
    for folder in {path.parent for pattern in ("about.json", "*.safetensors") for path in root.rglob(pattern)}:
        about: Mapping[str, Any] = {}
        with contextlib.suppress(OSError, ValueError, RecursionError):
            about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        sizes = {}
        for path in sorted(folder.glob("*.safetensors")):
            with contextlib.suppress(OSError):  # another process may remove it
                sizes[path] = path.stat().st_size
        times = [time.time()]
        with contextlib.suppress(OSError, ValueError):
            times = [path.stat().st_mtime for path in (folder / "about.json", *sizes) if path.exists()]
        found.append(Store(folder, about, list(sizes), sum(sizes.values()), max(times, default=0.0)))
    yield from sorted(found, key=lambda store: store.used)


def describe(folder: Path, about: Mapping[str, Any]) -> None:
    """Say what a store holds, and that it is in use."""
    path = folder / "about.json"
    with contextlib.suppress(OSError):
        if path.exists():
            os.utime(path)
        else:
            write_bytes(path, (json.dumps(about, indent=1, ensure_ascii=False) + "\n").encode())


def make_room(root: Path, wanted: float, limit: float, keep: Path) -> float:
    """Remove the stores that were used longest ago until ``wanted`` more bytes fit under ``limit``.

    Args:
        root: of all stores.
        wanted: bytes that are to be written.
        limit: bytes that all stores may take.
        keep: this store stays.

    Returns:
        How many bytes are still missing; 0 where there is room. Nothing is removed where that would not make enough.
    """
    others = []
    used = 0
    for store in stores(root):
        used += store.size
        if store.folder != keep:
            others.append(store)
    if used + wanted <= limit:
        return 0.0
    missing = used + wanted - limit - sum(store.size for store in others)
    if missing > 0:
        return missing
    for store in others:
        if used + wanted <= limit:
            break
        shutil.rmtree(store.folder, ignore_errors=True)
        used -= store.size
    return 0.0
