"""Fluent Speech Commands in its official layout.

::

    <root>/fluent_speech_commands_dataset/data/{train,valid,test}_data.csv     path, speakerId, transcription, action,
                                                                               object, location
    <root>/fluent_speech_commands_dataset/wavs/speakers/<speaker>/<file>.wav   30,043 utterances of 97 speakers, 19 h

23,132 / 3,118 / 3,793 utterances of 77 / 10 / 10 speakers. An intent is an action, an object and a location: 6, 14 and
4 values, in 31 combinations.

Lugosch et al.: Speech model pre-training for end-to-end spoken language understanding, Interspeech 2019.
"""

from __future__ import annotations

import csv
import io
import logging
from pathlib import Path

from benchmark.errors import BenchmarkError, raise_problems, shorten
from benchmark.interfaces import Corpus, Utterance
from downstream.corpora.tree import DATA_ROOT, find_folder, folders, scan

log = logging.getLogger("wavbench")

FOLDER = "fluent_speech_commands_dataset"
SPLITS = ("train", "valid", "test")
SLOTS = ("action", "object", "location")
COLUMNS = ("path", "speakerId", "transcription", *SLOTS)
AUDIO = "wavs/speakers"

PAGE = "https://fluent.ai/fluent-speech-commands-a-dataset-for-spoken-language-understanding-research/"
_HELP = (
    f"Expected layout: <data root>/{FOLDER}/data/{{train,valid,test}}_data.csv and {FOLDER}/{AUDIO}/<speaker>/*.wav. "
    f"Fluent Speech Commands is at {PAGE}. {DATA_ROOT.format(FOLDER)}"
)


def prepare(root: Path) -> Corpus:
    """Read the tables and list the audio; no audio file is opened.

    Args:
        root: the data root, the folder that holds ``fluent_speech_commands_dataset``.

    Returns:
        splits ``train``, ``valid`` and ``test``, sorted by id, ``<speaker>/<file>``. The labels are ``action``,
        ``object`` and ``location``; ``none`` is a value of the latter two.

    Raises:
        BenchmarkError: a table or audio is missing, or a line is malformed, named as ``file:line``.
    """
    folder = find_folder(Path(root), "Fluent Speech Commands", (FOLDER,), _HELP, ("data/train_data.csv", AUDIO))
    needed = [folder / AUDIO, *(folder / "data" / f"{split}_data.csv" for split in SPLITS)]
    if missing := [str(path) for path in needed if not path.exists()]:
        raise BenchmarkError(f"Fluent Speech Commands is incomplete: {shorten(missing)} not found. {_HELP}")
    speakers = folders(folder / AUDIO)
    audio = {
        f"{AUDIO}/{speaker}/{file.name}"
        for speaker in speakers
        for file in scan(folder / AUDIO / speaker)
        if file.name.endswith(".wav")
    }
    problems: list[str] = []
    listed: dict[str, str] = {}
    splits = {split: _read(folder, split, audio, listed, problems) for split in SPLITS}
    if problems:
        raise_problems(f"{folder} is not as published", problems, "Unpack the archive again, or delete these lines")
    if unlisted := sorted(audio - listed.keys()):
        log.warning("%d files are in none of the tables and are left out: %s", len(unlisted), shorten(unlisted))
    return Corpus("fluent_speech_commands", splits)


def _read(folder: Path, split: str, audio: set[str], listed: dict[str, str], problems: list[str]) -> list[Utterance]:
    """The utterances of one table; adds their paths to ``listed``, and what is wrong to ``problems``."""
    table = folder / "data" / f"{split}_data.csv"
    try:
        text = table.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BenchmarkError(f"{table} is not UTF-8 ({error}). Get it again from {PAGE}") from error
    rows = csv.DictReader(io.StringIO(text, newline=""))
    if absent := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
        raise BenchmarkError(f"{table}:1: no column {shorten(absent, 6)}; it has {shorten(rows.fieldnames or (), 8)}")
    utterances: list[Utterance] = []
    for row in rows:
        place = f"{table}:{rows.line_num}"
        path = row["path"] or ""
        if empty := [name for name in COLUMNS if not row[name]]:
            problems.append(f"{place}: no {shorten(empty, 6)}")
        elif path not in audio:
            problems.append(f"{place}: {path} is not in the tree")
        elif path in listed:
            problems.append(f"{place}: {path} is duplicated, in {listed[path]}")
        else:
            utterances.append(
                Utterance(
                    id=path.removeprefix(f"{AUDIO}/"),
                    path=str(folder / path),
                    text=row["transcription"],
                    speaker=row["speakerId"],
                    split=split,
                    labels={slot: row[slot] for slot in SLOTS},
                )
            )
        listed.setdefault(path, place)
    if not utterances and not problems:
        raise BenchmarkError(f"{table} is empty. Get it again from {PAGE}")
    return sorted(utterances, key=lambda utterance: utterance.id)
