"""Recordings -> FLAC files, manifests and a table of sources: in parallel, resumable, the same each time."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future, as_completed
from pathlib import Path
from typing import Any

from benchmark.data import manifest
from benchmark.data.trials import write_trials
from benchmark.errors import BenchmarkError
from benchmark.files import cache_dir, remove_partial, write_bytes, write_text
from benchmark.interfaces import Utterance
from downstream.corpora.debian_speech.clips import Clip, by_source, excluded, transcript
from downstream.corpora.debian_speech.packages import fetch, read_packages, unpack
from downstream.corpora.debian_speech.sources import COLLECTIONS, Collection, Recording, recordings
from downstream.corpora.debian_speech.trials import TRIALS, make_trials
from downstream.corpora.processes import processes

FOLDER = "DebianSpeech"
"""In the data root."""
VERSION = 1
"""Of the output: increase it when the same packages give other audio or other names."""
MARKER = "debian_speech.json"
SHORTEST, LONGEST = 0.3, 30.0
"""Seconds; 30 is what Whisper hears at a time."""
SILENCE = 0.01
"""Of full scale: recordings whose highest sample is below it are silent."""
NARROWED = {
    "asterisk_en": None, "asterisk_es": None, "asterisk_fr": None, "asterisk_it": None, "asterisk_ru": None,
    "amazon_queen": 2400, "drascula_en": None, "drascula_es": None, "festvox_ru": 2400,
    "prompts_es": None, "prompts_fr": None, "prompts_it": None,
    "tuxpaint_es": None, "tuxpaint_fr": None, "tuxpaint_ru": None,
    "klettres_it": None, "ktuberling_it": None, "fillets_cs": None, "fillets_nl": None,
}  # fmt: skip
"""Sources of language identification -> seconds that are taken of them at most."""
NARROW_SHORTEST = {"klettres_it": 0.5, "ktuberling_it": 0.5}
"""Source -> seconds of the shortest clip that is taken of it; all others: 1. Shorter ones are a word or less."""
NOT_NARROWED = ("letters", "phonetic")
"""Kinds of prompts: names of letters, and the telephone's alphabet, which is the same in several languages."""
_CHUNK = 40
"""Recordings that a process is given at a time."""
_REMOVE = "Remove the folder, or choose another data root"


def build(
    root: Path,
    collections: Sequence[str] = tuple(COLLECTIONS),
    *,
    debs: Path | None = None,
    mirror: str | None = None,
    workers: int | None = None,
) -> None:
    """Write ``<root>/DebianSpeech``; what is there is kept, what is missing is added.

    Args:
        root: the data root, as ``--data-root`` takes it.
        collections: names of :data:`.sources.COLLECTIONS`.
        debs: folder of ``.deb`` files that are at hand.
        mirror: root of a Debian mirror.
        workers: processes; ``None``: one a core.

    Raises:
        BenchmarkError: a package that is not there or not the pinned one, a folder of another origin or version, audio
            that cannot be decoded, a disk that is full.
    """
    folder = Path(root) / FOLDER
    _claim(folder)
    remove_partial(folder)
    table = read_packages()
    missing = [COLLECTIONS[name] for name in collections if not _state(folder, name).exists()]
    needed = dict.fromkeys(name for collection in missing for name in collection.packages)
    files = fetch([table[name] for name in needed], cache_dir() / "debian", debs, mirror)
    with processes(workers) as pool:
        _decode_all(folder, missing, files, pool)
        done = [name for name in COLLECTIONS if _state(folder, name).exists()]
        clips = [clip for name in done for clip in read_state(folder, name)]
        _write_manifests(folder, clips)
        for source, those in by_source(clips).items():
            if source in TRIALS:
                write_trials(folder / f"{source}.trials", make_trials(those))
        _write_table(folder, clips)
        _write_narrow(folder, clips, pool)


def _claim(folder: Path) -> None:
    marker = folder / MARKER
    wanted = {"version": VERSION}
    if marker.exists():
        found = json.loads(marker.read_text(encoding="utf-8"))
        if found != wanted:
            raise BenchmarkError(f"{folder} was made by version {found.get('version')} of this program, {VERSION} is "
                                 f"needed. {_REMOVE}")  # fmt: skip
    elif folder.exists() and any(folder.iterdir()):
        raise BenchmarkError(f"{folder} is not empty and was not made by this program. {_REMOVE}")
    else:
        write_text(marker, json.dumps(wanted) + "\n")


