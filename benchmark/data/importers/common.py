"""What importers share: relative paths, text files, words for genders."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark import text
from benchmark.errors import shorten
from benchmark.files import on_disk


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
            return on_disk(path)
        for base in ([self.base] if self.base else []) + self.bases():
            absolute = on_disk(str(base / path))
            if os.path.exists(absolute):
                self.base = base
                return absolute
        return None

    def bases(self) -> list[Path]:
        """The list's folder, the three above it (``egs/s5`` for ``egs/s5/data/train``) and the current one."""
        folder = self.folder.absolute()
        return list(dict.fromkeys([folder, *itertools.islice(folder.parents, 3), Path.cwd()]))


def lines(path: Path, problems: list[str]) -> Iterator[tuple[str, str]]:
    """(``file:line``, text) of every line of a text file that is not blank; see :func:`benchmark.text.lines`."""
    unreadable: text.Problems = []
    for number, line in text.lines(path, unreadable):
        yield f"{path}:{number}", line.strip(text.BLANKS)
    problems += [f"{path}{f':{number}' if number else ''}: {problem}" for number, problem in unreadable]


def gender(value: Any) -> str | None:
    """``f`` or ``m`` of the words that other tools use, else ``None``."""
    return {"f": "f", "female": "f", "m": "m", "male": "m"}.get(str(value).lower())


def contents(source: Path) -> str:
    """What an error says of a source that was not understood: ``In x there is: a, b``."""
    if not source.is_dir():
        return f"{source} is a file" if source.exists() else f"{source} does not exist"
    return f"In {source} there is: {shorten(sorted(os.listdir(source)), 8) or 'nothing'}"
