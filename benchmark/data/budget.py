"""Label budgets: nested, seeded subsets of a training split.

A budget is one or more parts joined by ``+``, each applied to what the part before it left:

==================  ==================================================================================================
``all``             everything
``10min 1h 90s``    this much audio
``5%``              this share of the audio
``500utt``          this many utterances
``8utt/speaker``    this many utterances of every speaker, over as many of its sessions as there are
``2session/speaker``  all utterances of this many sessions of every speaker
``100speakers``     everything of this many speakers
==================  ==================================================================================================

``8utt/speaker+1session/speaker`` takes sessions of the eight utterances; for eight utterances of one session each,
write ``1session/speaker+8utt/speaker``.

Every choice is a prefix of an order that depends on the seed alone, so that for one seed a smaller budget of a kind is
a subset of every larger one. The order balances strata: the next utterance is always taken from the stratum with the
least audio so far (of languages for LID; of genders, then speakers, for ASR); ties, and the order within a stratum, are
decided by a hash of seed and id. Which utterances are labelled matters as much as how many (Vaessen & van Leeuwen,
2203.14688): the kinds of budgets are the ways of composing a set of a given size.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmark.errors import BenchmarkError, shorten
from benchmark.interfaces import Seconds, Utterance

_UNITS = {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0}
_PATTERN = re.compile(
    r"(?P<amount>\d+(?:\.\d+)?)\s*(?P<unit>s|sec|min|h|%|utts?/speaker|sessions?/speaker|utts?|speakers?)"
)
EXAMPLES = "10min, 1h, 5%, 500utt, 8utt/speaker, 1session/speaker, 100speakers, all"


@dataclass(frozen=True)
class Part:
    """One part of a budget."""

    amount: float
    unit: str
    """``s``, ``%``, ``utt``, ``utt/speaker``, ``session/speaker`` or ``speakers``."""


def parse(text: str) -> list[Part]:
    """Read a budget; ``all`` has no part.

    >>> parse("1session/speaker+8utt/speaker")
    [Part(amount=1.0, unit='session/speaker'), Part(amount=8.0, unit='utt/speaker')]

    Raises:
        BenchmarkError: it is not a budget, or an amount is nothing or more than everything.
    """
    if text.strip() == "all":
        return []
    parts = []
    for item in text.split("+"):
        match = _PATTERN.fullmatch(item.strip())
        if match is None:
            raise BenchmarkError(f"budget '{text}': '{item.strip()}' is not a valid budget. Examples: {EXAMPLES}")
        amount, unit = float(match["amount"]), match["unit"]
        if unit in _UNITS:
            part = Part(amount * _UNITS[unit], "s")
        elif unit == "%":
            part = Part(amount, "%")
        else:
            unit = unit.replace("utts", "utt").replace("sessions", "session")
            part = Part(amount, "speakers" if unit.startswith("speaker") else unit)
            if amount != int(amount):
                raise BenchmarkError(f"budget '{text}': {item.strip()} is not a whole number")
        if amount <= 0 or (unit == "%" and amount > 100):
            raise BenchmarkError(f"budget '{text}': {item.strip()} is out of range")
        parts.append(part)
    return parts


def choose(
    text: str,
    utterances: Sequence[Utterance],
    seconds: Mapping[str, Seconds],
    *,
    seed: int,
    strata: Sequence[str] = ("speaker",),
) -> list[Utterance]:
    """The utterances of a budget, in the order of ``utterances``.

    Args:
        text: see the module.
        utterances: the training split.
        seconds: utterance id -> duration.
        seed: of the order.
        strata: names of labels (:meth:`Utterance.label`) between whose values the order balances the audio, outermost
            first.

    Raises:
        BenchmarkError: the split has less than the budget asks for, nothing is left, or utterances lack the speaker
            that a part needs.
    """
    left = list(utterances)
    for part in parse(text):
        left = _take(text, part, left, seconds, seed, strata)
    chosen = {utterance.id for utterance in left}
    return [utterance for utterance in utterances if utterance.id in chosen]


def _take(
    text: str, part: Part, left: list[Utterance], seconds: Mapping[str, Seconds], seed: int, strata: Sequence[str]
) -> list[Utterance]:
    if part.unit in ("utt/speaker", "session/speaker", "speakers"):
        nameless = [utterance.id for utterance in left if utterance.speaker is None]
        if nameless:
            raise BenchmarkError(
                f"budget '{text}' needs speakers; {len(nameless):,} utterances have none: {shorten(nameless)}"
            )
    if part.unit == "speakers":
        names = sorted({str(u.speaker) for u in left}, key=lambda name: _hash(seed, name))
        _check_enough(text, part.amount, len(names), "speakers")
        kept = set(names[: int(part.amount)])
        return [u for u in left if u.speaker in kept]
    if part.unit == "session/speaker":
        sessions: dict[str, set[str]] = defaultdict(set)
        for u in left:
            sessions[str(u.speaker)].add(_session(u))
        first = {
            (speaker, session)
            for speaker, own in sessions.items()
            for session in sorted(own, key=lambda s: _hash(seed, f"{speaker} {s}"))[: int(part.amount)]
        }
        return [u for u in left if (str(u.speaker), _session(u)) in first]
    if part.unit == "utt/speaker":
        by_speaker: dict[str, list[Utterance]] = defaultdict(list)
        for u in left:
            by_speaker[str(u.speaker)].append(u)
        return [
            u
            for own in by_speaker.values()
            for u in order(own, dict.fromkeys((u.id for u in own), 1.0), seed=seed, strata=["session"])[
                : int(part.amount)
            ]
        ]
    ordered = order(left, seconds, seed=seed, strata=strata)
    if part.unit == "utt":
        _check_enough(text, part.amount, len(ordered), "utterances")
        return ordered[: int(part.amount)]
    total = sum(seconds[u.id] for u in ordered)
    budget = part.amount if part.unit == "s" else total * part.amount / 100
    if part.unit == "s":
        _check_enough(text, budget, total, "seconds")
    taken, used = [], 0.0
    for u in ordered:  # a prefix: it ends with the utterance before the one that goes over
        used += seconds[u.id]
        if used > budget * (1 + 1e-9):
            break
        taken.append(u)
    if not taken:
        raise BenchmarkError(f"budget '{text}' is less than one utterance ({seconds[ordered[0].id]:.1f} s)")
    return taken


def order(
    utterances: Sequence[Utterance], seconds: Mapping[str, Seconds], *, seed: int, strata: Sequence[str]
) -> list[Utterance]:
    """All utterances, such that every prefix has about as much audio of one stratum as of the others."""
    if not strata:
        return sorted(utterances, key=lambda u: _hash(seed, u.id))
    label, *inner = strata
    groups: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        groups[_session(utterance) if label == "session" else str(utterance.label(label))].append(utterance)
    queues = {name: iter(order(group, seconds, seed=seed, strata=inner)) for name, group in groups.items()}
    heap = [(0.0, _hash(seed, name), name) for name in queues]
    heapq.heapify(heap)
    ordered = []
    while heap:
        used, tie, name = heapq.heappop(heap)
        for following in queues[name]:
            ordered.append(following)
            heapq.heappush(heap, (used + seconds[following.id], tie, name))
            break
    return ordered


def _check_enough(text: str, wanted: float, available: float, what: str) -> None:
    if wanted > available * (1 + 1e-9):
        raise BenchmarkError(
            f"budget '{text}' asks for {wanted:g} {what}, the training split has {available:g}; take 'all' or less"
        )


def _session(utterance: Utterance) -> str:
    """The session; an utterance without one is a session of its own."""
    return utterance.session or utterance.id


def _hash(seed: int, name: str) -> str:
    return hashlib.sha256(f"budget {seed} {name}".encode(errors="surrogateescape")).hexdigest()