def _submit(pool: Executor | None, function: Any, *arguments: Any) -> Future[Any]:
    """As the pool does; in this process if there is none."""
    if pool is not None:
        return pool.submit(function, *arguments)
    future: Future[Any] = Future()
    try:
        future.set_result(function(*arguments))
    except Exception as error:
        future.set_exception(error)
    return future


def _state(folder: Path, collection: str) -> Path:
    """Written when all of a collection's audio is."""
    return folder / "clips" / f"{collection}.jsonl"


def read_state(folder: Path, collection: str) -> list[Clip]:
    """The clips of a collection, those without audio as well."""
    lines = _state(folder, collection).read_text(encoding="utf-8").splitlines()
    return [Clip(**json.loads(line)) for line in lines]


# ------------------------------------------------------------------------------------------------------ decoding


def _decode_all(folder: Path, missing: Sequence[Collection], files: Mapping[str, Path], pool: Executor | None) -> None:
    """One collection is unpacked while the one before it is decoded."""
    from tqdm import tqdm

    with tqdm(total=0, desc="decoding", unit="clip", disable=None) as bar:
        waiting: tuple[Collection, list[Future[list[Clip]]]] | None = None
        for collection in missing:
            content: dict[str, bytes] = {}
            for package in collection.packages:
                content |= unpack(files[package], collection.wanted)
            found = recordings(collection, content)
            del content
            bar.total += len(found)
            bar.refresh()
            chunks = [found[i : i + _CHUNK] for i in range(0, len(found), _CHUNK)]
            futures = [_submit(pool, decode_chunk, folder, chunk) for chunk in chunks]
            if waiting is not None:
                _finish(folder, *waiting, bar)
            waiting = (collection, futures)
        if waiting is not None:
            _finish(folder, *waiting, bar)


def _finish(folder: Path, collection: Collection, futures: Sequence[Future[list[Clip]]], bar: Any) -> None:
    for future in as_completed(futures):
        bar.update(len(future.result()))
    clips = [clip for future in futures for clip in future.result()]
    lines = [json.dumps(vars(clip), ensure_ascii=False) for clip in clips]
    write_text(_state(folder, collection.name), "\n".join([*lines, ""]))


def decode_chunk(folder: Path, chunk: Sequence[Recording]) -> list[Clip]:
    """Write the audio of recordings, where it is not there yet."""
    import torch

    torch.set_num_threads(1)
    return [_decode(folder, recording) for recording in chunk]


def _decode(folder: Path, recording: Recording) -> Clip:
    import numpy as np
    import soundfile

    from downstream.corpora.debian_speech.decode import SAMPLE_RATE, decode, write_flac

    def clip(seconds: float, dropped: str = "") -> Clip:
        kept = {name: getattr(recording, name) for name in Clip.__dataclass_fields__ if hasattr(recording, name)}
        return Clip(**kept, seconds=round(seconds, 3), dropped=dropped)

    path = folder / clip(0).path
    if path.exists():
        return clip(soundfile.info(str(path)).frames / SAMPLE_RATE)
    try:
        samples = decode(recording.data, recording.kind)
    except ValueError:
        return clip(0, "undecodable")
    seconds = len(samples) / SAMPLE_RATE
    if seconds < SHORTEST:
        return clip(seconds, "under 0.3 s")
    if seconds > LONGEST:
        return clip(seconds, "over 30 s")
    if np.abs(samples).max() < SILENCE:
        return clip(seconds, "silent")
    write_flac(path, samples)
    return clip(seconds)


def narrow_chunk(folder: Path, chunk: Sequence[Clip]) -> int:
    """Write the 4 kHz versions of clips, where they are not there yet."""
    import soundfile
    import torch

    from downstream.corpora.debian_speech.decode import narrow, write_flac

    torch.set_num_threads(1)
    for clip in chunk:
        path = folder / clip.narrow_path
        if not path.exists():
            samples, _ = soundfile.read(str(folder / clip.path), dtype="float32")
            write_flac(path, narrow(samples))
    return len(chunk)


# ----------------------------------------------------------------------------------------------------- manifests


def _utterance(folder: Path, clip: Clip, path: str, text: str | None) -> Utterance:
    return Utterance(
        id=clip.id,
        path=str(folder / path),
        text=text,
        speaker=clip.speaker,
        language=clip.language,
        session=clip.session,
        gender=clip.gender,
    )


