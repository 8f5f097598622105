"""VoxCeleb1 in its official layout.

::

    <root>/VoxCeleb1/dev/wav/id10001/1zcIwhmdeo4/00001.wav     1,211 speakers, 148,642 utterances
    <root>/VoxCeleb1/test/wav/id10270/5r0dWxy17C8/00001.wav       40 speakers,   4,874 utterances
    <root>/VoxCeleb1/veri_test2.txt                            37,611 trials, cleaned: what papers report as Vox1-O
    <root>/VoxCeleb1/veri_test.txt                             37,720 trials, as first published: what SUPERB scores
    <root>/VoxCeleb1/list_test_{all,hard}{2,}.txt              optional: Vox1-E and Vox1-H, cleaned (2) and not
    <root>/VoxCeleb1/iden_split.txt                            identification: 1 train, 2 dev, 3 test
    <root>/VoxCeleb1/vox1_meta.csv                             optional: the complete list of speakers

In place of ``dev/wav`` and ``test/wav`` the archives as published and as mirrors have them (Hugging Face:
ProgramComputer/voxceleb, whose folder is ``vox1``) are read as they are::

    <root>/{VoxCeleb1,vox1}/vox1_dev_wav.zip, or vox1_dev_wav_partaa … partad
    <root>/{VoxCeleb1,vox1}/vox1_test_wav.zip

Nagrani, Chung, Zisserman: VoxCeleb: a large-scale speaker identification dataset, Interspeech 2017. The lists E and H
came with Chung, Nagrani, Zisserman: VoxCeleb2: Deep speaker recognition, Interspeech 2018; they pair speakers of dev,
so that only systems not trained on VoxCeleb1 can be scored on them.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmark import text
from benchmark.data.trials import read_trials
from benchmark.errors import BenchmarkError, shorten
from benchmark.interfaces import Corpus, Trial, Utterance
from downstream.corpora.tree import (
    DATA_ROOT,
    LeftOut,
    audio_files,
    audio_members,
    find_folder,
    listing,
    raise_misplaced,
    subfolders,
)  # fmt: skip

log = logging.getLogger("wavbench")

FOLDER = "VoxCeleb1"
SPLITS = ("dev", "test")
TRIALS = "veri_test2"
"""The trial list that is required."""
OF_TEST, OF_ALL = ("veri_test",), ("list_test_all", "list_test_all2", "list_test_hard", "list_test_hard2")
"""Trial lists that are optional: O as first published, of the test set; E and H, of both sets."""
IDENTIFICATION = ("iden_split.txt", "veri_test_class.txt")
"""The split for speaker identification: the publishers' name of the file, and s3prl's."""
_PARTS = {"1": "train", "2": "dev", "3": "test"}

PAGE = "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox1.html"
LISTS = "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/meta/"
_TREE = f"{FOLDER}/{{dev,test}}/wav/<speaker>/<video>/<utterance>.wav"
_WHERE = f"How to get the audio is described at {PAGE}. {DATA_ROOT.format(FOLDER)}"
_HELP = (
    f"Expected layout: <data root>/{_TREE} and <data root>/{FOLDER}/{TRIALS}.txt; the trial lists are "
    f"{LISTS}{TRIALS}.txt and {LISTS}{OF_TEST[0]}.txt. {_WHERE}"
)
_HELP_IDENTIFICATION = (
    f"Expected layout: <data root>/{_TREE} and <data root>/{FOLDER}/{IDENTIFICATION[0]}, from "
    f"{LISTS}{IDENTIFICATION[0]}. {_WHERE}"
)


def prepare(root: Path, *, training: bool = True) -> Corpus:
    """Read the tree, for speaker verification.

    Only file names are read: audio is checked when it is decoded, a trial list when it is used.

    Args:
        root: the data root, the folder that holds ``VoxCeleb1``.
        training: false: leave ``dev``, which is the training set, out.

    Returns:
        splits ``dev`` and ``test``, sorted by id; trials ``veri_test2`` and the other lists that exist.
        ``Utterance.id`` is the path as trial lists write it, ``session`` the video.

    Raises:
        BenchmarkError: something is missing, misplaced, malformed or duplicated.
    """
    folder, splits = _read_tree(Path(root), _HELP, SPLITS if training else SPLITS[1:])
    trials = trial_lists(folder, (utterance for those in splits.values() for utterance in those))
    return Corpus("voxceleb1", splits, trials)


def prepare_identification(root: Path, *, training: bool = True) -> Corpus:
    """Read the tree and the publisher's split of it into train, dev and test, for speaker identification.

    Args:
        root: the data root, the folder that holds ``VoxCeleb1``.
        training: false: leave ``train`` out, and ``dev`` or ``test`` where not all of it is there.

    Returns:
        splits ``train``, ``dev`` and ``test`` (138,361, 6,904 and 8,251 utterances of the same 1,251 speakers), sorted
        by id; no trials.

    Raises:
        BenchmarkError: something is missing, misplaced, malformed or duplicated.
    """
    folder = voxceleb1_folder(Path(root), _HELP_IDENTIFICATION)
    there = [split for split in SPLITS if training or is_there(folder / split)]
    folder, tree = _read_tree(Path(root), _HELP_IDENTIFICATION, there)
    path = next((folder / name for name in IDENTIFICATION if (folder / name).is_file()), None)
    if path is None:
        raise BenchmarkError(
            f"VoxCeleb1's identification split not found: looked for {folder / IDENTIFICATION[0]} and "
            f"{folder / IDENTIFICATION[1]}. Download {LISTS}{IDENTIFICATION[0]} and put it there"
        )
    utterances = {utterance.id: utterance for split in tree.values() for utterance in split}
    part = _read_identification(path, utterances, training=training)
    left_out = [name for name in utterances if name not in part]
    if left_out and training:
        log.warning(
            "%d utterances of the tree are not in %s and are not used: %s", len(left_out), path, shorten(left_out)
        )
    splits: dict[str, list[Utterance]] = {
        name: [] for name in (_PARTS.values() if training else sorted({*part.values()}))
    }
    for name in sorted(part):
        splits[part[name]].append(replace(utterances[name], split=part[name]))
    empty = [name for name, those in splits.items() if not those]
    if empty:
        raise BenchmarkError(
            f"{path} has no utterance for {', '.join(empty)}; get the original from {LISTS}{path.name}"
        )
    return Corpus("voxceleb1", splits)


class TrialLists(Mapping[str, list[Trial]]):
    """Trial lists by name, each read on access: E and H have 580,000 and 550,000 lines."""

    def __init__(self, folder: Path, names: Collection[str], ids: Collection[str]) -> None:
        self.folder, self.names, self.ids = folder, names, ids

    def __getitem__(self, name: str) -> list[Trial]:
        """Raises :class:`BenchmarkError` on a malformed list and on missing utterances."""
        if name not in self.names:
            raise KeyError(name)
        return read_trials(
            self.folder / f"{name}.txt",
            self.ids,
            source=f"Download the original from {LISTS}{name}.txt",
            where=f"Expected each at {self.folder}/{{dev,test}}/wav/<utterance>; unpack the missing archives, or use a "
            "trial list made for this tree",
        )

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def trial_lists(folder: Path, utterances: Iterable[Utterance], more: Iterable[str] = (*OF_TEST, *OF_ALL)) -> TrialLists:
    """``veri_test2`` and those of ``more`` that are in VoxCeleb1's ``folder``.

    Raises:
        BenchmarkError: ``veri_test2`` is missing.
    """
    path = folder / f"{TRIALS}.txt"
    if not path.is_file():
        raise BenchmarkError(f"trial list {path} not found. Download it from {LISTS}{path.name} and put it there")
    names = [TRIALS, *(name for name in more if (folder / f"{name}.txt").is_file())]
    return TrialLists(folder, names, {utterance.id for utterance in utterances})


def voxceleb1_folder(root: Path, how: str) -> Path:
    """VoxCeleb1's folder in the data root; ``how`` ends the message if there is none."""
    return find_folder(root, "VoxCeleb1", [FOLDER, "vox1"], how, inside=["dev/wav", "wav", "vox1_*_wav*"])


