"""What readers of corpus trees share: finding the folder and listing what lies in it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmark.errors import BenchmarkError, shorten


def find_folder(root: Path, corpus: str, names: Sequence[str], how: str, inside: Sequence[str] = ()) -> Path:
    """The corpus' folder in the data root.

    Args:
        root: the data root.
        corpus: its name in messages.
        names: of the folder; the first one that is there is taken.
        how: the layout, where to get the corpus and how to point to it; ends the message.
        inside: glob patterns, one of which the corpus' folder matches; if the data root itself does, the message says
            so.

    Raises:
        BenchmarkError: there is none; it says what there is instead.
    """
    for name in names:
        if (root / name).is_dir():
            return root / name
    if not root.is_dir():
        found = f"The data root {root} does not exist."
    elif any(next(root.glob(pattern), None) for pattern in inside):
        found = (
            f"{root} looks like the corpus itself, but the data root is the folder above it: "
            f"name this folder {names[0]} (a symbolic link does) and give its parent."
        )
    else:
        found = f"In {root} there is: {listing(root)}."
        wanted = {_plain(name) for name in names}
        alike = [name for name in sorted(os.listdir(root)) if _plain(name) in wanted]
        if alike:
            found += f" If {shorten(alike)} is it, rename it to {names[0]} or make a symbolic link of that name."
    looked = " or ".join(str(root / name) for name in names)
    raise BenchmarkError(f"{corpus} not found: looked for the folder {looked}. {found} {how}")


def scan(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """Entries of a folder but hidden ones (``._00001.wav`` of macOS archives among them)."""
    with os.scandir(folder) as found:
        yield from (entry for entry in found if not entry.name.startswith("."))


def folders(folder: str | Path) -> list[str]:
    """Names of the folders in a folder, sorted, but hidden ones."""
    return sorted(entry.name for entry in scan(folder) if entry.is_dir())


def listing(folder: Path) -> str:
    """What lies in a folder, for a message."""
    return shorten(sorted(os.listdir(folder)), most=8) or "nothing"


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