def _write_manifest(path: Path, utterances: Sequence[Utterance]) -> None:
    if utterances:
        manifest.write(path, sorted(utterances, key=lambda utterance: utterance.id))


def _write_manifests(folder: Path, clips: Sequence[Clip]) -> None:
    wrong = excluded()
    for source, those in by_source(clips).items():
        utterances = [
            _utterance(folder, clip, clip.path, transcript(clip, wrong)[0]) for clip in those if not clip.dropped
        ]
        _write_manifest(folder / f"{source}.jsonl", utterances)


def narrowed(source: str, clips: Sequence[Clip]) -> list[Clip]:
    """Which clips of a source language identification takes: in the order of a hash, as long as there is room."""
    limit = NARROWED[source] or float("inf")
    chosen: list[Clip] = []
    total = 0.0
    for clip in sorted(clips, key=lambda clip: hashlib.sha256(clip.id.encode()).hexdigest()):
        if clip.dropped or clip.seconds < NARROW_SHORTEST.get(source, 1.0) or clip.labels.get("kind") in NOT_NARROWED:
            continue
        if total + clip.seconds <= limit:
            chosen.append(clip)
            total += clip.seconds
    return sorted(chosen, key=lambda clip: clip.id)


def _write_narrow(folder: Path, clips: Sequence[Clip], pool: Executor | None) -> None:
    """Audio and manifests, source by source in the order of :data:`NARROWED`."""
    from tqdm import tqdm

    known = by_source(clips)
    chosen = {source: narrowed(source, known[source]) for source in NARROWED if source in known}
    chunks = {
        source: [
            _submit(pool, narrow_chunk, folder, those[start : start + _CHUNK]) for start in range(0, len(those), _CHUNK)
        ]
        for source, those in chosen.items()
    }
    with tqdm(total=sum(map(len, chosen.values())), desc="limiting to 4 kHz", unit="clip", disable=None) as bar:
        for source, those in chosen.items():
            for future in as_completed(chunks[source]):
                bar.update(future.result())
            utterances = [_utterance(folder, clip, clip.narrow_path, None) for clip in those]
            _write_manifest(folder / f"{source}-4kHz.jsonl", utterances)


# -------------------------------------------------------------------------------------------- the table of sources

COLUMNS = ("source", "language", "speakers", "clips", "minutes", "clips with text", "minutes with text",
           "not decoded or kept", "without text", "packages", "licence", "credit")  # fmt: skip


def table(clips: Sequence[Clip]) -> list[dict[str, str]]:
    """A row a source, of :data:`COLUMNS`."""
    packages, wrong = read_packages(), excluded()
    collection = {clip.source: clip.source for clip in clips} | {
        clip.source: name for clip in clips for name in COLLECTIONS if clip.source.startswith(name)
    } | {clip.source: "kde" for clip in clips if clip.source.startswith(("klettres", "ktuberling"))}  # fmt: skip
    rows = []
    for source, those in by_source(clips).items():
        kept = [clip for clip in those if not clip.dropped]
        texts = [transcript(clip, wrong) for clip in kept]
        spoken = [clip.seconds for clip, (text, _) in zip(kept, texts, strict=True) if text is not None]
        own = COLLECTIONS[collection[source]].packages
        own = tuple(name for name in own if collection[source] != "kde" or name.startswith(source.split("_")[0]))
        rows.append({
            "source": source,
            "language": those[0].language,
            "speakers": str(len({clip.speaker for clip in kept})),
            "clips": str(len(kept)),
            "minutes": f"{sum(clip.seconds for clip in kept) / 60:.1f}",
            "clips with text": str(len(spoken)),
            "minutes with text": f"{sum(spoken) / 60:.1f}",
            "not decoded or kept": _counts(clip.dropped for clip in those if clip.dropped),
            "without text": _counts(reason for text, reason in texts if text is None),
            "packages": " ".join(f"{name}={packages[name].version}" for name in own),
            "licence": packages[own[0]].licence,
            "credit": packages[own[0]].credit,
        })  # fmt: skip
    return rows


def _counts(reasons: Iterable[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(Counter(reasons).items()))


def _write_table(folder: Path, clips: Sequence[Clip]) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, COLUMNS, delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(table(clips))
    write_bytes(folder / "SOURCES.tsv", buffer.getvalue().encode())
