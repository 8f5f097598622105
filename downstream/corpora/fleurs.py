"""FLEURS in its official layout.

::

    <root>/fleurs/en_us/train.tsv                no header: id, file, text as written, text, characters, samples, gender
    <root>/fleurs/en_us/audio/train/1001….wav    102 languages, about 10 hours of training data each

The publishers' repository keeps the languages (its *configs*) in ``data/``; ``fleurs/data/<config>`` is read too. The
audio comes as ``audio/train.tar.gz``, to be unpacked next to it. An id identifies a sentence, read by up to three
speakers, who are not named. The same id in two languages is a translation. ``text`` is the fourth column, in lower case
and without punctuation, so that the corpus can be used for ASR too.

Conneau et al.: FLEURS: Few-shot learning evaluation of universal representations of speech, SLT 2022.
"""

from __future__ import annotations

import logging
from pathlib import Path

from benchmark.errors import BenchmarkError, shorten
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

FOLDER = "fleurs"
SPLITS = ("train", "dev", "test")
COLUMNS = ("id", "file name", "text as written", "text", "characters", "number of samples", "gender")
GENDERS = {"MALE": "m", "FEMALE": "f", "OTHER": None}
CONFIGS = 102

PAGE = "https://huggingface.co/datasets/google/fleurs"
_HELP = (
    f"Expected layout: <data root>/{FOLDER}/<config>/{{train,dev,test}}.tsv and "
    f"{FOLDER}/<config>/audio/{{train,dev,test}}/*.wav, with configs such as en_us. Get data/<config> from {PAGE} and "
    f"unpack audio/*.tar.gz in place. {DATA_ROOT.format(FOLDER)}"
)


def prepare(root: Path, *, training: bool = True) -> Corpus:
    """Read the tables and list the audio; no audio file is opened.

    Args:
        root: the data root, the folder that holds ``fleurs``.
        training: false: leave ``train`` out, and ``dev`` or ``test`` where no config has its audio.

    Returns:
        splits ``train``, ``dev`` and ``test``, sorted by id, ``<config>/<split>/<file>``. ``language`` is the config.
        Configs may be missing.

    Raises:
        BenchmarkError: a table or its audio is missing, or a line is malformed, named as ``file:line``.
    """
    folder = find_folder(Path(root), "FLEURS", (FOLDER,), _HELP, ("*/train.tsv", "data/*/train.tsv"))
    if (folder / "data").is_dir():
        folder = folder / "data"
    configs = [
        name
        for name in folders(folder)
        if (folder / name / "audio").is_dir() or any((folder / name / f"{split}.tsv").is_file() for split in SPLITS)
    ]
    if not configs:
        raise BenchmarkError(
            f"no config in {folder}: looked for <config>/train.tsv. {folder} contains: {listing(folder)}. {_HELP}"
        )
    of_any = {split for split in SPLITS if any((folder / config / "audio" / split).is_dir() for config in configs)}
    wanted = SPLITS if training else sorted(of_any - {"train"})
    missing = [
        str(path)
        for config in configs
        for split in wanted
        for path in (folder / config / f"{split}.tsv", folder / config / "audio" / split)
        if not (path.is_file() if path.suffix else path.is_dir())
    ]
    if missing:
        packed = [f"{path}.tar.gz" for path in missing if Path(f"{path}.tar.gz").is_file()]
        hint = f"Unpack {shorten(packed)} first (tar xzf, in the same folder). " if packed else ""
        raise BenchmarkError(f"FLEURS is incomplete, {len(missing)} are missing: {shorten(missing)}. {hint}{_HELP}")
    left_out = LeftOut("FLEURS")
    others = [str(folder / name) for name in folders(folder) if name not in configs]
    left_out.add("folders hold neither a table nor audio", *others)
    splits = {split: [u for config in configs for u in _read(folder / config, split, left_out)] for split in wanted}
    left_out.say()
    if len(configs) != CONFIGS:
        log.info("%s has %d configs; FLEURS was published with %d", folder, len(configs), CONFIGS)
    return Corpus("fleurs", {split: sorted(those, key=lambda u: u.id) for split, those in splits.items()})


def _read(folder: Path, split: str, left_out: LeftOut) -> list[Utterance]:
    """The utterances of one config's table that have audio."""
    table = folder / f"{split}.tsv"
    misplaced: list[str] = []
    audio = audio_files(folder / "audio" / split, misplaced, left_out)
    raise_misplaced("FLEURS", misplaced, f"{folder / 'audio' / split}/<file>.wav")
    names = Names(audio)
    rows: dict[str, Utterance] = {}
    absent: list[str] = []
    for number, line in lines(table):  # not csv: quotes are plain characters here
        fields = line.split("\t")
        place = f"{table}:{number}"
        if len(fields) != len(COLUMNS):
            raise BenchmarkError(
                f"{place}: expected {len(COLUMNS)} tab-separated columns ({', '.join(COLUMNS)}), got {len(fields)}: "
                f"{line[:120]!r}"
            )
        sentence, file, _, text, _, samples, gender = (field.strip() for field in fields)
        if not sentence.isdecimal() or not samples.isdecimal() or gender not in GENDERS or not file.endswith(".wav"):
            raise BenchmarkError(
                f"{place}: expected a number, a .wav file, three texts, a number and one of {', '.join(GENDERS)}, got "
                f"id {sentence!r}, file name {file!r}, number of samples {samples!r}, gender {gender!r}"
            )
        if names.find(file) in rows:
            raise BenchmarkError(f"{place}: {file} is duplicated; every file has one line")
        name = names.find(file)
        if name is None:
            absent.append(f"{file} ({place})")
            continue
        rows[name] = Utterance(
            id=f"{folder.name}/{split}/{name}",
            path=audio[name],
            text=text,
            language=folder.name,
            split=split,
            gender=GENDERS[gender],
        )
    if absent:
        raise BenchmarkError(
            f"{len(absent)} of the files that {table} lists are not in {folder / 'audio' / split}: {shorten(absent)}. "
            f"Unpack {split}.tar.gz again, or delete their lines"
        )
    if not rows:
        raise BenchmarkError(f"{table} is empty. Get it again from {PAGE} (data/{folder.name}/{split}.tsv)")
    left_out.add("files are in none of the tables", *(audio[name] for name in audio.keys() - rows.keys()))
    return list(rows.values())
