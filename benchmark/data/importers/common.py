"""What importers share: relative paths, text files, words for genders."""

from __future__ import annotations

import gzip
import itertools
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import shorten


@dataclass
class Finder:
    """Audio paths that were written relative to the folder where some tool once ran."""

    folder: Path
    """Of the list that holds the paths."""
    base: Path | None = None
    """Where the last one was found."""

    def find(self, path: str) -> str | None:
        """The absolute path; ``None``: a relative one that is nowhere."""
        if os.path.isabs(path):
            return path
        for base in ([self.base] if self.base else []) + self.bases():
            if (base / path).exists():
                self.base = base
                return str(base / path)
        return None

    def bases(self) -> list[Path]:
        """The list's folder, the three above it (``egs/s5`` for ``egs/s5/data/train``) and the current one."""
        folder = self.folder.absolute()
        return list(dict.fromkeys([folder, *itertools.islice(folder.parents, 3), Path.cwd()]))


def lines(path: Path, problems: list[str]) -> Iterator[tuple[str, str]]:
    """(``file:line``, text) of every line of a text file, gzipped or not, that is not blank."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        try:
            for number, line in enumerate(file, start=1):
                where = f"{path}:{number}"
                try:
                    text = line.decode("utf-8").strip()
                except UnicodeDecodeError:
                    problems.append(f"{where}: not UTF-8")
                    continue
                if text:
                    yield where, text
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            problems.append(f"{path}: not a whole gzip file ({error})")


def gender(value: Any) -> str | None:
    """``f`` or ``m`` of the words that other tools use, else ``None``."""
    return {"f": "f", "female": "f", "m": "m", "male": "m"}.get(str(value).lower())


def contents(source: Path) -> str:
    """What an error says of a source that was not understood: ``In x there is: a, b``."""
    if not source.is_dir():
        return f"{source} is a file" if source.exists() else f"{source} does not exist"
    return f"In {source} there is: {shorten(sorted(os.listdir(source)), 8) or 'nothing'}"
