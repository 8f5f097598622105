"""VoxCeleb1, with its trial lists and identification split, and VoxCeleb2."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from downstream.corpora.synthetic.layout import Layout, Texts
from downstream.corpora.synthetic.recording import Clip
from downstream.corpora.synthetic.sentences import english_sentence, words_in
from downstream.corpora.synthetic.sizes import Size
from downstream.corpora.synthetic.voices import ACCENTS, Speaker, draw_speaker, generator

if TYPE_CHECKING:
    import numpy as np


def video_name(rng: np.random.Generator) -> str:
    """A name as YouTube gives them."""
    alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
    return "".join(rng.choice(list(alphabet), size=11))


def _interview(
    rng: np.random.Generator,
    speaker: Speaker,
    folder: str,
    seed: int,
    videos: int,
    utterances: int,
    seconds: tuple[float, float],
) -> list[Clip]:
    """A speaker's clips: ``<folder>/<video>/<utterance>.wav``."""
    clips = []
    for _ in range(videos):
        video = video_name(rng)
        for k in range(1, utterances + 1):
            length = round(rng.uniform(*seconds), 2)
            text = english_sentence(rng, words_in(rng, length))
            session = f"{seed} {Path(folder).name} {video}"
            clips.append(Clip(f"{folder}/{video}/{k:05d}.wav", speaker, speaker.accent, text, length, session, 0.4))
    return clips


Pair = tuple[str, str]


def _trial_lists(
    rng: np.random.Generator, same: Sequence[Pair], different: Sequence[Pair], count: int
) -> tuple[str, str]:
    """An original list and a cleaned one, of ``count`` trials if there are enough pairs."""
    half = min(count // 2, len(same), len(different))
    trials = [f"{label} {a} {b}" for label, pairs in ((1, same), (0, different))
              for a, b in (pairs[k] for k in rng.permutation(len(pairs))[: half + half // 100 + 1])]  # fmt: skip
    trials = [trials[k] for k in rng.permutation(len(trials))]
    # As in the real lists, the cleaned one leaves some trials out.
    dropped = set(rng.permutation(len(trials))[: len(trials) - 2 * half].tolist())
    cleaned = [trial for k, trial in enumerate(trials) if k not in dropped]
    return "\n".join(trials) + "\n", "\n".join(cleaned) + "\n"


def _identification_split(files: Sequence[str]) -> list[str]:
    """Lines of ``iden_split.txt`` for a speaker's files: train, dev and test share no video if there are three."""
    videos = list(dict.fromkeys(file.split("/")[1] for file in files))
    if len(videos) >= 3:
        part = dict.fromkeys(videos, 1) | {videos[-2]: 2, videos[-1]: 3}
        return [f"{part[file.split('/')[1]]} {file}" for file in files]
    last = [file for file in files if file.split("/")[1] == videos[-1]]
    held_out = {file: 2 + k % 2 for k, file in enumerate(last if len(videos) > 1 else last[-2:])}
    return [f"{held_out.get(file, 1)} {file}" for file in files]


def voxceleb1(size: Size, seed: int) -> tuple[list[Clip], Texts]:
    """With the trial lists O, E and H, the identification split and ``vox1_meta.csv``."""
    clips: list[Clip] = []
    meta = ["VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet"]
    split: list[str] = []
    files: dict[str, list[str]] = {}
    voices: dict[str, tuple[str, str]] = {}
    numbers = [("dev", 10001 + k) for k in range(size.vox_dev)] + [("test", 10270 + k) for k in range(size.vox_test)]
    for part, number in numbers:
        name = f"id{number}"
        speaker = draw_speaker(seed, "VoxCeleb1", name)
        voices[name] = speaker.sex, ACCENTS[speaker.accent]
        meta.append(f"{name}\tSynthetic_{number}\t{speaker.sex}\t{ACCENTS[speaker.accent]}\t{part}")
        rng = generator(seed, "VoxCeleb1", name)
        folder = f"{part}/wav/{name}"
        own = _interview(rng, speaker, folder, seed, size.vox_videos, size.vox_utterances, size.vox_seconds)
        clips += own
        files[name] = [clip.path.removeprefix(f"{part}/wav/") for clip in own]
        split += _identification_split(files[name])

    def other_video(names: Iterable[str]) -> list[Pair]:
        return [pair for name in names for pair in combinations(files[name], 2) if pair[0][:19] != pair[1][:19]]

    rng = generator(seed, "VoxCeleb1", "trials")
    test = [f"id{number}" for part, number in numbers if part == "test"]
    different = [(a, b) for x, y in combinations(test, 2) for a in files[x] for b in files[y]]
    original, cleaned = _trial_lists(rng, other_video(test), different, size.vox_trials)
    texts: Texts = {"vox1_meta.csv": "\n".join(meta) + "\n", "iden_split.txt": "\n".join(split) + "\n"}
    texts |= {"veri_test.txt": original, "veri_test2.txt": cleaned}

    # E: all speakers. H: speakers of one sex and nationality.
    everyone = list(combinations(files, 2))
    alike = [(x, y) for x, y in everyone if voices[x] == voices[y]]
    for name, pairs in (("all", everyone), ("hard", alike)):
        rng = generator(seed, "VoxCeleb1", "trials", name)
        same = other_video(dict.fromkeys(speaker for pair in pairs for speaker in pair))
        # At most two trials for each pair of speakers: there are millions.
        drawn = [tuple(files[x][rng.integers(len(files[x]))] for x in pair) for pair in pairs for _ in range(2)]
        different = [(a, b) for a, b in dict.fromkeys(drawn)]
        original, cleaned = _trial_lists(rng, same, different, size.vox_trials)
        texts |= {f"list_test_{name}.txt": original, f"list_test_{name}2.txt": cleaned}
    return clips, texts


def voxceleb2(size: Size, seed: int) -> tuple[list[Clip], Texts]:
    """With the audio as it is after the usual conversion of the published ``dev/aac/**/*.m4a``."""
    clips: list[Clip] = []
    meta = ["VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set"]  # with a space before each comma, as published
    for k in range(size.vox2_speakers):
        number = 12 + 3 * k
        name = f"id{number:05d}"
        speaker = draw_speaker(seed, "VoxCeleb2", name)
        meta.append(f"{name} ,n{number:06d} ,{speaker.sex} ,dev")
        rng = generator(seed, "VoxCeleb2", name)
        folder = f"dev/wav/{name}"
        clips += _interview(rng, speaker, folder, seed, size.vox2_videos, size.vox2_utterances, size.vox2_seconds)
    return clips, {"vox2_meta.csv": "\n".join(meta) + "\n"}


LAYOUTS = (
    Layout("VoxCeleb1", ("voxceleb1", "voxceleb1_identification", "voxceleb2"), ("vox_",), voxceleb1),
    Layout("VoxCeleb2", ("voxceleb2",), ("vox2_",), voxceleb2),
)
