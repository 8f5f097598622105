"""What readers of corpus trees share: finding the folder and listing its content."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmark.errors import BenchmarkError, shorten

DATA_ROOT = "Point to the folder that holds {} with --data-root DIR or $BENCHMARK_DATA."
"""Ends every hint at where a corpus is looked for."""


def find_folder(root: Path, corpus: str, names: Sequence[str], how: str, inside: Sequence[str] = ()) -> Path:
    """The folder of a corpus in the data root.

    Args:
        root: the data root.
        corpus: its name in messages.
        names: possible names of the folder; the first that exists is taken.
        how: the layout, where to get the corpus and how to point to it; ends the message.
        inside: glob patterns that match inside the corpus folder; if one matches inside the data root itself, the
            message says so.

    Raises:
        BenchmarkError: there is no such folder; the message lists what is there instead.
    """
    for name in names:
        if (root / name).is_dir():
            return root / name
    if not root.is_dir():
        finding = f"The data root {root} does not exist."
    elif any(next(root.glob(pattern), None) for pattern in inside):
        finding = (
            f"{root} looks like the corpus itself, but the data root is the folder above it: "
            f"name this folder {names[0]} (a symbolic link is enough) and give its parent."
        )
    else:
        finding = f"{root} contains: {listing(root)}."
        wanted = {_plain(name) for name in names}
        similar = [name for name in sorted(os.listdir(root)) if _plain(name) in wanted]
        if similar:
            finding += f" If {shorten(similar)} is it, rename it to {names[0]} or make a symbolic link of that name."
    expected = " or ".join(str(root / name) for name in names)
    raise BenchmarkError(f"{corpus} not found: looked for the folder {expected}. {finding} {how}")


def scan(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """The entries of a folder except hidden ones, such as ``._00001.wav`` of macOS archives."""
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if not entry.name.startswith("."))


def subfolders(folder: str | Path, stray: list[str], ending: str = ".wav") -> Iterator[os.DirEntry[str]]:
    """The folders in a folder, except hidden ones; paths of audio files beside them are added to ``stray``."""
    for entry in scan(folder):
        if entry.is_dir():
            yield entry
        elif entry.name.endswith(ending):
            stray.append(entry.path)


def folders(folder: str | Path) -> list[str]:
    """Sorted names of the folders in a folder, except hidden ones."""
    return sorted(entry.name for entry in scan(folder) if entry.is_dir())


def listing(folder: Path) -> str:
    """The content of a folder, for a message."""
    return shorten(sorted(os.listdir(folder)), most=8) or "nothing"


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
