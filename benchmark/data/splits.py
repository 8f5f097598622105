"""Splits: what they share, what they add up to, and a digest that tells two lists of utterances apart."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.data.headers import TOLERANCE
from benchmark.errors import BenchmarkError, raise_problems
from benchmark.interfaces import Seconds, Utterance
from benchmark.tables import plural


def check_disjoint(splits: Mapping[str, Sequence[Utterance]]) -> None:
    """Refuse splits that share utterances.

    Raises:
        BenchmarkError: an id is in two splits, or a stretch of a file is; see :func:`overlaps`.
    """
    if shared := overlaps(splits):
        raise_problems(f"{' and '.join(splits)} must not share utterances", shared)


def durations(utterances: Iterable[Utterance]) -> dict[str, Seconds]:
    """Utterance id -> duration; an utterance may occur several times."""
    from benchmark.data import audio  # imports torch

    once = {utterance.id: utterance for utterance in utterances}
    return dict(zip(once, audio.durations(list(once.values())).tolist(), strict=True))


def merged(seconds: Mapping[str, Mapping[str, Seconds]]) -> Mapping[str, Seconds]:
    """Durations by split and id -> by id; of equal ids those of the last split."""
    first, *others = {id(of): of for of in seconds.values()}.values()
    return {key: value for of in (first, *others) for key, value in of.items()} if others else first


def check_ids(scored: Iterable[Utterance], support: Iterable[Utterance]) -> None:
    """Refuse utterances that share an id with other audio that they are scored with: predictions are kept by id.

    Raises:
        BenchmarkError: some do.
    """
    places = {utterance.id: utterance.place for utterance in scored}
    shared = [other for other in support if places.get(other.id, other.place) != other.place]
    if shared:
        raise BenchmarkError(
            f"other audio of the run has the same ids as {plural(len(shared), 'utterance')}, the first is "
            f"'{shared[0].id}' ({shared[0].path}); give those that are scored ids of their own (the column id of a "
            "manifest; without one, ids are the paths as they are written)"
        )


def overlaps(splits: Mapping[str, Sequence[Utterance]]) -> list[str]:
    """What any two splits share, a line an item: equal ids, and stretches of one file that overlap (by more than
    :data:`~benchmark.data.headers.TOLERANCE`); and equal ids of different audio in one split.

    Of overlapping stretches each is named with the longest of each other split before it. Links between folders are
    followed. Takes some seconds for a million utterances.
    """
    shared: list[str] = []
    by_id: dict[str, dict[str, Utterance]] = {}
    for name, utterances in splits.items():
        own = by_id[name] = {}
        for utterance in utterances:
            first_of = own.setdefault(utterance.id, utterance)
            if first_of.place != utterance.place:
                paths = [first_of.path, utterance.path]
                shared.append(f"'{utterance.id}' is twice in {name}, of {paths[0]} and {paths[1]}; ids must be unique")
    for first, second in itertools.combinations(splits, 2):
        for id_ in [utterance.id for utterance in splits[first] if utterance.id in by_id[second]]:
            paths = [by_id[split][id_].path for split in (first, second)]
            files = "" if paths[0] == paths[1] else f", for two files: {paths[0]} and {paths[1]}; ids must be unique"
            shared.append(f"'{id_}' is in {first} and in {second}{files}")

    folders: dict[str, str] = {}
    split_of: dict[str, str] = {}
    """File -> the split it was first seen in."""
    in_several: set[str] = set()
    for name, utterances in splits.items():
        for utterance in utterances:
            file = _file(utterance.path, folders)
            if split_of.setdefault(file, name) != name:
                in_several.add(file)
    spans: dict[str, list[tuple[float, float, int, str, str]]] = {}
    if in_several:
        for order, (name, utterances) in enumerate(splits.items()):
            for u in utterances:
                file = _file(u.path, folders)
                if file in in_several:
                    end = math.inf if u.duration is None else u.start + u.duration
                    spans.setdefault(file, []).append((u.start, end, order, name, u.id))
    for file, file_spans in spans.items():
        latest: dict[str, tuple[float, str]] = {}
        """Split -> the latest end so far, and of which utterance."""
        for start, end, _, name, id_ in sorted(file_spans):
            for other, (until, other_id) in latest.items():
                if other != name and other_id != id_ and start < until - TOLERANCE:
                    stop = min(end, until)
                    span = f"from {start:.3f} s" if stop == math.inf else f"{start:.3f}–{stop:.3f} s"
                    shared.append(f"'{other_id}' of {other} and '{id_}' of {name} share audio: {file}, {span}")
            if name not in latest or end > latest[name][0]:
                latest[name] = (end, id_)
    return shared


def _file(path: str, folders: dict[str, str]) -> str:
    """The path with the links of its folder followed; ``folders`` caches them."""
    name = path.rfind("/") + 1
    folder = path[:name]
    if folder not in folders:
        folders[folder] = os.path.join(_real(folder[:-1] or folder or ".", folders), "")
    return path if folders[folder] == folder else folders[folder] + path[name:]


def _real(folder: str, folders: dict[str, str]) -> str:
    """``os.path.realpath``, but looking at each folder above only once."""
    if folder not in folders:
        above, _, name = folder.rpartition("/")
        if not above or name in ("", ".", "..") or folder.count("/") > 100 or os.path.islink(folder):
            folders[folder] = os.path.realpath(folder)
        else:
            folders[folder] = os.path.join(_real(above, folders), name)
    return folders[folder]


def digest(utterances: Sequence[Utterance], *, gender: bool = True) -> str:
    """Sixteen hex digits over ids, spans and labels, in order; where the files lie does not matter.

    Release 0.1 left the gender out, as ``gender=False`` does.
    """
    state = hashlib.sha256()
    for u in utterances:
        key: tuple[Any, ...] = (u.id, u.start, u.duration, u.text, u.speaker, u.language, u.session)
        if gender and u.gender is not None:  # only where it is known: digests of before stay
            key += (("gender", u.gender),)
        state.update(repr((*key, *sorted(u.labels.items()))).encode())
    return state.hexdigest()[:16]


def summary(utterances: Sequence[Utterance], seconds: NDArray[np.float64]) -> dict[str, Any]:
    """What ``result.json`` keeps of a split."""
    return {
        "utterances": len(utterances),
        "seconds": round(float(seconds.sum()), 3),
        "speakers": len({u.speaker for u in utterances if u.speaker is not None}),
        "languages": len({u.language for u in utterances if u.language is not None}),
        "digest": digest(utterances),
    }
