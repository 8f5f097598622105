"""Reading CTranslate2's ``model.bin``, without CTranslate2.

The layout is that of ``ctranslate2/specs/model_spec.py`` (4.8, https://github.com/OpenNMT/CTranslate2), format 6, which
it has written since 2.0; little-endian, and a string is its length in bytes with the final zero, as 16 bits, and the
bytes::

    uint32 format, string specification, uint32 revision,
    uint32 variables, each: string name, uint8 rank, uint32 shape[rank], uint8 type, uint32 bytes, the values
    uint32 aliases, each: string alias, string name

Every number is checked against the file before it is used: nothing is allocated that the file does not hold.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmark.errors import BenchmarkError

FORMAT = 6
MAGIC = struct.pack("<I", FORMAT)
"""How a file starts."""
TYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)
"""Of values, by number."""
MOST_DIMENSIONS = 8


@dataclass
class CTranslate2File:
    """What a model file contains."""

    path: Path
    specification: str
    """Which kind of model: ``WhisperSpec``."""
    revision: int
    tensors: dict[str, Tensor]
    """By name, aliases left out."""


def read_ctranslate2(path: Path, prefix: str = "") -> CTranslate2File:
    """Read a model file.

    Args:
        path: the ``model.bin`` of a folder.
        prefix: only tensors whose names begin with it are read; the others are checked.

    Raises:
        BenchmarkError: a file that cannot be read, is of another kind or format, or is damaged.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(path, data).read(prefix)
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        reason = (error.strerror if isinstance(error, OSError) else None) or "it is empty"
        raise BenchmarkError(f"checkpoint {path} cannot be read: {reason}") from error


class _Reader:
    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.place = path, data, 0

    def read(self, prefix: str) -> CTranslate2File:
        found = self.number("<I", "its format")
        if found != FORMAT:
            raise BenchmarkError(
                f"{self.path} is not a CTranslate2 model of format {FORMAT}: it starts with {self.data[:4].hex(' ')}"
            )
        specification, revision = self.string("the specification"), self.number("<I", "the revision")
        seen: set[str] = set()
        tensors = {}
        for i in range(self.number("<I", "the number of variables")):
            name = self.string(f"the name of variable {i}")
            if name in seen:
                raise self.damaged(f"two variables are called '{name}'")
            seen.add(name)
            shape, dtype, values = self.variable(name)
            if name.startswith(prefix):  # bytearray: a copy, aligned and writable
                tensors[name] = torch.frombuffer(bytearray(values), dtype=dtype).reshape(shape)
            values.release()
        for i in range(self.number("<I", "the number of aliases")):
            alias, name = self.string(f"alias {i}"), self.string(f"alias {i}")
            if name not in seen or alias in seen:
                raise self.damaged(f"alias '{alias}' of '{name}', which " + ("exists" if alias in seen else "is none"))
        if self.place != len(self.data):
            raise self.damaged(f"{len(self.data) - self.place:,} bytes follow what it declares")
        return CTranslate2File(self.path, specification, revision, tensors)

    def variable(self, name: str) -> tuple[tuple[int, ...], torch.dtype, memoryview]:
        what = f"'{name}'"
        rank = self.number("<B", what)
        if rank > MOST_DIMENSIONS:
            raise self.damaged(f"{what} has {rank} dimensions")
        shape = tuple(self.number("<I", what) for _ in range(rank))
        number = self.number("<B", what)
        if number >= len(TYPES):
            raise self.damaged(f"{what} has the unknown type {number}")
        size, expected = self.number("<I", what), math.prod(shape) * TYPES[number].itemsize
        if size != expected or size == 0:
            raise self.damaged(f"{what} of shape {list(shape)} has {size:,} bytes, expected {expected:,}")
        return shape, TYPES[number], memoryview(self.data)[self.advance(size, what) : self.place]

    def number(self, layout: str, what: str) -> int:
        value: int
        (value,) = struct.unpack_from(layout, self.data, self.advance(struct.calcsize(layout), what))
        return value

    def string(self, what: str) -> str:
        size = self.number("<H", what)
        start = self.advance(size, what)
        value = self.data[start : self.place]
        try:
            if not value.endswith(b"\0"):
                raise ValueError
            return value[:-1].decode("utf-8")
        except ValueError:  # UnicodeDecodeError is one
            raise self.damaged(f"{what} is no text") from None

    def advance(self, size: int, what: str) -> int:
        """Go ``size`` bytes on; returns where they start."""
        start = self.place
        if size > len(self.data) - start:
            raise self.damaged(f"it ends in {what}")
        self.place += size
        return start

    def damaged(self, reason: str) -> BenchmarkError:
        return BenchmarkError(
            f"checkpoint {self.path} ({len(self.data):,} bytes) is truncated or damaged; fetch it again. ({reason})"
        )
