"""Hidden states -> a score: the tables of benchmarks (protocol cards), tasks and corpora.

Imports nothing heavy: ``--list`` reads these tables. A new task or corpus is one line here; a new benchmark is one card
in ``downstream/protocols/``.
"""

from __future__ import annotations

from pathlib import Path

from benchmark.errors import BenchmarkError
from benchmark.registry import Entry

_TASKS = {
    "sv": ("downstream.sv.task:SpeakerVerification", "speaker verification: do two utterances have one speaker?"),
    "lid": ("downstream.lid.task:LanguageIdentification", "language identification: which language is spoken?"),
    "sid": ("downstream.sid.task:SpeakerIdentification", "speaker identification: which of the known speakers is it?"),
    "slots": ("downstream.slots.task:SlotClassification", "classification by several labels at once: intents"),
    "classify": ("downstream.classify.task:LabelClassification", "classification by any label of own data (--label)"),
    "asr": ("downstream.asr.task:SpeechRecognition", "speech recognition: characters by CTC"),
}

_CORPORA = {
    "voxlingua107": ("downstream.corpora.voxlingua107:prepare", "VoxLingua107, official layout"),
    "commonlanguage": ("downstream.corpora.commonlanguage:prepare", "CommonLanguage, official layout"),
    "fleurs": ("downstream.corpora.fleurs:prepare", "FLEURS, official layout"),
    "voxceleb1": ("downstream.corpora.voxceleb1:prepare", "VoxCeleb1, official layout and trial lists"),
    "voxceleb1_identification": (
        "downstream.corpora.voxceleb1:prepare_identification",
        "VoxCeleb1, official split for speaker identification",
    ),
    "voxceleb2": ("downstream.corpora.voxceleb2:prepare", "VoxCeleb2 to train on, VoxCeleb1's trial lists to test on"),
    "iemocap": ("downstream.corpora.iemocap:prepare", "IEMOCAP, official layout; four emotions, five folds"),
    "speech_commands": (
        "downstream.corpora.speech_commands:prepare",
        "Speech Commands 0.01, official lists and test",
    ),
    "fluent_speech_commands": (
        "downstream.corpora.fluent_speech_commands:prepare",
        "Fluent Speech Commands, official layout",
    ),
    "librispeech": ("downstream.corpora.librispeech:prepare", "LibriSpeech, official layout"),
    "librilight": (
        "downstream.corpora.librispeech:prepare_limited",
        "LibriSpeech with Libri-light's 10 minutes, 1 hour and 10 hours of labels",
    ),
    "debian_speech": (
        "downstream.corpora.debian_speech.corpus:prepare",
        "human speech out of Debian's packages; makes its own folder",
    ),
}

_LIBRIVOX = ("LibriSpeech", "Libri-Light", "MLS")
_HEARD = {
    "voxlingua107": ("VoxLingua107",),
    "commonlanguage": ("CommonVoice",),  # clips of it
    "fleurs": ("FLEURS",),
    "voxceleb1": ("VoxCeleb1",),
    "voxceleb1_identification": ("VoxCeleb1",),
    "voxceleb2": ("VoxCeleb1", "VoxCeleb2"),
    "librispeech": _LIBRIVOX,
    "librilight": _LIBRIVOX,
    "debian_speech": ("DebianSpeech",),
}
"""Corpus -> corpora with the same recordings or sources, as upstreams' cards name them (``pretrained_on``)."""
_SOURCES = {"debian_speech": {"librispeech-test-other": "librispeech"}}
"""Corpus -> split -> the corpus that it is of, where that is another one."""


def entries() -> list[Entry]:
    """One entry a protocol card; loading and calling it gives the card as a dictionary."""
    from downstream.protocols import read_card

    found = []
    for path in sorted((Path(__file__).parent / "protocols").glob("*.yaml")):
        target = "downstream.protocols:read_card"
        try:
            card = read_card(path)
        except BenchmarkError as error:  # one broken card must not take the others down
            found.append(Entry(path.stem, target, origin=f"card {path}", problem=str(error)))
            continue
        found.append(
            Entry(card["name"], target, summary=card["summary"], aliases=tuple(card["aliases"]), kwargs={"path": path})
        )
    return found


def task_entries() -> list[Entry]:
    """Task names -> :class:`benchmark.interfaces.Task` classes."""
    return [Entry(name, target, summary=summary) for name, (target, summary) in _TASKS.items()]


def corpus_entries() -> list[Entry]:
    """Corpus names -> ``prepare(root: Path) -> Corpus``."""
    synthetic = "downstream.corpora.synthetic:synthesise_quick"
    return [
        Entry(
            name,
            target,
            summary=summary,
            synthetic=synthetic,
            heard=_HEARD.get(name, ()),
            sources=_SOURCES.get(name, {}),
        )
        for name, (target, summary) in _CORPORA.items()
    ]
