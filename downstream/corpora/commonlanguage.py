"""CommonLanguage in its official layout.

::

    <root>/CommonLanguage/<Language>/{train,dev,test}/<speaker>/<clip>.wav     45 languages, an hour each

The archive unpacks to ``common_voice_kpd``, which is accepted instead of ``CommonLanguage`` or inside it. The tables
next to the folders (``<Language>/train.csv`` …) are not needed. The name of a speaker's folder includes the split
(``itln_trn_sp_175``), so that the tree does not show whether splits share speakers.

Sinisetty, Ruban, Dymov, Ravanelli: CommonLanguage, Zenodo 2021, https://doi.org/10.5281/zenodo.5036977; taken from
Common Voice.
"""

from __future__ import annotations

import logging
from pathlib import Path

from benchmark.errors import BenchmarkError, shorten
from benchmark.interfaces import Corpus, Utterance
from downstream.corpora.tree import (
    DATA_ROOT,
    LeftOut,
    audio_files,
    find_folder,
    folders,
    is_audio,
    listing,
    raise_misplaced,
    scan,
    subfolders,
)  # fmt: skip

log = logging.getLogger("wavbench")

FOLDER = "CommonLanguage"
ARCHIVE = "common_voice_kpd"
"""The same folder in the publishers' archive."""
SPLITS = ("train", "dev", "test")
LANGUAGES = 45

PAGE = "https://doi.org/10.5281/zenodo.5036977"
_HELP = (
    f"Expected layout: <data root>/{FOLDER}/<Language>/{{train,dev,test}}/<speaker>/<clip>.wav. CommonLanguage.tar.gz "
    f"is at {PAGE}; its folder {ARCHIVE} is accepted under its own name. {DATA_ROOT.format('it')}"
)


def prepare(root: Path, *, training: bool = True) -> Corpus:
    """Read the tree. Only file names are read; no file is opened.

    Args:
        root: the data root, the folder that holds ``CommonLanguage`` or ``common_voice_kpd``.
        training: false: leave ``train`` out, and ``dev`` or ``test`` where no language has it.

    Returns:
        splits ``train``, ``dev`` and ``test``, sorted by id, ``<Language>/<split>/<speaker>/<clip>.wav``. ``language``
        is the folder name as published (``Mangolian``, ``Ukranian`` …), ``speaker`` is ``<Language>/<folder>``.

    Raises:
        BenchmarkError: something is missing or misplaced.
    """
    folder = find_folder(Path(root), "CommonLanguage", (FOLDER, ARCHIVE), _HELP, ("*/train/*/*.wav",))
    if (folder / ARCHIVE).is_dir():
        folder = folder / ARCHIVE
    languages = [name for name in folders(folder) if any((folder / name / split).is_dir() for split in SPLITS)]
    if not languages:
        raise BenchmarkError(
            f"no language in {folder}: looked for <Language>/train/<speaker>/. {folder} contains: {listing(folder)}. "
            f"{_HELP}"
        )
    of_any = {split for split in SPLITS if any((folder / language / split).is_dir() for language in languages)}
    splits: dict[str, list[Utterance]] = {name: [] for name in (SPLITS if training else sorted(of_any - {"train"}))}
    left_out = LeftOut("CommonLanguage")
    others = [str(folder / name) for name in folders(folder) if name not in languages]
    left_out.add(f"folders have no {', '.join(SPLITS)}", *others)
    misplaced: list[str] = []
    empty: list[str] = []
    for language in languages:
        for entry in scan(folder / language):
            if is_audio(entry.name):
                misplaced.append(entry.path)
            elif entry.is_dir() and entry.name not in SPLITS:
                left_out.add("folders are none of " + ", ".join(SPLITS), entry.path)
        for split in splits:
            top = folder / language / split
            utterances = _read(top, language, split, misplaced, left_out) if top.is_dir() else []
            if not utterances:
                empty.append(str(top))
            splits[split] += utterances
    raise_misplaced("CommonLanguage", misplaced, f"{folder}/<Language>/<split>/<speaker>/<clip>.wav")
    if empty:
        raise BenchmarkError(
            f"{len(empty)} folders are missing or hold no <speaker>/<clip>.wav: {shorten(empty)}. Unpack the archive "
            f"again, or move the languages that are not needed out of {folder}. {_HELP}"
        )
    left_out.say()
    if len(languages) != LANGUAGES:
        log.info("%s has %d languages; CommonLanguage was published with %d", folder, len(languages), LANGUAGES)
    return Corpus("commonlanguage", {split: sorted(those, key=lambda u: u.id) for split, those in splits.items()})


def _read(top: Path, language: str, split: str, misplaced: list[str], left_out: LeftOut) -> list[Utterance]:
    """The utterances of ``<top>/<speaker>/``; adds files outside the speakers' folders to ``misplaced``."""
    utterances: list[Utterance] = []
    for speaker in subfolders(top, misplaced, left_out):
        utterances += [
            Utterance(
                id=f"{language}/{split}/{speaker.name}/{file}",
                path=path,
                speaker=f"{language}/{speaker.name}",
                language=language,
                split=split,
            )
            for file, path in audio_files(speaker.path, misplaced, left_out).items()
        ]
    return utterances
