"""VoxLingua107 in its official layout, as the languages' archives unpack.

::

    <root>/VoxLingua107/en/<video>---0112.450-0120.310.wav     107 languages, 6,628 hours, cut from videos
    <root>/VoxLingua107/dev/en/<video>---0003.000-0011.200.wav  33 languages, 1,609 utterances, checked by listeners

``VoxLingua107/train/<language>`` (as SpeechBrain's recipe unpacks it) is read too. In names like
``<video>__U__S3---…`` the video is the part before ``__U__``. Languages are ISO 639-1 codes, or 639-3 where there is
none, except two obsolete ones: ``iw`` is read as ``he`` (Hebrew), ``jw`` as ``jv`` (Javanese). There is no validation
set: the task holds videos out of ``train``, and the publishers' ``dev`` is the test set.

Valk, Alumäe: VoxLingua107: a dataset for spoken language recognition, SLT 2021.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from benchmark.errors import BenchmarkError, shorten
from benchmark.interfaces import Corpus, Utterance
from downstream.corpora.tree import (
    DATA_ROOT,
    LeftOut,
    audio_files,
    find_folder,
    folders,
    listing,
    raise_misplaced,
    subfolders,
)  # fmt: skip

log = logging.getLogger("wavbench")

FOLDER = "VoxLingua107"
OBSOLETE = {"iw": "he", "jw": "jv"}
"""The publishers' folders -> current codes (speechbrain #2396)."""
_CODES = """
    ab af am ar as az ba be bg bn bo br bs ca ceb cs cy da de el en eo es et eu fa fi fo fr gl gn gu gv ha haw he hi hr
    ht hu hy ia id is it ja jv ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc pa pl ps pt
    ro ru sa sco sd si sk sl sn so sq sr su sv sw ta te tg th tk tl tr tt uk ur uz vi war yi yo zh
"""
LANGUAGES = frozenset(_CODES.split())
"""The 107, by their current codes."""

PAGE = "https://bark.phon.ioc.ee/voxlingua107/"
_HELP = (
    f"Expected layout: <data root>/{FOLDER}/<language>/<video>---<start>-<end>.wav and "
    f"{FOLDER}/dev/<language>/<video>---<start>-<end>.wav. The archives, one for each language and dev.zip, are at "
    f"{PAGE}; unpack each in its place. {DATA_ROOT.format(FOLDER)}"
)
_NAME = re.compile(r"(?P<video>.+?)(?:__[A-Z]__S\d+)?---\d+\.\d+-\d+\.\d+\.wav")


def prepare(root: Path, *, training: bool = True) -> Corpus:
    """Read the tree. Only file names are read; no file is opened.

    Args:
        root: the data root, the folder that holds ``VoxLingua107``.
        training: false: leave ``train`` out.

    Returns:
        splits ``train`` and ``dev``, sorted by id: ``<language>/<file>``, in dev ``dev/<language>/<file>``, with
        current codes. ``session`` is the video. Languages may be missing.

    Raises:
        BenchmarkError: something is missing, misnamed or duplicated.
    """
    folder = find_folder(Path(root), "VoxLingua107", (FOLDER,), _HELP, ("*/*---*.wav", "dev/*/*---*.wav"))
    left_out = LeftOut("VoxLingua107")
    top = folder / "train" if (folder / "train").is_dir() else folder
    if top != folder:
        beside = [str(folder / name) for name in folders(folder) if name in LANGUAGES or name in OBSOLETE]
        left_out.add("folders lie beside 'train', not in it,", *beside)
    if not (folder / "dev").is_dir():
        raise BenchmarkError(
            f"VoxLingua107's dev set, which is the test set, not found: looked for the folder {folder / 'dev'}. "
            f"{folder} contains: {listing(folder)}. {_HELP}"
        )
    splits = {"train": _read(top, "train", left_out)} if training else {}
    splits["dev"] = _read(folder / "dev", "dev", left_out)
    left_out.say()
    if not training:
        return Corpus("voxlingua107", splits)
    languages = {str(utterance.language) for utterance in splits["train"]}
    if unknown := sorted(languages - LANGUAGES):
        log.warning("%s has languages that VoxLingua107 was not published with: %s", top, shorten(unknown, 8))
    if absent := sorted(LANGUAGES - languages):
        log.info("%s has %d of VoxLingua107's 107 languages; missing: %s", top, 107 - len(absent), shorten(absent, 8))
    return Corpus("voxlingua107", splits)


def _read(top: Path, split: str, left_out: LeftOut) -> list[Utterance]:
    """The utterances of ``<top>/<language>/``, sorted by id."""
    misplaced: list[str] = []
    below = subfolders(top, misplaced, left_out)
    names = sorted(entry.name for entry in below if entry.name not in ("dev", "train"))
    for old, new in OBSOLETE.items():
        if old in names and new in names:
            raise BenchmarkError(
                f"{top} has both {old} and {new}, the obsolete and the current code of one language. If they hold the "
                f"same files, remove one; otherwise move the files of {top / old} to {top / new}"
            )
    prefix = "dev/" if split == "dev" else ""
    utterances: list[Utterance] = []
    misnamed: list[str] = []
    for name in names:
        language = OBSOLETE.get(name, name)
        for file, path in audio_files(top / name, misplaced, left_out).items():
            match = _NAME.fullmatch(file)
            if match is None:
                misnamed.append(path)
                continue
            utterances.append(
                Utterance(
                    id=f"{prefix}{language}/{file}",
                    path=path,
                    language=language,
                    session=match["video"],
                    split=split,
                )
            )
    raise_misplaced("VoxLingua107", misplaced, f"{top}/<language>/<video>---<start>-<end>.wav")
    if misnamed:
        raise BenchmarkError(
            f"{len(misnamed)} .wav files in {top} are not named as in VoxLingua107: {shorten(sorted(misnamed))}. "
            "Expected <video>---<start>-<end>.wav, such as EcFM6Ld_0n4---0112.450-0120.310.wav, so that utterances of "
            "one video can be kept together"
        )
    if not utterances:
        raise BenchmarkError(f"no .wav file in {top}/<language>/. {top} contains: {listing(top)}. {_HELP}")
    return sorted(utterances, key=lambda utterance: utterance.id)
