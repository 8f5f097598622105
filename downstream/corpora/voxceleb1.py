"""VoxCeleb1 in its official layout.

::

    <root>/VoxCeleb1/dev/wav/id10001/1zcIwhmdeo4/00001.wav     1,211 speakers, 148,642 utterances
    <root>/VoxCeleb1/test/wav/id10270/5r0dWxy17C8/00001.wav       40 speakers,   4,874 utterances
    <root>/VoxCeleb1/veri_test2.txt                            37,611 trials, cleaned: what papers report as Vox1-O
    <root>/VoxCeleb1/veri_test.txt                             37,720 trials, as first published: what SUPERB scores
    <root>/VoxCeleb1/vox1_meta.csv                             optional: who should be there

Nagrani, Chung, Zisserman: VoxCeleb: a large-scale speaker identification dataset, Interspeech 2017.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmark.errors import BenchmarkError
from benchmark.interfaces import Corpus, Trial, Utterance

log = logging.getLogger(__name__)

FOLDER = "VoxCeleb1"
SPLITS = ("dev", "test")
TRIALS = "veri_test2"
"""The trial list that must be there."""
MORE_TRIALS = ("veri_test",)
"""Trial lists that are read when they are there."""

PAGE = "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox1.html"
LISTS = "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/meta/"
_LAYOUT = f"{FOLDER}/{{dev,test}}/wav/<speaker>/<video>/<utterance>.wav and {FOLDER}/{TRIALS}.txt"
_HELP = (
    f"Expected layout: <data root>/{_LAYOUT}. "
    f"VoxCeleb1 is described, with how to get the audio, at {PAGE}; the trial lists are {LISTS}{TRIALS}.txt and "
    f"{LISTS}{MORE_TRIALS[0]}.txt. "
    "Point to the folder that holds VoxCeleb1 with --data-root DIR or $BENCHMARK_DATA."
)


def prepare(root: Path) -> Corpus:
    """Read the tree and its trial lists.

    File names only, no file is opened: the audio is checked when it is decoded.

    Args:
        root: the data root, the folder that holds ``VoxCeleb1``.

    Returns:
        splits ``dev`` and ``test``, sorted by id; trials ``veri_test2`` and, where the list is there, ``veri_test``.
        ``Utterance.id`` is the path as trial lists write it, ``session`` the video.

    Raises:
        BenchmarkError: something is missing, misplaced, malformed or there twice.
    """
    folder = _find_folder(Path(root))
    splits = {split: _read_split(folder, split) for split in SPLITS}
    ids = {utterance.id for utterance in splits["dev"]}
    both = [utterance.id for utterance in splits["test"] if utterance.id in ids]
    if both:
        raise BenchmarkError(
            f"{len(both)} utterances are both under {folder / 'dev'} and under {folder / 'test'}: {_some(both)}. "
            "Every utterance belongs to one of them: delete the wrong copies"
        )
    ids.update(utterance.id for utterance in splits["test"])
    trials = {TRIALS: read_trials(folder / f"{TRIALS}.txt", ids)}
    for name in MORE_TRIALS:
        path = folder / f"{name}.txt"
        if path.is_file():
            trials[name] = read_trials(path, ids)
        else:
            log.warning("%s is not there, so it is not scored; get it from %s%s.txt", path, LISTS, name)
    _warn_of_absent_speakers(folder / "vox1_meta.csv", splits)
    return Corpus("voxceleb1", splits, trials)


def read_trials(path: Path, ids: Iterable[str]) -> list[Trial]:
    """Read a list of ``label enrolment test`` lines, in its order.

    Args:
        path: the list.
        ids: the utterances that there are.

    Raises:
        BenchmarkError: the list is missing or empty, a line is malformed, or an utterance is not among ``ids``.
    """
    if not path.is_file():
        raise BenchmarkError(f"trial list {path} not found. Download it from {LISTS}{path.name} and put it there")
    trials = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 3 or fields[0] not in ("0", "1"):
            raise BenchmarkError(
                f"{path}:{number}: expected '<1 or 0> <enrolment.wav> <test.wav>', got {line[:120]!r}. "
                f"The original list is {LISTS}{path.name}"
            )
        trials.append(Trial(int(fields[0]), fields[1], fields[2]))
    if not trials:
        raise BenchmarkError(f"trial list {path} is empty. Download it again from {LISTS}{path.name}")
    ids = ids if isinstance(ids, (set, dict)) else set(ids)
    named = dict.fromkeys(name for trial in trials for name in (trial.enrolment, trial.test))
    absent = [name for name in named if name not in ids]
    if absent:
        raise BenchmarkError(
            f"trial list {path} names {len(absent)} of {len(named)} utterances that are not in the tree: "
            f"{_some(absent)}. Expected each at {path.parent}/{{dev,test}}/wav/<utterance>; unpack the missing "
            "archives, or use a trial list made for this tree"
        )
    return trials


def _find_folder(root: Path) -> Path:
    folder = root / FOLDER
    if folder.is_dir():
        return folder
    if not root.is_dir():
        found = f"The data root {root} does not exist."
    elif (root / "dev" / "wav").is_dir() or (root / "wav").is_dir():
        found = (
            f"{root} looks like the corpus itself, but the data root is the folder above it: "
            f"name this folder {FOLDER} (a symbolic link does) and give its parent."
        )
    else:
        found = f"In {root} there is: {_listing(root)}."
        alike = [name for name in os.listdir(root) if name.lower().replace("_", "").startswith(("voxceleb", "vox1"))]
        if alike:
            found += f" If {_some(sorted(alike))} is it, rename it to {FOLDER} or make a symbolic link of that name."
    raise BenchmarkError(f"VoxCeleb1 not found: looked for the folder {folder}. {found} {_HELP}")


def _read_split(folder: Path, split: str) -> list[Utterance]:
    """All utterances of ``<folder>/<split>/wav``, sorted by id."""
    top = folder / split / "wav"
    if not top.is_dir():
        if (folder / split).is_dir():
            found = f"In {folder / split} there is: {_listing(folder / split)}."
        else:
            found = f"In {folder} there is: {_listing(folder)}."
        raise BenchmarkError(f"VoxCeleb1's {split} set not found: looked for the folder {top}. {found} {_HELP}")
    utterances: list[Utterance] = []
    m4a: list[str] = []
    misplaced: list[str] = []
    for speaker in _scan(top):
        if not speaker.is_dir():
            misplaced += [speaker.path] if speaker.name.endswith(".wav") else []
            continue
        for video in _scan(speaker.path):
            if not video.is_dir():
                misplaced += [video.path] if video.name.endswith(".wav") else []
                continue
            names = [file.name for file in _scan(video.path)]
            utterances += [
                Utterance(
                    id=f"{speaker.name}/{video.name}/{name}",
                    path=f"{video.path}/{name}",
                    speaker=speaker.name,
                    session=video.name,
                    split=split,
                )
                for name in names
                if name.endswith(".wav")
            ]
            unconverted = {name[:-4] for name in names if name.endswith(".m4a")}
            unconverted -= {name[:-4] for name in names if name.endswith(".wav")}
            m4a += [f"{video.path}/{stem}.m4a" for stem in sorted(unconverted)]
    if m4a:
        raise BenchmarkError(
            f"{len(m4a)} utterances under {top} are .m4a without a .wav beside them: {_some(sorted(m4a))}. "
            f"Convert them: find {top} -name '*.m4a' -exec sh -c "
            """'ffmpeg -nostdin -loglevel error -i "$1" -ac 1 -ar 16000 "${1%.m4a}.wav"' _ {} \\;"""
        )
    if misplaced:
        raise BenchmarkError(
            f"{len(misplaced)} .wav files do not lie where VoxCeleb1 has them: {_some(sorted(misplaced))}. "
            f"Expected {top}/<speaker>/<video>/<utterance>.wav; move them there"
        )
    if not utterances:
        raise BenchmarkError(f"no .wav file in {top}/<speaker>/<video>/. In {top} there is: {_listing(top)}. {_HELP}")
    return sorted(utterances, key=lambda utterance: utterance.id)


def _scan(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """Entries of a folder but hidden ones (``._00001.wav`` of macOS archives among them)."""
    with os.scandir(folder) as found:
        yield from (entry for entry in found if not entry.name.startswith("."))


def _warn_of_absent_speakers(meta: Path, splits: dict[str, list[Utterance]]) -> None:
    """``vox1_meta.csv``: a header line, then tab-separated id, name, gender, nationality, set."""
    if not meta.is_file():
        return
    rows = [line.split("\t") for line in meta.read_text(encoding="utf-8", errors="replace").splitlines()[1:]]
    there = {utterance.speaker for utterances in splits.values() for utterance in utterances}
    absent = sorted({row[0].strip() for row in rows if row[0].strip()} - there)
    if absent:
        log.warning("%s lists %d speakers that are not in the tree: %s", meta, len(absent), _some(absent))


def _some(items: list[str], most: int = 3) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def _listing(folder: Path) -> str:
    return _some(sorted(os.listdir(folder)), most=8) or "nothing"
