"""IEMOCAP in its official layout, with the four emotions and the five folds of SUPERB.

::

    <root>/IEMOCAP_full_release/Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav     12 h, five sessions
    <root>/IEMOCAP_full_release/Session1/dialog/EmoEvaluation/Ses01F_impro01.txt    what annotators agreed on

A line of the latter that starts with ``[`` is a turn: its times, id, emotion and attributes, separated by tabs. Of
10,039 turns SUPERB uses 5,531: neutral (1,708), happy with excited (1,636), angry (1,103) and sad (1,084). The name of
a dialogue says which of its two actors wore the markers; who speaks is the letter before a turn's number.

Each fold tests on one session, whose two actors speak in no other, and holds a fifth of the other four sessions' turns
out of training, at random: both parts have the same actors and dialogues. Which turns is decided by their order, in
s3prl by that of a folder listing, so that :data:`ORDER` is needed to hold out the same ones.

Busso et al.: IEMOCAP: interactive emotional dyadic motion capture database, Language Resources and Evaluation 2008.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from pathlib import Path

from benchmark.errors import BenchmarkError, raise_problems, shorten
from benchmark.interfaces import Corpus, Utterance
from benchmark.text import lines
from downstream.corpora.tree import (
    DATA_ROOT,
    LeftOut,
    audio_files,
    find_folder,
    raise_misplaced,
    scan,
    subfolders,
)  # fmt: skip

log = logging.getLogger("wavbench")

FOLDER = "IEMOCAP_full_release"
SESSIONS = (1, 2, 3, 4, 5)
EMOTIONS = {"neu": "neu", "hap": "hap", "exc": "hap", "ang": "ang", "sad": "sad"}
"""What annotators agreed on -> the class."""
PUBLISHED = (1085, 1023, 1151, 1031, 1241)
"""Turns of the four emotions in each session."""
DEV_SHARE = 0.2
ORDER = (
    "Fs02_2 Fi07 Fs03_2 Mi02 Fi06 Fs01_3 Ms02_1 Mi04 Ms01_1 Fi01 Fs01_1 Fi05 Ms01_2 Ms02_2 Fs02_1 Ms03_2 Mi05 Mi01 "
    "Fi03 Mi03 Ms01_3 Fs03_1 Mi07 Fi02 Mi06 Ms03_1 Fi04 Fs01_2",
    "Fi03 Fs03_2 Ms03_2 Mi04 Mi05 Fs02_1 Fs02_2 Ms02_2 Mi08 Mi07 Fs03_1 Ms01_3 Fi06 Fi01 Fi04 Fs01_2 Mi02 Mi03 Fs01_3 "
    "Fi05 Fs01_1 Mi06 Ms02_1 Fi08 Fi02 Ms01_1 Mi01 Ms01_2 Ms03_1 Fi07",
    "Fs02_1 Mi04 Ms03_2 Mi05b Mi02 Fi05 Ms02_2 Mi08b Fi07 Ms01_1 Ms02_1 Mi05a Mi07 Ms03_1 Fs03_1 Mi01 Fs01_1 Fi04 "
    "Fs02_2 Fs01_3 Ms01_3 Mi06 Fi01 Fi03 Ms01_2 Mi08a Mi03 Fs03_2 Fs01_2 Fi08 Fi06 Fi02",
    "Fs03_1 Fi01 Ms02_1 Ms02_2 Fs01_3 Mi05 Fs02_1 Fi07 Fi02 Fi03 Mi02 Fs01_1 Ms01_1 Fs03_2 Mi06 Fs02_2 Mi01 Mi04 Fi05 "
    "Fs01_2 Fi08 Fi06 Mi03 Ms01_3 Ms01_2 Ms03_1 Ms03_2 Mi07 Fi04 Mi08",
    "Ms01_3 Fi04 Ms02_2 Fs01_3 Fs01_2 Fi06 Mi06 Mi01 Fs03_1 Fi07 Fs03_2 Ms01_1b Fi05 Ms01_1 Fi08 Ms03_1 Mi05 Fi01 Fi02 "
    "Mi03 Fs01_1 Mi04 Ms02_1 Fi03 Fs02_2 Fs02_1 Ms03_2 Mi08 Mi02 Mi07 Ms01_2",
)
"""Dialogues of each session in the order of s3prl ec8064b5 ``downstream/emotion/meta_data``: ``Fi07`` is
``Ses01F_impro07``, ``Ms02_1`` is ``Ses01M_script02_1``."""

PAGE = "https://sail.usc.edu/iemocap/"
_HELP = (
    f"Expected layout: <data root>/{FOLDER}/Session{{1..5}}/sentences/wav/<dialogue>/<turn>.wav and "
    f"{FOLDER}/Session{{1..5}}/dialog/EmoEvaluation/<dialogue>.txt. IEMOCAP is given out on request: {PAGE}. "
    f"{DATA_ROOT.format(FOLDER)}"
)
_TURN = re.compile(r"(?P<dialogue>Ses0\d[FM]_\w+)_(?P<actor>[FM])\d+")


def prepare(root: Path, *, training: bool = True) -> Corpus:
    """Read the labels and list the audio; no audio file is opened.

    Args:
        root: the data root, the folder that holds ``IEMOCAP_full_release`` (or ``IEMOCAP``).
        training: false: take those sessions alone that are there, without folds.

    Returns:
        ``session1`` to ``session5`` and, of each fold K, ``foldK-train`` and ``foldK-dev``; the test set of fold K is
        session K. Sorted by id, which is the turn's (``Ses01F_impro01_F000``). The label is ``emotion``: ``neu``,
        ``hap``, ``ang`` or ``sad``. ``speaker`` is the actor, ``session`` the dialogue.

    Raises:
        BenchmarkError: a folder or audio is missing, or a line is malformed.
    """
    folder = find_folder(Path(root), "IEMOCAP", (FOLDER, "IEMOCAP"), _HELP, ("Session1/dialog",))
    numbers = [k for k in SESSIONS if training or (folder / f"Session{k}").is_dir()]
    needed = [folder / f"Session{k}" / part for k in numbers for part in ("dialog/EmoEvaluation", "sentences/wav")]
    if missing := [str(path) for path in needed if not path.is_dir()]:
        raise BenchmarkError(f"IEMOCAP is incomplete, {len(missing)} folders are missing: {shorten(missing)}. {_HELP}")
    problems: list[str] = []
    others: Counter[str] = Counter()
    unlabelled: list[str] = []
    left_out = LeftOut("IEMOCAP")
    sessions = [_read(folder / f"Session{k}", k, problems, others, unlabelled, left_out) for k in numbers]
    if problems:
        raise_problems(f"{folder} is not as published", problems, "Unpack the archive again, or delete these lines")
    log.info(
        "%d turns of other emotions are left out: %s",
        others.total(), ", ".join(f"{count:,} {name}" for name, count in others.most_common()),
    )  # fmt: skip
    left_out.add("files have no line in EmoEvaluation", *unlabelled)
    left_out.say()
    splits = {f"session{k}": turns for k, turns in zip(numbers, sessions, strict=True)}
    found = tuple(len(turns) for turns in sessions)
    if training and found != PUBLISHED:
        log.warning(
            "%s has %s turns of the four emotions in its sessions, IEMOCAP %s; dev sets are not SUPERB's",
            folder, shorten(found, 5), shorten(PUBLISHED, 5),
        )  # fmt: skip
    for k in SESSIONS if training else ():
        pool = [turn for other, turns in zip(SESSIONS, sessions, strict=True) if other != k for turn in turns]
        dev = held_out(len(pool))
        splits[f"fold{k}-train"] = [turn for place, turn in enumerate(pool) if place not in dev]
        splits[f"fold{k}-dev"] = [turn for place, turn in enumerate(pool) if place in dev]
    return Corpus("iemocap", {name: sorted(turns, key=lambda turn: turn.id) for name, turns in splits.items()})


def held_out(count: int) -> set[int]:
    """Places of dev among ``count`` turns: those of s3prl's ``random_split`` after ``manual_seed(0)``."""
    import torch

    order: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    return set(order[int((1 - DEV_SHARE) * count) :])