def is_there(folder: Path, below: tuple[str, ...] = ("wav",)) -> bool:
    """Whether a set is there, as a folder or as an archive."""
    return folder.is_dir() or archive_of(folder, below) is not None


def archive_of(folder: Path, below: tuple[str, ...] = ("wav",)) -> str | None:
    """The archive of ``dev`` or ``test`` of VoxCeleb1 or 2, in place of its folder: ``vox1_dev_wav.zip``."""
    corpus = f"vox{folder.parent.name[-1]}"
    names = [f"{corpus}_{folder.name}_{kind}{end}" for kind in below for end in (".tar", ".zip", "_partaa")]
    return next((str(folder.parent / name) for name in names if (folder.parent / name).is_file()), None)


def _read_tree(root: Path, how: str, names: Sequence[str]) -> tuple[Path, dict[str, list[Utterance]]]:
    folder = voxceleb1_folder(root, how)
    splits = {split: read_split(folder / split, split, "VoxCeleb1", how) for split in names}
    ids = {utterance.id for utterance in splits.get("dev", ())}
    both = [utterance.id for utterance in splits.get("test", ()) if utterance.id in ids]
    if both:
        raise BenchmarkError(
            f"{len(both)} utterances are both under {folder / 'dev'} and under {folder / 'test'}: {shorten(both)}. "
            "Every utterance belongs to one of them: delete the wrong copies"
        )
    speakers = {utterance.speaker for utterances in splits.values() for utterance in utterances}
    if len(splits) == len(SPLITS):
        warn_about_missing_speakers(folder / "vox1_meta.csv", "\t", speakers)
    return folder, splits


