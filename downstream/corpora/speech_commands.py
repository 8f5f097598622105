"""Speech Commands, version 0.01, in its official layout: ten keywords, unknown words and silence.

::

    <root>/speech_commands_v0.01/yes/0a7c2a8d_nohash_0.wav        30 words, 64,721 files of a second; the name starts
                                                                  with the speaker
    <root>/speech_commands_v0.01/{validation,testing}_list.txt    "yes/0a7c2a8d_nohash_0.wav": 6,798 and 6,835 files
    <root>/speech_commands_v0.01/_background_noise_/*.wav         six recordings without speech, a minute or more each
    <root>/speech_commands_test_set_v0.01/yes/*.wav               the 12 classes, 3,081 files; also _unknown_, _silence_

The two archives contain no folder of their own: make these and unpack there. What neither list names is training data;
the test set is the second archive. Silence is what the noise recordings have, cut into seconds; every tenth second of
each is dev's.

Warden: Speech Commands: a dataset for limited-vocabulary speech recognition, arXiv:1804.03209.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from benchmark.data import audio
from benchmark.errors import BenchmarkError, raise_problems, shorten
from benchmark.interfaces import Corpus, Utterance
from benchmark.text import Names, lines
from downstream.corpora.tree import (
    DATA_ROOT,
    LeftOut,
    audio_files,
    find_folder,
    folders,
    listing,
    raise_misplaced,
)  # fmt: skip

log = logging.getLogger("wavbench")

FOLDER, TEST_FOLDER = "speech_commands_v0.01", "speech_commands_test_set_v0.01"
KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
UNKNOWN, SILENCE = "_unknown_", "_silence_"
CLASSES = (*KEYWORDS, UNKNOWN, SILENCE)
NOISE = "_background_noise_"
LISTS = {"validation": "validation_list.txt", "testing_list": "testing_list.txt"}
"""Split -> the list of its files."""
DEV_SECOND = 10
"""Every how manieth second of noise is dev's, the first included."""

ARCHIVES = "http://download.tensorflow.org/data/"
_HELP = (
    f"Expected layout: <data root>/{FOLDER}/<word>/<speaker>_nohash_<number>.wav with {' and '.join(LISTS.values())}, "
    f"and <data root>/{TEST_FOLDER}/<class>/*.wav. Make the two folders, and unpack {ARCHIVES}{FOLDER}.tar.gz and "
    f"{ARCHIVES}{TEST_FOLDER}.tar.gz there (tar xzf ARCHIVE -C FOLDER). {DATA_ROOT.format('both')}"
)
_NAME = re.compile(r"(?P<speaker>.+)_nohash_\d+\.wav")


def prepare(root: Path, *, training: bool = True) -> Corpus:
    """Read the lists and list the audio; of the noise recordings the headers are read.

    Args:
        root: the data root, the folder that holds ``speech_commands_v0.01`` and ``speech_commands_test_set_v0.01``.
        training: false: take ``test`` alone, which has an archive of its own.

    Returns:
        splits ``train``, ``validation`` and ``test``, and ``testing_list``: the words of the first archive that its
        list keeps for testing, of which ``test`` has some. Sorted by id: ``yes/<file>``, ``test/yes/<file>``,
        ``_silence_/<recording>/<second>``. The label is ``keyword``: a keyword, ``_unknown_`` or ``_silence_``.
        ``session`` is the speaker or, of silence, the recording.

    Raises:
        BenchmarkError: something is missing, misplaced or on two lists.
    """
    root = Path(root)
    left_out = LeftOut("Speech Commands")
    if not training:
        test = _read_test(root, left_out)
        left_out.say()
        return Corpus("speech_commands", {"test": test})
    folder = find_folder(root, "Speech Commands", (FOLDER,), _HELP, (LISTS["validation"],))
    words = [name for name in folders(folder) if name != NOISE]
    absent = [name for name in (*KEYWORDS, NOISE) if not (folder / name).is_dir()]
    absent += [name for name in LISTS.values() if not (folder / name).is_file()]
    if absent:
        raise BenchmarkError(f"{folder} has no {shorten(absent, 8)}. It contains: {listing(folder)}. {_HELP}")
    misplaced: list[str] = []
    paths: dict[str, str] = {}
    files = {f"{word}/{name}": word for word in words for name in _wavs(folder / word, misplaced, left_out, paths)}
    raise_misplaced("Speech Commands", misplaced, f"{folder}/<word>/<file>.wav")
    of_list = _lists(folder, files)
    test = _read_test(root, left_out)
    splits: dict[str, list[Utterance]] = {"train": [], "validation": [], "test": test, "testing_list": []}
    for name, word in files.items():
        split = of_list.get(name, "train")
        splits[split].append(_word(name, paths[name], word if word in KEYWORDS else UNKNOWN, split))
    for noise in _wavs(folder / NOISE, misplaced, left_out, paths):
        path = paths[f"{NOISE}/{noise}"]
        for second in range(int(audio.durations([Utterance(noise, path)])[0])):
            split = "validation" if second % DEV_SECOND == 0 else "train"
            splits[split].append(
                Utterance(
                    id=f"{SILENCE}/{noise.removesuffix('.wav')}/{second:03}",
                    path=path,
                    start=float(second),
                    duration=1.0,
                    session=noise,
                    split=split,
                    labels={"keyword": SILENCE},
                )
            )
    left_out.say()
    for split in ("train", "validation"):
        _check_classes(split, splits[split])
    return Corpus("speech_commands", {name: sorted(those, key=lambda u: u.id) for name, those in splits.items()})