def _read(
    folder: Path, number: int, problems: list[str], others: Counter[str], unlabelled: list[str], left_out: LeftOut
) -> list[Utterance]:
    """The turns of a session in s3prl's order; counts other emotions, and adds what is wrong to ``problems``."""
    order = {name: place for place, name in enumerate(ORDER[number - 1].split())}
    names = [entry.name[:-4] for entry in scan(folder / "dialog" / "EmoEvaluation") if entry.name.endswith(".txt")]
    short = {name: name[5:].replace("_impro", "i").replace("_script", "s") for name in names}
    misplaced: list[str] = []
    audio = {
        name[:-4]: path
        for dialogue in subfolders(folder / "sentences" / "wav", misplaced, left_out)
        for name, path in audio_files(dialogue.path, misplaced, left_out).items()
    }
    raise_misplaced("IEMOCAP", misplaced, f"{folder / 'sentences' / 'wav'}/<dialogue>/<turn>.wav")
    turns: list[Utterance] = []
    labelled: set[str] = set()
    for dialogue in sorted(names, key=lambda name: (order.get(short[name], len(order)), name)):
        path = folder / "dialog" / "EmoEvaluation" / f"{dialogue}.txt"
        for line_number, line in lines(path, western=True):
            if not line.startswith("["):
                continue
            fields = line.split("\t")
            match = _TURN.fullmatch(fields[1]) if len(fields) >= 3 else None
            if match is None or match["dialogue"] != dialogue:
                expected = f"'[times]<tab>{dialogue}_<F or M><number><tab><emotion>'"
                problems.append(f"{path}:{line_number}: expected {expected}, got {line.strip()[:80]!r}")
                continue
            turn, emotion = fields[1], fields[2].strip()
            if turn in labelled:
                problems.append(f"{path}:{line_number}: {turn} is duplicated")
            elif emotion not in EMOTIONS:
                others[emotion] += 1
            elif turn not in audio:
                problems.append(f"{path}:{line_number}: no {turn}.wav in {folder / 'sentences' / 'wav' / dialogue}")
            else:
                turns.append(
                    Utterance(
                        id=turn,
                        path=audio[turn],
                        speaker=f"Ses{number:02}{match['actor']}",
                        session=dialogue,
                        split=f"session{number}",
                        gender=match["actor"].lower(),
                        labels={"emotion": EMOTIONS[emotion]},
                    )
                )
            labelled.add(turn)
    unlabelled += sorted(audio.keys() - labelled)
    return turns
