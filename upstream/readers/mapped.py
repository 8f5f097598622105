"""Weights that stay in their file: mapped into memory, read as they are used, and let go again."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

MAPS = "/proc/self/maps"
"""Linux' list of what a process has mapped."""


class MappedWeights(Mapping[str, Tensor]):
    """Tensors by name, as the readers give them; nobody may write to them."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = dict(tensors)
        self._ranges = _mapped(self._tensors)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __deepcopy__(self, memo: Any) -> MappedWeights:
        return self

    def in_memory(self) -> list[str]:
        """Names of tensors that are not mapped; where the system does not tell, none."""
        if self._ranges is None:
            return []
        return [name for name, tensor in self._tensors.items() if _range_of(tensor, self._ranges) is None]

    def release(self) -> None:
        """Let go of the memory that reading has taken; what is used again is read again. The system would do so when it
        runs short; until then the memory counts as the process' own."""
        for start, end in self._ranges or ():
            _madvise(start, end - start, mmap.MADV_DONTNEED)


def _mapped(tensors: Mapping[str, Tensor]) -> list[tuple[int, int]] | None:
    """Addresses (from, to) of the mappings of files that tensors lie in; ``None`` where the system does not tell."""
    try:
        with open(MAPS, encoding="utf-8", errors="replace") as file:
            lines = [line.split(maxsplit=5) for line in file]
    except OSError:
        return None
    files = []
    for line in lines:
        if len(line) == 6 and line[5].startswith("/"):
            start, _, end = line[0].partition("-")
            files.append((int(start, 16), int(end, 16)))
    found = {_range_of(tensor, files) for tensor in tensors.values()}
    return sorted(where for where in found if where is not None)


def _range_of(tensor: Tensor, ranges: list[tuple[int, int]]) -> tuple[int, int] | None:
    address = tensor.data_ptr()
    return next((where for where in ranges if where[0] <= address < where[1]), None)


def _madvise(start: int, size: int, advice: int) -> None:
    ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), ctypes.c_int(advice))
