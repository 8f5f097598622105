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

import itertools
import logging
from collections.abc import Mapping
from pathlib import Path

from benchmark import text
from benchmark.errors import BenchmarkError, raise_problems, shorten
from benchmark.interfaces import Corpus, Utterance
from downstream.corpora.tree import DATA_ROOT, LeftOut, audio_files, find_folder, raise_misplaced, subfolders

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


def prepare(root: Path, *, training: bool = True) -> Corpus:
    """Read the tables and list the audio; no audio file is opened.

    Args:
        root: the data root, the folder that holds ``fluent_speech_commands_dataset``.
        training: false: leave ``train`` and ``valid`` out.

    Returns:
        splits ``train``, ``valid`` and ``test``, sorted by id, ``<speaker>/<file>``. The labels are ``action``,
        ``object`` and ``location``; ``none`` is a value of the latter two.

    Raises:
        BenchmarkError: a table or audio is missing, or a line is malformed, named as ``file:line``.
    """
    folder = find_folder(Path(root), "Fluent Speech Commands", (FOLDER,), _HELP, ("data/train_data.csv", AUDIO))
    wanted = SPLITS if training else ("test",)
    needed = [folder / AUDIO, *(folder / "data" / f"{split}_data.csv" for split in wanted)]
    if missing := [str(path) for path in needed if not path.exists()]:
        raise BenchmarkError(f"Fluent Speech Commands is incomplete: {shorten(missing)} not found. {_HELP}")
    left_out = LeftOut("Fluent Speech Commands")
    misplaced: list[str] = []
    audio = {
        f"{AUDIO}/{speaker.name}/{name}": path
        for speaker in subfolders(folder / AUDIO, misplaced, left_out)
        for name, path in audio_files(speaker.path, misplaced, left_out).items()
    }
    raise_misplaced("Fluent Speech Commands", misplaced, f"{folder / AUDIO}/<speaker>/<file>.wav")
    problems: list[str] = []
    listed: dict[str, str] = {}
    splits = {split: _read(folder, split, audio, listed, problems) for split in wanted}
    if problems:
        raise_problems(f"{folder} is not as published", problems, "Unpack the archive again, or delete these lines")
    if training:
        left_out.add("files are in none of the tables", *(audio.keys() - listed.keys()))
    left_out.say()
    return Corpus("fluent_speech_commands", splits)


def _read(
    folder: Path, split: str, audio: Mapping[str, str], listed: dict[str, str], problems: list[str]
) -> list[Utterance]:
    """The utterances of one table; adds their paths to ``listed``, and what is wrong to ``problems``."""
    table = folder / "data" / f"{split}_data.csv"
    unreadable: text.Problems = []
    rows = text.records(table, ",", unreadable)
    _, header = next(rows, (1, []))
    if absent := [name for name in COLUMNS if name not in header]:
        problem = f":1: no column {shorten(absent, 6)}; it has {shorten(header, 8)}"
        raise BenchmarkError(f"{table}" + (f":{unreadable[0][0]}: {unreadable[0][1]}" if unreadable else problem))
    utterances: list[Utterance] = []
    names = text.Names(audio)
    for number, cells in rows:
        place = f"{table}:{number}"
        row = dict(itertools.zip_longest(header, cells[: len(header)], fillvalue=""))
        path = names.find(row["path"]) or row["path"]
        if len(cells) != len(header):
            problems.append(f"{place}: {len(cells)} cells, but the header has {len(header)}")
        elif empty := [name for name in COLUMNS if not row[name]]:
            problems.append(f"{place}: no {shorten(empty, 6)}")
        elif path not in audio:
            problems.append(f"{place}: {path} is not in the tree")
        elif path in listed:
            problems.append(f"{place}: {path} is duplicated, in {listed[path]}")
        else:
            utterances.append(
                Utterance(
                    id=path.removeprefix(f"{AUDIO}/"),
                    path=audio[path],
                    text=row["transcription"],
                    speaker=row["speakerId"],
                    split=split,
                    labels={slot: row[slot] for slot in SLOTS},
                )
            )
        listed.setdefault(path, place)
    problems += [f"{table}:{number}: {problem}" for number, problem in unreadable]
    if not utterances and not problems:
        raise BenchmarkError(f"{table} is empty. Get it again from {PAGE}")
    return sorted(utterances, key=lambda utterance: utterance.id)