def _read_identification(path: Path, ids: Collection[str], *, training: bool) -> dict[str, str]:
    """Utterance id -> ``train``, ``dev`` or ``test``, of lines of ``<1, 2 or 3> <utterance>``; without ``training``, of
    those but ``train`` that are whole."""
    part: dict[str, str] = {}
    names = text.Names(ids)
    for number, line in text.lines(path):
        fields = text.words(line, 2)
        if len(fields) != 2 or fields[0] not in _PARTS:
            raise BenchmarkError(
                f"{path}:{number}: expected '<1, 2 or 3> <utterance.wav>', got {line[:120]!r}. "
                f"The original list is {LISTS}{IDENTIFICATION[0]}"
            )
        name = names.find(fields[1], escaped=True) or fields[1]
        if name in part:
            raise BenchmarkError(f"{path}:{number}: {name} is duplicated; delete one of the two lines")
        part[name] = _PARTS[fields[0]]
    absent = [name for name in part if name not in ids]
    whole = {"dev", "test"} - {part[name] for name in absent}
    if whole and not training:
        return {name: split for name, split in part.items() if split in whole}
    if absent:
        raise BenchmarkError(
            f"{path} names {len(absent):,} of {len(part):,} utterances that are not in the tree: {shorten(absent)}. "
            f"Expected each at {path.parent}/{{dev,test}}/wav/<utterance>; unpack the missing archives"
        )
    return part


def read_split(folder: Path, split: str, corpus: str, how: str, below: tuple[str, ...] = ("wav",)) -> list[Utterance]:
    """All utterances of ``<folder>/wav/<speaker>/<video>``, sorted by id.

    Args:
        folder: ``dev`` or ``test`` of VoxCeleb1 or 2.
        split: what ``Utterance.split`` says.
        corpus: its name in messages.
        how: the layout and where to get the corpus, for messages.
        below: possible names of the folder of the speakers; the first that exists is read.

    Raises:
        BenchmarkError: it is missing or empty; files are misplaced, or are not converted to wav yet.
    """
    top = next((folder / name for name in below if (folder / name).is_dir()), None)
    archive = archive_of(folder, below) if top is None else None
    if top is None and archive is None:
        existing = folder if folder.is_dir() else folder.parent
        expected = " or ".join(str(folder / name) for name in below)
        raise BenchmarkError(
            f"{corpus}'s {folder.name} set not found: looked for the folder {expected}. {existing} contains: "
            f"{listing(existing)}. {how}"
        )
    utterances: list[Utterance] = []
    misplaced: list[str] = []
    left_out = LeftOut(f"{corpus}, {folder.name}")
    if top is None:
        top, found = Path(str(archive)), audio_members(str(archive), misplaced, left_out)
    else:
        found = (
            (speaker.name, video.name, audio_files(video.path, misplaced, left_out))
            for speaker in subfolders(top, misplaced, left_out)
            for video in subfolders(speaker.path, misplaced, left_out)
        )
    for speaker_name, video_name, files in found:
        utterances += [
            Utterance(
                id=f"{speaker_name}/{video_name}/{name}",
                path=path,
                speaker=speaker_name,
                session=video_name,
                split=split,
            )
            for name, path in files.items()
        ]
    if m4a := [path for path in left_out.unreadable() if path.lower().endswith(".m4a")]:
        raise BenchmarkError(
            f"{len(m4a)} utterances under {top} are .m4a without a .wav next to them: {shorten(m4a)}. "
            f".m4a files cannot be read; convert them: find {top} -name '*.m4a' -print0 | xargs -0 -P 8 -I{{}} sh -c "
            """'ffmpeg -nostdin -loglevel error -i "$1" -ac 1 -ar 16000 "${1%.m4a}.wav"' _ {}"""
        )
    raise_misplaced(corpus, misplaced, f"{top}/<speaker>/<video>/<utterance>.wav")
    if not utterances:
        raise BenchmarkError(f"no .wav file in {top}/<speaker>/<video>/. {top} contains: {listing(top)}. {how}")
    left_out.say()
    return sorted(utterances, key=lambda utterance: utterance.id)


def warn_about_missing_speakers(
    meta: Path, separator: str, speakers: Collection[str | None], part: str | None = None
) -> None:
    """Log which speakers of ``vox1_meta.csv`` or ``vox2_meta.csv`` are not among ``speakers``.

    The table has a header; its first column is the speaker, its last one the set (``dev`` or ``test``); ``part``: only
    speakers of this set.
    """
    if not meta.is_file():
        return
    lines = [line for _, line in text.lines(meta, western=True)][1:]
    rows = [[cell.strip() for cell in line.split(separator)] for line in lines]
    absent = sorted({row[0] for row in rows if part is None or row[-1] == part} - set(speakers))
    if absent:
        log.warning("%s lists %d speakers that are not in the tree: %s", meta, len(absent), shorten(absent))