def _read_test(root: Path, left_out: LeftOut) -> list[Utterance]:
    """The test set, sorted by id."""
    folder = find_folder(root, "Speech Commands' test set", (TEST_FOLDER,), _HELP)
    if set(folders(folder)) != set(CLASSES):
        raise BenchmarkError(
            f"{folder} should have the folders {', '.join(CLASSES)}, and has {listing(folder)}. {_HELP}"
        )
    misplaced: list[str] = []
    utterances = [
        _word(f"test/{keyword}/{name}", path, keyword, "test")
        for keyword in CLASSES
        for name, path in audio_files(folder / keyword, misplaced, left_out).items()
    ]
    raise_misplaced("Speech Commands' test set", misplaced, f"{folder}/<class>/<file>.wav")
    _check_classes("test", utterances)
    return sorted(utterances, key=lambda utterance: utterance.id)


def _check_classes(split: str, utterances: Iterable[Utterance]) -> None:
    found = {utterance.labels["keyword"] for utterance in utterances}
    if empty := [name for name in CLASSES if name not in found]:
        raise BenchmarkError(f"'{split}' of Speech Commands has no utterance of {shorten(empty, 8)}. {_HELP}")


def _wavs(folder: Path, misplaced: list[str], left_out: LeftOut, paths: dict[str, str]) -> list[str]:
    """Sorted names of the audio files in a folder; adds ``<folder>/<name>`` -> path to ``paths``."""
    files = audio_files(folder, misplaced, left_out, expected=("README.md",))
    paths.update((f"{folder.name}/{name}", path) for name, path in files.items())
    return sorted(files)


def _word(name: str, path: str, keyword: str, split: str) -> Utterance:
    file = name.rpartition("/")[2]
    match = _NAME.fullmatch(file)
    speaker = None if match is None else match["speaker"]
    return Utterance(name, path, speaker=speaker, session=speaker or file, split=split, labels={"keyword": keyword})


def _lists(folder: Path, files: Collection[str]) -> dict[str, str]:
    """File -> the split whose list names it."""
    split_of: dict[str, str] = {}
    problems: list[str] = []
    names = Names(files)
    for split, file in LISTS.items():
        for number, line in lines(folder / file):
            name = names.find(line.strip()) or line.strip()
            if name not in files:
                problems.append(f"{folder / file}:{number}: {name} is not in the tree")
            elif name in split_of:
                problems.append(f"{folder / file}:{number}: {name} is duplicated, in {LISTS[split_of[name]]}")
            split_of.setdefault(name, split)
    if problems:
        raise_problems("the lists of Speech Commands do not fit", problems, f"Unpack the archive again. {_HELP}")
    return split_of
