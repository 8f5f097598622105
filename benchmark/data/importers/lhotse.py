"""lhotse manifests, read by lhotse."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmark.data import headers
from benchmark.data.importers.common import Finder, contents, gender, lines
from benchmark.errors import BenchmarkError, raise_problems, shorten, show
from benchmark.interfaces import Corpus, Utterance

log = logging.getLogger("wavbench")

_SLACK = 0.01
"""Seconds by which a supervision may reach beyond its cut, as rounded times do."""
_ROUNDED = 1e-3
"""Seconds by which the duration of a recording may differ from that of its file, with which it is the same."""
_HARMLESS = {"Resample"}
"""Transforms of a recording that loading does as well."""

_Cuts = Callable[[list[str]], Iterator[tuple[str, Any]]]
"""Takes a list for problems; yields (``file:line``, cut)."""


def read(source: Path, output: Path, labels: Sequence[str] = ()) -> Corpus:
    """lhotse manifests.

    Args:
        source: cuts as ``CutSet.to_file`` writes them (``.jsonl`` or ``.jsonl.gz``), or a folder of files with ``cuts``
            in their names, or with pairs of ``recordings`` and ``supervisions``; a split each. ``x_cuts_dev.jsonl.gz``
            is the split ``dev``.
        output: not used; nothing is written.
        labels: keys of ``SupervisionSegment.custom`` to take; their values must be strings.

    Returns:
        An utterance per supervision, ``session`` its recording. In a file without any supervisions, one per cut.

    Raises:
        BenchmarkError: lhotse is not installed; cuts that are not utterances: mixes, one channel of several, perturbed
            recordings, supervisions that the cut contains in part; audio that lies in no file.
    """
    try:
        import lhotse  # noqa: F401
    except ImportError as error:
        raise BenchmarkError(
            "importing lhotse manifests needs lhotse: pip install 'wavbench[lhotse]' (in a checkout: pip install -e "
            f"'.[lhotse]'). {error}"
        ) from error
    source = Path(source)
    cuts = {_split(source, "cuts"): source} if source.is_file() else _files(source, "cuts")
    splits: dict[str, _Cuts] = {name: partial(_items, file) for name, file in cuts.items()}
    if not splits:
        supervisions = _files(source, "supervisions")
        splits = {
            name: partial(_join, file, supervisions[name])
            for name, file in _files(source, "recordings").items()
            if name in supervisions
        }
    if not splits:
        raise BenchmarkError(
            f"lhotse manifests not found: looked for {source}/*cuts*.jsonl(.gz), as written by "
            "CutSet.to_file('cuts_train.jsonl.gz'), and for pairs of *recordings*.jsonl(.gz) and "
            f"*supervisions*.jsonl(.gz). {contents(source)}"
        )
    return Corpus("lhotse", {name: _utterances(source, name, cuts, labels) for name, cuts in splits.items()})


def _files(folder: Path, kind: str) -> dict[str, Path]:
    """Split -> file."""
    files: dict[str, Path] = {}
    for file in sorted([*folder.glob(f"*{kind}*.jsonl"), *folder.glob(f"*{kind}*.jsonl.gz")]):
        split = _split(file, kind)
        if files.setdefault(split, file) != file:
            raise BenchmarkError(f"two files of {folder} hold the split '{split}'; {file} is one: rename it")
    return files


def _split(path: Path, kind: str) -> str:
    """``librispeech_cuts_dev-clean.jsonl.gz`` -> ``dev-clean``; ``train_cuts.jsonl`` -> ``train``."""
    before, _, after = path.name.removesuffix(".gz").removesuffix(".jsonl").partition(kind)
    return after.strip("_-.") or before.strip("_-.") or "all"


def _items(path: Path, problems: list[str]) -> Iterator[tuple[str, Any]]:
    """(``file:line``, the cut, recording or supervision of the line)."""
    from lhotse.serialization import deserialize_item

    for where, line in lines(path, problems):
        try:
            yield where, deserialize_item(json.loads(line))
        except (LookupError, TypeError, ValueError, AttributeError, AssertionError, RecursionError) as error:
            problems.append(f"{where}: not as lhotse writes it ({type(error).__name__}: {error})")


def _join(recordings: Path, supervisions: Path, problems: list[str]) -> Iterator[tuple[str, Any]]:
    """Recordings with their supervisions, as cuts."""
    by_recording: dict[str, list[Any]] = {}
    for _, supervision in _items(supervisions, problems):
        by_recording.setdefault(supervision.recording_id, []).append(supervision)
    for where, recording in _items(recordings, problems):
        cut = recording.to_cut()
        cut.supervisions = by_recording.pop(recording.id, [])
        yield where, cut
    if by_recording:
        problems.append(
            f"{supervisions}: {len(by_recording):,} recordings are not in {recordings}: {shorten(by_recording)}"
        )


def _utterances(source: Path, split: str, cuts: _Cuts, labels: Sequence[str]) -> list[Utterance]:
    problems: list[str] = []
    supervised: list[Utterance] = []
    bare: list[Utterance] = []
    places: dict[str, str] = {}
    finder = Finder(source if source.is_dir() else source.parent)
    for where, cut in cuts(problems):
        try:
            utterances = list(_of_cut(cut, finder, split, labels))
        except _RefusedError as error:
            problems.append(f"{where}: cut '{cut.id}' {error}")
            continue
        except (AttributeError, TypeError, ValueError) as error:
            problems.append(f"{where}: not as lhotse writes it ({type(error).__name__}: {error})")
            continue
        for utterance in utterances:
            if places.setdefault(utterance.id, where) != where:
                problems.append(f"{where}: '{utterance.id}' is already at {places[utterance.id]}")
        (supervised if cut.supervisions else bare).extend(utterances)
    if problems:
        raise_problems(f"lhotse manifests of {source}, split '{split}'", problems)
    if supervised and bare:
        log.warning(
            "split '%s': %d cuts have no supervision and are left out: %s",
            split, len(bare), shorten(u.id for u in bare),
        )  # fmt: skip
    return _to_the_end(supervised or bare)


def _to_the_end(utterances: list[Utterance]) -> list[Utterance]:
    """Utterances that last to the end of their file need no duration; those of resampled recordings are rounded."""
    found = headers.read(utterance.path for utterance in utterances)

    def at_end(utterance: Utterance) -> bool:
        header = found[utterance.path]
        if isinstance(header, str) or utterance.duration is None:
            return False
        return abs(utterance.start + utterance.duration - header.frames / header.rate) <= _ROUNDED

    return [replace(utterance, duration=None) if at_end(utterance) else utterance for utterance in utterances]


class _RefusedError(Exception):
    """Why a cut cannot be imported."""


def _of_cut(cut: Any, finder: Finder, split: str, labels: Sequence[str]) -> Iterator[Utterance]:
    from lhotse import MonoCut, MultiCut, SupervisionSegment

    if not isinstance(cut, MonoCut | MultiCut):
        raise _RefusedError(
            f"is a {type(cut).__name__}, not a stretch of one recording; write its audio with CutSet.save_audios"
        )
    if not cut.has_recording:
        raise _RefusedError("has no recording, perhaps only features; audio is needed")
    recording = cut.recording
    changes = {type(transform).__name__ for transform in recording.transforms or ()} - _HARMLESS
    if changes:
        raise _RefusedError(
            f"has a recording that is changed on the fly ({', '.join(sorted(changes))}); use the cuts from before "
            "that, or write the audio with CutSet.save_audios"
        )
    for supervision in cut.supervisions or [SupervisionSegment(cut.id, recording.id, 0.0, cut.duration, cut.channel)]:
        if supervision.start < -_SLACK or supervision.end > cut.duration + _SLACK:
            raise _RefusedError(
                f"contains only a part of supervision '{supervision.id}' "
                f"({supervision.start:.2f}–{supervision.end:.2f} s of a cut of {cut.duration:.2f} s), so its text may "
                "not be what is heard; use cuts.trim_to_supervisions()"
            )
        custom = {name: (supervision.custom or {}).get(name) for name in labels}
        for name, value in custom.items():
            if value is not None and not isinstance(value, str):
                raise _RefusedError(f"has the label {name}={show(value)}; expected a string")
        for name in ("id", "text", "speaker", "language"):
            value = getattr(supervision, name)
            if not isinstance(value, str) and (value is not None or name == "id"):
                raise _RefusedError(f"has a supervision whose {name} is {show(value)}; expected a string")
        start = round(cut.start + max(supervision.start, 0.0), 8)
        stop = round(cut.start + min(supervision.end, cut.duration), 8)
        yield Utterance(
            id=supervision.id,
            path=_file(recording, cut.channel if isinstance(cut.channel, int) else supervision.channel, finder),
            start=start,
            duration=round(stop - start, 8),
            text=supervision.text,
            speaker=supervision.speaker,
            language=supervision.language,
            gender=gender(supervision.gender),
            session=recording.id,
            split=split,
            labels={name: value for name, value in custom.items() if value is not None},
        )


def _file(recording: Any, channel: int | list[int], finder: Finder) -> str:
    """The file that holds exactly these channels."""
    channels = {channel} if isinstance(channel, int) else set(channel)
    source = next((source for source in recording.sources if channels <= set(source.channels)), None)
    if source is None:
        raise _RefusedError(f"has channels {sorted(channels)}, but its recording has no file with them")
    if source.type != "file":
        raise _RefusedError(f"has audio of type '{source.type}', not a file; CutSet.save_audios writes files")
    if channels != set(source.channels):
        raise _RefusedError(
            f"is channel {', '.join(map(str, sorted(channels)))} of the {len(source.channels)} channels of "
            f"{source.source}; an utterance has no channel: write each into a file (CutSet.save_audios)"
        )
    path = finder.find(source.source)
    if path is None:
        raise _RefusedError(
            f"has the relative path {source.source}, which is neither in {finder.folder} nor in the folders above nor "
            "in the current one; run this where the manifests were made"
        )
    return path
