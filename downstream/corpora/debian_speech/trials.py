"""Verification trials between a game's characters."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

from benchmark.interfaces import Trial
from downstream.corpora.debian_speech.clips import Clip

TRIALS = ("drascula_en", "drascula_es")
"""Sources that have a list, ``<source>.trials``."""
SHORTEST = 1.5
"""Seconds of the clips in trials."""
CLIPS = 30
"""Of a character take part, at most."""
FEWEST = 6
"""Clips; characters with fewer take no part."""
TARGETS = 100
"""Target trials of a character, at most."""
NOBODY = ("credits", "unknown")
"""Roles that are no one voice."""


def make_trials(clips: Sequence[Clip]) -> list[Trial]:
    """Trials between the characters of one source; the same clips give the same trials, in any order.

    Each character has up to :data:`TARGETS` target trials, and each pair of characters as many nontarget trials as
    makes their number that of the targets. A pair of clips of the same text, or of which one has no text, is no trial.
    """
    texts = {clip.id: " ".join((clip.text or "").lower().split()) for clip in clips}
    of: defaultdict[str, list[str]] = defaultdict(list)
    for clip in clips:
        known = not clip.dropped and clip.seconds >= SHORTEST and texts[clip.id]
        if known and clip.speaker.split("/")[-1] not in NOBODY:
            of[clip.speaker].append(clip.id)
    speakers = {name: _first(ids, CLIPS) for name, ids in sorted(of.items()) if len(ids) >= FEWEST}
    targets: list[tuple[str, str]] = []
    for ids in speakers.values():
        pairs = [(a, b) for a, b in combinations(sorted(ids), 2) if texts[a] != texts[b]]
        targets += _first_pairs(pairs, TARGETS)
    couples = list(combinations(speakers, 2))
    nontargets: list[tuple[str, str]] = []
    for place, (first, second) in enumerate(couples):
        wanted = len(targets) * (place + 1) // len(couples) - len(targets) * place // len(couples)
        pairs = [(a, b) for a in speakers[first] for b in speakers[second] if texts[a] != texts[b]]
        nontargets += _first_pairs(pairs, wanted)
    labelled = [(1, *pair) for pair in targets] + [(0, *pair) for pair in nontargets]
    return [Trial(*row) for row in sorted(labelled, key=lambda row: row[1:])]


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _first(ids: Sequence[str], count: int) -> list[str]:
    return sorted(ids, key=_key)[:count]


def _first_pairs(pairs: Sequence[tuple[str, str]], count: int) -> list[tuple[str, str]]:
    return sorted(pairs, key=lambda pair: _key(" ".join(pair)))[:count]
