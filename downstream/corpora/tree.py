"""What readers of corpus trees share: finding the folder and listing its content."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from benchmark.data import archives
from benchmark.errors import BenchmarkError, shorten
from benchmark.files import MARKER

log = logging.getLogger("wavbench")

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


AUDIO = frozenset((
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd", ".sph", ".nist", ".w64",
    ".rf64", ".wavex", ".caf", ".voc", ".htk",
))  # fmt: skip
"""Endings of files that libsndfile reads, in lower case."""
UNREADABLE = frozenset([".m4a", ".mp4", ".aac", ".wma", ".amr", ".3gp", ".webm", ".mkv", ".shn", ".ape", ".wv"])
"""Endings of audio that it does not read."""


_UNREADABLE = "files are audio that libsndfile does not read"
_BESIDE = "audio files have one of the same name beside them, which is read,"


class LeftOut:
    """What a reader passes over, by reason, to be said once and with examples.

    Args:
        corpus: its name in messages.
    """

    def __init__(self, corpus: str) -> None:
        self.corpus = corpus
        self._paths: dict[tuple[int, str], list[str]] = {}

    def add(self, reason: str, *paths: str, level: int = logging.WARNING) -> None:
        """Note paths or lines, ``file:line: what``. ``reason`` follows their number: ``files are not audio``."""
        self._paths.setdefault((level, reason), []).extend(paths)

    def say(self) -> None:
        """Log a line a reason."""
        for (level, reason), paths in self._paths.items():
            if paths:
                shown = shorten(sorted(paths))
                log.log(level, "%s: %s %s and are left out: %s", self.corpus, f"{len(paths):,}", reason, shown)

    def unreadable(self) -> list[str]:
        """Audio that libsndfile does not read and that has no readable file of the same name beside it."""
        return sorted(self._paths.get((logging.WARNING, _UNREADABLE), ()))

    def entry(self, entry: os.DirEntry[str]) -> None:
        """Note a file that is not expected where it is."""
        self.file(entry.name, entry.path)

    def file(self, name: str, path: str) -> None:
        """:meth:`entry`, by name and path."""
        ending = os.path.splitext(name)[1].lower()
        if ending in UNREADABLE:
            self.add(_UNREADABLE, path)
        elif name != MARKER:
            self.add("files are not audio", path, level=logging.INFO)


def is_audio(name: str) -> bool:
    """Whether a file's name ends as that of audio does, in any case."""
    return os.path.splitext(name)[1].lower() in AUDIO


def scan(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """The entries of a folder except hidden ones, such as ``._00001.wav`` of macOS archives."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if "\n" in name or "\r" in name:
                raise BenchmarkError(f"the name {name!r} in {folder} has a line break; rename it")
            if name[0] != ".":
                yield entry


def subfolders(folder: str | Path, misplaced: list[str], left_out: LeftOut) -> Iterator[os.DirEntry[str]]:
    """The folders in a folder, except hidden ones; paths of audio files beside them are added to ``misplaced``."""
    for entry in scan(folder):
        if entry.is_dir():
            yield entry
        elif is_audio(entry.name):
            misplaced.append(entry.path)
        else:
            left_out.entry(entry)


def audio_files(
    folder: str | Path, misplaced: list[str], left_out: LeftOut, ending: str = ".wav", expected: Collection[str] = ()
) -> dict[str, str]:
    """The audio files of a folder at the bottom of a tree, whatever format they are in.

    Args:
        folder: to list.
        misplaced: gets paths of audio files in folders below.
        left_out: is told of everything else, and of a folder without audio; not of audio that libsndfile does not read
            next to a converted file.
        ending: of published files. ``a.WAV`` and ``a.flac`` are ``a.wav`` to lists and labels.
        expected: names of other files that are known and not worth mentioning.

    Returns:
        Name with the published ending -> path. Of several files of one name, that with the published ending.
    """
    files: dict[str, str] = {}
    rest: list[os.DirEntry[str]] = []
    for entry in scan(folder):
        if entry.name.endswith(ending) and not entry.is_dir():
            files[entry.name] = entry.path
        else:
            rest.append(entry)
    others: list[os.DirEntry[str]] = []
    for entry in sorted(rest, key=lambda entry: entry.name):
        stem, own = os.path.splitext(entry.name)
        if entry.is_dir():
            misplaced += (deep := list(_audio_below(entry.path)))
            if not deep:
                left_out.add("folders hold no audio", entry.path)
        elif own.lower() in AUDIO:
            name = stem + ending
            if files.setdefault(name, entry.path) != entry.path:
                left_out.add(_BESIDE, entry.path)
        elif entry.name not in expected:
            others.append(entry)
    for entry in others:
        stem, own = os.path.splitext(entry.name)
        if own.lower() not in UNREADABLE or stem + ending not in files:
            left_out.entry(entry)
    if not files:
        left_out.add("folders hold no audio", str(folder))
    return files


def audio_members(
    archive: str, misplaced: list[str], left_out: LeftOut, ending: str = ".wav"
) -> Iterator[tuple[str, str, dict[str, str]]]:
    """The audio of an archive with members ``…/<folder>/<folder>/<file>``, as :func:`audio_files` has that of folders.

    Yields:
        The names of both folders, and name with the published ending -> path, of each.
    """
    folders: dict[tuple[str, ...], dict[str, str]] = {}
    others: list[tuple[tuple[str, ...], str, str]] = []
    for member in archives.index(archive):
        *above, name = member.name.split("/")
        path, stem, place = f"{archive}/{member.name}", os.path.splitext(name)[0], tuple(above[-2:])
        if name.startswith("."):
            continue
        if not is_audio(name):
            others.append((place, name, path))
        elif len(place) < 2:
            misplaced.append(path)
        else:
            files = folders.setdefault(place, {})
            read = files.setdefault(stem + ending, path)
            if read != path:
                if name.endswith(ending) and not read.endswith(ending):
                    files[name], path = path, read
                left_out.add(_BESIDE, path)
    for place, name, path in others:
        stem, own = os.path.splitext(name)
        if own.lower() not in UNREADABLE or stem + ending not in folders.get(place, {}):
            left_out.file(name, path)
    for (first, second), files in folders.items():
        yield first, second, files


def _audio_below(folder: str) -> Iterator[str]:
    """Paths of the audio files in a folder and those below it, except hidden ones."""
    for entry in scan(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from _audio_below(entry.path)
        elif is_audio(entry.name):
            yield entry.path


def raise_misplaced(corpus: str, misplaced: Sequence[str], expected: str) -> None:
    """Raise :class:`BenchmarkError` if there are misplaced audio files."""
    if misplaced:
        raise BenchmarkError(
            f"{len(misplaced)} audio files are not where {corpus} has them: {shorten(sorted(misplaced))}. Expected "
            f"{expected}; move them there"
        )


def folders(folder: str | Path) -> list[str]:
    """Sorted names of the folders in a folder, except hidden ones."""
    return sorted(entry.name for entry in scan(folder) if entry.is_dir())


def listing(folder: Path) -> str:
    """The content of a folder, for a message."""
    return shorten(sorted(os.listdir(folder)), most=8) or "nothing"


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
