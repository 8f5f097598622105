"""The corpus ``debian_speech``: splits and trial lists of the protocols ``real_…``.

::

    <root>/DebianSpeech/asterisk_en.jsonl …          a manifest a source; see downstream.corpora.debian_speech
    <root>/DebianSpeech/asterisk_en-4kHz.jsonl …     the same audio without what lies above 4 kHz
    <root>/LibriSpeech/test-other/…                  if it is there, a further test set

Which sources are on which side is decided here, by source, speaker or file, never within a voice, except in English and
Russian recognition, whose cards say so.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from benchmark.data import manifest
from benchmark.data.trials import read_trials
from benchmark.errors import BenchmarkError, MissingData
from benchmark.interfaces import Corpus, Trial, Utterance
from downstream.corpora import librispeech
from downstream.corpora.debian_speech.building import FOLDER, MARKER
from downstream.corpora.debian_speech.trials import TRIALS

log = logging.getLogger("wavbench")

LANGUAGES = ("en", "es", "fr", "it", "ru")
_CORE = [f"asterisk_{language}" for language in LANGUAGES]
_OTHERS = ["drascula_en", "drascula_es", "prompts_fr", "prompts_it", "festvox_ru"]
_MORE_DEV = ["tuxpaint_es", "tuxpaint_fr", "tuxpaint_ru", "klettres_it", "ktuberling_it"]
LID: Mapping[str, Sequence[str]] = {
    "lid1-train": ["amazon_queen", "drascula_es", "prompts_es", "prompts_fr", "prompts_it", "festvox_ru"],
    "lid1-dev": ["drascula_en", *_MORE_DEV],
    "lid1-test": _CORE,
    "lid2-train": _CORE,
    "lid2-dev": ["amazon_queen", *_MORE_DEV],
    "lid2-test": [*_OTHERS, "prompts_es"],
}
"""Split of language identification -> the sources whose 4 kHz versions it has."""

LID_MOST = {"train": None, "dev": 60, "test": 150}
"""Clips of a source in the sets of language identification, at most, evenly spaced by name: where a source is one
voice, more of it would cost more than they tell."""

FISH_DEV_LEVELS = 7
"""Every seventh level of the game, by name, is dev."""

QUEEN_TEST = ("FAYE4.DOG", "JIM1.DOG", "MAN1.DOG", "MAN2.DOG", "WITCH1.DOG")
QUEEN_DEV = ("BOB2.DOG", "FRANK.DOG", "NAOMI.DOG")
"""Dialogues that English recognition does not train on."""
RU_HELD = 60
"""Sentences of festvox_ru, a novel in its order, that are test (the last) and dev (those before); at most a fifth."""

VOICES = ("henry", "joe", "bob", "frank", "chief", "faye", "sec", "death", "jim", "klunk", "naomi", "oracle", "witch",
          "zombie")  # fmt: skip
"""Characters of Flight of the Amazon Queen that a speaker encoder tells apart; others share actors."""

_HELP = (
    "Make it: python -m downstream.corpora.debian_speech <data root> (docs/real-speech.md). "
    "Point to the data root with --data-root DIR or $BENCHMARK_DATA"
)


def prepare(root: Path) -> Corpus:
    """Read the manifests of the sources that are there; a split of which a source is missing is left out.

    Args:
        root: the data root, the folder that holds ``DebianSpeech`` and perhaps ``LibriSpeech``.

    Returns:
        Language identification: ``lid1-…``, ``lid2-…`` and ``fish-…``, each ``train``, ``dev`` and ``test``.
        Recognition: ``en-…`` and ``ru-…``, ``asterisk-en``, and ``librispeech-test-other`` if it is there. Speakers:
        ``sv-train``, ``sv-dev``, the clips of the trials ``sv-en`` and ``sv-es``, and the lists of the same names.

    Raises:
        BenchmarkError: the folder is not there, or a manifest is broken.
    """
    root = Path(root)
    folder = root / FOLDER
    if not folder.is_dir():
        raise MissingData(f"{FOLDER} not found: looked for the folder {folder}. {_HELP}")
    sources = _Sources(folder)
    splits: dict[str, list[Utterance]] = {}
    trials: dict[str, Sequence[Trial]] = {}
    for name, wanted in LID.items():
        splits[name] = sources.join([f"{source}-4kHz" for source in wanted], LID_MOST[name.rpartition("-")[2]])
    _fish(sources, splits)
    _english(sources, splits)
    if (root / librispeech.FOLDER / "test-other").is_dir():
        splits["librispeech-test-other"] = librispeech.prepare(root).splits["test-other"]
    russian = [u for u in sources.join(["festvox_ru"]) if u.text]
    if russian:
        held = min(RU_HELD, len(russian) // 5)
        edges = len(russian) - 2 * held, len(russian) - held
        splits |= {"ru-train": russian[: edges[0]], "ru-dev": russian[slice(*edges)], "ru-test": russian[edges[1] :]}
    _speakers(folder, sources, splits, trials)
    found = {name: sorted(those, key=lambda u: u.id) for name, those in splits.items() if those}
    if not found:
        raise MissingData(f"{folder} has no sources of any split. {_HELP}")
    return Corpus("debian_speech", found, trials)


class _Sources:
    """The manifests of a folder, each read once."""

    def __init__(self, folder: Path) -> None:
        if not (folder / MARKER).is_file():
            raise BenchmarkError(f"{folder} was not made by this program, or not to its end. {_HELP}")
        self._folder = folder
        self._read: dict[str, list[Utterance]] = {}

    def join(self, names: Sequence[str], most: int | None = None) -> list[Utterance]:
        """The utterances of manifests, ``most`` of each, by id; none where a manifest is missing."""
        if not all((self._folder / f"{name}.jsonl").is_file() for name in names):
            return []
        for name in names:
            if name not in self._read:
                self._read[name] = manifest.read(self._folder / f"{name}.jsonl")
        return sorted((u for name in names for u in _spaced(self._read[name], most)), key=lambda u: u.id)


def _spaced(utterances: Sequence[Utterance], most: int | None) -> Sequence[Utterance]:
    if most is None or len(utterances) <= most:
        return utterances
    return [utterances[i * len(utterances) // most] for i in range(most)]


def _fish(sources: _Sources, splits: dict[str, list[Utterance]]) -> None:
    """The same levels are dev in both languages, for the lines of both are translations of each other."""
    both = sources.join(["fillets_cs-4kHz", "fillets_nl-4kHz"])
    levels = sorted({_level(u) for u in both})
    dev = set(levels[::FISH_DEV_LEVELS])
    big = [u for u in both if str(u.speaker).endswith("/big_fish")]
    splits["fish-train"] = [u for u in big if _level(u) not in dev]
    splits["fish-dev"] = [u for u in big if _level(u) in dev]
    splits["fish-test"] = [u for u in both if str(u.speaker).endswith("/small_fish")]


def _level(utterance: Utterance) -> str:
    return str(utterance.session).split("/")[1]


def _english(sources: _Sources, splits: dict[str, list[Utterance]]) -> None:
    """Dialogues are whole in one split; a text that test or dev has is not in training, and none is there twice."""
    queen = [u for u in sources.join(["amazon_queen"]) if u.text]

    def of(dialogues: Collection[str]) -> list[Utterance]:
        return [u for u in queen if _level(u) in dialogues]

    test, dev = _without_repeats(of(QUEEN_TEST), set()), of(QUEEN_DEV)
    dev = _without_repeats(dev, {u.text for u in test})
    held = {u.text for u in (*test, *dev)}
    train = _without_repeats([u for u in queen if _level(u) not in (*QUEEN_TEST, *QUEEN_DEV)], held)
    splits |= {"en-train": train, "en-dev": dev, "en-test": test}
    splits["asterisk-en"] = _without_repeats([u for u in sources.join(["asterisk_en"]) if u.text], set())


def _without_repeats(utterances: Sequence[Utterance], known: Collection[str | None]) -> list[Utterance]:
    """The first of each text, of those that are not known."""
    first: dict[str | None, Utterance] = {}
    for utterance in utterances:
        if utterance.text not in known:
            first.setdefault(utterance.text, utterance)
    return list(first.values())


def _speakers(
    folder: Path, sources: _Sources, splits: dict[str, list[Utterance]], trials: dict[str, Sequence[Trial]]
) -> None:
    queen = sources.join(["amazon_queen"])
    splits["sv-train"] = [u for u in queen if str(u.speaker).split("/")[1] in VOICES]
    splits["sv-dev"] = [u for u in sources.join(["fillets_cs", "fillets_nl"]) if _is_fish(u)]
    for source in TRIALS:
        path, name = folder / f"{source}.trials", f"sv-{source[-2:]}"
        utterances = {u.id: u for u in sources.join([source])}
        if path.is_file() and utterances:
            trials[name] = read_trials(path, utterances)
            named = {trial.enrolment for trial in trials[name]} | {trial.test for trial in trials[name]}
            splits[name] = [utterances[id_] for id_ in sorted(named)]


def _is_fish(utterance: Utterance) -> bool:
    return str(utterance.speaker).endswith("_fish")
