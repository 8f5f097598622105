"""LibriSpeech, and Libri-light's labels for limited supervision, in their official layouts.

::

    <root>/LibriSpeech/train-clean-100/103/1240/103-1240-0000.flac     100.6 h, 28,539 utterances, 251 speakers
    <root>/LibriSpeech/train-clean-100/103/1240/103-1240.trans.txt     "103-1240-0000 CHAPTER ONE MISSUS RACHEL …"
    <root>/LibriSpeech/train-clean-360/…                               363.6 h, 104,014 utterances, 921 speakers
    <root>/LibriSpeech/train-other-500/…                               496.7 h, 148,688 utterances, 1,166 speakers
    <root>/LibriSpeech/{dev,test}-{clean,other}/…                      5.1 to 5.4 h each; 2,703, 2,864, 2,620, 2,939
    <root>/LibriSpeech/SPEAKERS.TXT                                    optional: all speakers and their genders
    <root>/librispeech_finetuning/1h/{0..5}/{clean,other}/<speaker>/<chapter>/    10 minutes each, flac + trans.txt
    <root>/librispeech_finetuning/9h/{clean,other}/<speaker>/<chapter>/

Panayotov, Chen, Povey, Khudanpur: LibriSpeech: an ASR corpus based on public domain audio books, ICASSP 2015. Kahn et
al.: Libri-light: a benchmark for ASR with limited or no supervision, ICASSP 2020; its layout is in
facebookresearch/libri-light ``data_preparation/README.md`` and in torchaudio 2.11 ``datasets/librilight_limited.py``.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.errors import BenchmarkError, shorten
from benchmark.interfaces import Corpus, Utterance
from benchmark.text import Names, lines, words
from downstream.corpora.tree import DATA_ROOT, LeftOut, audio_files, find_folder, listing, subfolders

log = logging.getLogger("wavbench")

FOLDER = "LibriSpeech"
SPLITS = ("train-clean-100", "train-clean-360", "train-other-500", "dev-clean", "dev-other", "test-clean", "test-other")
LIMITED_FOLDER = "librispeech_finetuning"
LIMITED = {
    "librilight-10min": ("1h/0",),
    "librilight-1h": tuple(f"1h/{part}" for part in range(6)),
    "librilight-10h": (*(f"1h/{part}" for part in range(6)), "9h"),
}
"""Split -> its folders. Each split contains the one before."""

PAGE = "https://www.openslr.org/12"
LIMITED_ARCHIVE = "https://dl.fbaipublicfiles.com/librilight/data/librispeech_finetuning.tgz"
_HELP = (
    f"Expected layout: <data root>/{FOLDER}/<split>/<speaker>/<chapter>/<utterance>.flac with "
    f"<speaker>-<chapter>.trans.txt next to them, splits {', '.join(SPLITS)} (those that are used). LibriSpeech is at "
    f"{PAGE}. {DATA_ROOT.format(FOLDER)}"
)
_NAME = re.compile(r"(?P<speaker>[^-]+)-(?P<chapter>[^-]+)-[^-]+")


@dataclass
class _Problems:
    """What is wrong with the trees, so that all of it is reported together."""

    silent: list[str] = field(default_factory=list)
    """Transcripts without audio: ``<utterance> in <file>``."""
    untranscribed: list[str] = field(default_factory=list)
    """Audio files without transcript."""
    repeated: list[str] = field(default_factory=list)
    """Utterances with two lines in a transcript file."""
    misplaced: list[str] = field(default_factory=list)
    """Audio files outside the layout, or with a name that does not match their folders."""

    def raise_any(self) -> None:
        lines = [
            f"{len(items)} {what}: {shorten(sorted(items))}"
            for what, items in (
                ("audio files have no transcript in the .trans.txt next to them", self.untranscribed),
                ("transcripts have no audio file next to them", self.silent),
                ("utterances are transcribed twice", self.repeated),
                ("audio files are not at <split>/<speaker>/<chapter>/<speaker>-<chapter>-<number>", self.misplaced),
            )
            if items
        ]
        if lines:
            raise BenchmarkError(
                "LibriSpeech is not as published:\n  " + "\n  ".join(lines) + "\nUnpack the archives again"
                f" (LibriSpeech: {PAGE}; Libri-light: {LIMITED_ARCHIVE}), or remove these files"
            )


def prepare(root: Path) -> Corpus:
    """Read the splits that exist.

    Transcripts are read, but no audio: only the names of its files.

    Args:
        root: the data root, the folder that holds ``LibriSpeech`` (and ``librispeech_finetuning``).

    Returns:
        The splits that exist, sorted by id, which is LibriSpeech's (``103-1240-0000``); ``session`` is the chapter.
        With ``librispeech_finetuning`` also ``librilight-10min``, ``-1h`` and ``-10h``, whose utterances are some of
        LibriSpeech's training utterances, with the same ids.

    Raises:
        BenchmarkError: there is no split at all; audio without transcripts or the reverse, all reported together.
    """
    root = Path(root)
    folder = find_folder(root, "LibriSpeech", [FOLDER], _HELP, inside=SPLITS)
    problems = _Problems()
    existing = [split for split in SPLITS if (folder / split).is_dir()]
    if not existing:
        raise BenchmarkError(f"no split of LibriSpeech in {folder}. It contains: {listing(folder)}. {_HELP}")
    left_out = LeftOut("LibriSpeech")
    listed = _speakers(folder / "SPEAKERS.TXT", left_out)
    genders = {speaker: gender for speakers in listed.values() for speaker, gender in speakers.items()}
    splits = {split: _read(folder / split, split, genders, problems, left_out) for split in existing}
    limited = root / LIMITED_FOLDER
    if limited.is_dir():
        parts = {part: _read(limited / part, "", genders, problems, left_out) for part in LIMITED["librilight-10h"]}
        absent = [part for part, utterances in parts.items() if not utterances]
        if absent:
            raise BenchmarkError(
                f"{limited} is incomplete: no .flac file in {shorten(absent)}. Unpack {LIMITED_ARCHIVE} there again, "
                "or remove the folder"
            )
        for split, names in LIMITED.items():
            utterances = [utterance for name in names for utterance in parts[name]]
            splits[split] = sorted(utterances, key=lambda utterance: utterance.id)
    problems.raise_any()
    for split in existing:
        if not splits[split]:
            raise BenchmarkError(f"no .flac file in {folder / split}/<speaker>/<chapter>/. {_HELP}")
        absent = sorted(listed.get(split, {}).keys() - {utterance.speaker for utterance in splits[split]})
        if absent:
            log.warning(
                "%s lists %d speakers of %s that are not in the tree: %s",
                folder / "SPEAKERS.TXT", len(absent), split, shorten(absent),
            )  # fmt: skip
    left_out.say()
    return Corpus("librispeech", splits)


def prepare_limited(root: Path, *, training: bool = True) -> Corpus:
    """:func:`prepare`, but Libri-light's limited supervision is required, unless ``training`` is false.

    Raises:
        BenchmarkError: as :func:`prepare`; ``librispeech_finetuning`` is missing.
    """
    root = Path(root)
    how = f"Download {LIMITED_ARCHIVE} and unpack it in the data root, next to {FOLDER}. {DATA_ROOT.format('both')}"
    if training:
        find_folder(root, "Libri-light's labels for limited supervision", [LIMITED_FOLDER], how)
    return prepare(root)


def _read(top: Path, split: str, genders: Mapping[str, str], problems: _Problems, left_out: LeftOut) -> list[Utterance]:
    """All utterances below ``<split>/<speaker>/<chapter>`` or, of Libri-light (no ``split``), below
    ``<part>/{clean,other}/<speaker>/<chapter>``, sorted by id."""
    utterances: list[Utterance] = []
    folders = [str(top)] if top.is_dir() else []
    for _ in range(2 if split else 3):
        below = [subfolders(folder, problems.misplaced, left_out) for folder in folders]
        folders = [entry.path for entries in below for entry in entries]
    for folder in folders:
        speaker, chapter = folder.split(os.sep)[-2:]
        transcripts = f"{speaker}-{chapter}.trans.txt"
        files = audio_files(folder, problems.misplaced, left_out, ".flac", expected=(transcripts,))
        audio = {name.removesuffix(".flac"): path for name, path in files.items()}
        texts = _transcripts(Path(folder, transcripts), audio, problems)
        if split:  # Libri-light removed utterances from chapters, but not always their transcripts
            problems.silent += [f"{name} in {folder}/{transcripts}" for name in texts.keys() - audio.keys()]
        for name, path in audio.items():
            match = _NAME.fullmatch(name)
            if match is None or (match["speaker"], match["chapter"]) != (speaker, chapter):
                problems.misplaced.append(path)
            elif name not in texts:
                problems.untranscribed.append(path)
            else:
                utterances.append(
                    Utterance(
                        id=name,
                        path=path,
                        text=texts[name],
                        speaker=speaker,
                        session=chapter,
                        split=split or None,
                        gender=genders.get(speaker),
                    )
                )
    return sorted(utterances, key=lambda utterance: utterance.id)


def _transcripts(path: Path, audio: Collection[str], problems: _Problems) -> dict[str, str]:
    """Lines of ``<utterance> <words>``, none where there is no file; a line without words is an empty transcript, which
    the task checks."""
    texts: dict[str, str] = {}
    names = Names(audio)
    for _, line in lines(path) if path.is_file() else ():
        written, *text = words(line, 2)
        name = names.find(written) or written
        if name in texts:
            problems.repeated.append(f"{name} in {path}")
        texts[name] = text[0].strip() if text else ""
    return texts


def _speakers(path: Path, left_out: LeftOut) -> dict[str, dict[str, str]]:
    """Subset -> id -> f or m, of ``SPEAKERS.TXT``: comments start with ``;``, rows are ``id | sex | subset | …``."""
    speakers: dict[str, dict[str, str]] = {}
    for number, line in lines(path, western=True) if path.is_file() else ():
        fields = [field.strip() for field in line.split("|")]
        if line.startswith(";"):
            continue
        if len(fields) > 2 and fields[1] in ("F", "M"):
            speakers.setdefault(fields[2], {})[fields[0]] = fields[1].lower()
        else:
            left_out.add("lines are not 'id | F or M | subset | …'", f"{path}:{number}")
    return speakers
