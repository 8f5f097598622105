"""What ``probe.py`` listens to: the synthetic demo corpora, and human speech that pre-training has not heard."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.data import manifest
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Utterance

CHARACTERS = " 'ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # label k + 1; label 0 is CTC's blank
FOLDS = 3
"""Parts of the clips of a character of Drascula, one of which is tested on."""
LANGUAGES = ("en", "es", "fr", "it", "ru")
LANGUAGE_TRAIN = ("drascula_en", "drascula_es", "prompts_es", "prompts_fr", "prompts_it", "festvox_ru")
CLIPS = 120
"""Of a language, in training and in test."""
TEXT = range(15, 81)
"""Characters of a text of human speech: longer ones cost recognition more than they tell."""


@dataclass(frozen=True)
class Sound:
    """A recording."""

    path: Path
    label: str = ""
    """Its language, or its speaker."""
    group: str = ""
    """What a seed chooses or holds out as a whole."""
    text: str = ""


@dataclass(frozen=True)
class Sets:
    """The files that are listened to."""

    lang_train: list[Sound]
    lang_test: list[Sound]
    speakers: list[Sound]
    text_train: list[Sound]
    text_test: list[Sound]


def transcribed(split: Path, count: int) -> list[Sound]:
    """``count`` utterances of a split of LibriSpeech."""
    said = []
    for file in sorted(split.glob("*/*/*.trans.txt")):
        for line in file.read_text().splitlines():
            name, _, text = line.partition(" ")
            said.append(Sound(file.with_name(f"{name}.flac"), text=text))
    random.Random(0).shuffle(said)
    return said[:count]


def synthetic(root: Path, voices: int, sentences: int) -> Sets:
    """The demo corpora: an utterance of each recording for languages, ``voices`` speakers, ``sentences`` utterances to
    train recognition on and a quarter of it to test."""
    lingua, vox, libri = root / "VoxLingua107", root / "VoxCeleb1" / "dev" / "wav", root / "LibriSpeech"

    def language(path: Path) -> Sound:
        return Sound(path, path.parent.name, path.name[:11])

    def speaker(path: Path) -> Sound:
        return Sound(path, path.parts[-3], path.parts[-2])

    sets = Sets(
        [language(path) for path in sorted(lingua.glob("*/*__S0---*.wav"))],
        [language(path) for path in sorted(lingua.glob("dev/*/*.wav"))],
        [speaker(path) for folder in sorted(vox.glob("*"))[:voices] for path in sorted(folder.glob("*/*.wav"))],
        transcribed(libri / "train-clean-100", sentences),
        transcribed(libri / "test-clean", sentences // 4),
    )
    if not all(vars(sets).values()):
        raise BenchmarkError(f"{root} lacks a corpus: make it by python -m downstream.corpora.synthetic {root}")
    return sets


def real(root: Path, sentences: int) -> Sets:
    """Human speech, of which no test set was heard in distillation.

    - languages: clips of 4 kHz, one source against another, so that speakers and channels of test are new;
    - speakers: characters of Drascula, in English, some clips of each against the others; one session each;
    - recognition: Drascula, in English, against Asterisk's English prompts, another speaker and channel.

    Args:
        root: the folder ``DebianSpeech``.
        sentences: to train recognition on, and a quarter to test.
    """

    def languages(names: Sequence[str]) -> list[Sound]:
        of_language: dict[str, list[Sound]] = {}
        for name in names:
            for u in _in_order_of_hash(root / f"{name}-4kHz.jsonl"):
                of_language.setdefault(str(u.language), []).append(Sound(Path(u.path), str(u.language), u.id))
        return [sound for one in of_language.values() for sound in one[:CLIPS]]

    def said(name: str, count: int) -> list[Sound]:
        transcripts = [u for u in _in_order_of_hash(root / f"{name}.jsonl") if u.text and len(u.text) in TEXT]
        return [Sound(Path(u.path), text=str(u.text)) for u in transcripts[:count]]

    of_speaker: dict[str, list[Sound]] = {}
    for number, u in enumerate(_in_order_of_hash(root / "drascula_en.jsonl")):
        speaker = str(u.speaker)
        of_speaker.setdefault(speaker, []).append(Sound(Path(u.path), speaker, f"{speaker}/{number % FOLDS}"))
    sets = Sets(
        languages(LANGUAGE_TRAIN),
        languages([f"asterisk_{language}" for language in LANGUAGES]),
        [sound for one in of_speaker.values() for sound in one[:30] if len(one) >= 2 * FOLDS],
        said("drascula_en", sentences),
        said("asterisk_en", sentences // 4),
    )
    missing = [name for name, one in vars(sets).items() if not one]
    if missing:
        raise BenchmarkError(f"nothing for {', '.join(missing)}: {root} is made by make real-data")
    return sets


def _in_order_of_hash(path: Path) -> list[Utterance]:
    if not path.exists():
        raise BenchmarkError(f"no manifest {path}: make real-data")
    return sorted(manifest.read(path), key=lambda u: hashlib.sha256(u.id.encode()).hexdigest())
