"""Trials: kept, checked, and made where a corpus has none."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol, overload

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import BenchmarkError, shorten
from benchmark.interfaces import Trial, Utterance

log = logging.getLogger("wavbench")

DEV_SHARE = 0.2
"""At most this share of the speakers is held out for dev, so that small corpora keep speakers to train on."""
MOST_UTTERANCES = 5000
"""Bound on the utterances between which trials are made: all pairs of them are listed (12.5 million, 0.3 GB for a
moment)."""


class Options(Protocol):
    """What making trials reads of :class:`downstream.sv.task.SVConfig`."""

    train_split: str
    dev_speakers: int
    dev_utterances: int
    dev_trials: int
    dev_seed: int


class TrialList(Sequence[Trial]):
    """A trial list as arrays: 9 bytes a trial, where 580,000 objects take 150 MB."""

    def __init__(self, trials: Iterable[Trial]) -> None:
        numbers: dict[str, int] = {}

        def number(name: str) -> int:
            return numbers.setdefault(name, len(numbers))

        rows = [(trial.label, number(trial.enrolment), number(trial.test)) for trial in trials]
        table = np.array(rows, dtype=np.int32).reshape(-1, 3)
        self.ids = sorted(numbers)
        """The utterances that occur, sorted."""
        place = np.empty(len(numbers), dtype=np.int32)
        place[[numbers[name] for name in self.ids]] = np.arange(len(numbers), dtype=np.int32)
        self.labels: NDArray[np.uint8] = table[:, 0].astype(np.uint8)
        """(trial,) 1 same speaker, 0 different."""
        self.enrolment: NDArray[np.int32] = place[table[:, 1]]
        """(trial,) index in :attr:`ids`."""
        self.test: NDArray[np.int32] = place[table[:, 2]]
        """(trial,) index in :attr:`ids`."""

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Trial]:
        for label, a, b in zip(self.labels.tolist(), self.enrolment.tolist(), self.test.tolist(), strict=True):
            yield Trial(label, self.ids[a], self.ids[b])

    @overload
    def __getitem__(self, index: int) -> Trial: ...
    @overload
    def __getitem__(self, index: slice) -> list[Trial]: ...
    def __getitem__(self, index: int | slice) -> Trial | list[Trial]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return Trial(int(self.labels[index]), self.ids[self.enrolment[index]], self.ids[self.test[index]])


def connected(trials: TrialList, speakers: Sequence[str | None] = ()) -> list[str]:
    """Stands for the speakers of ``trials.ids`` where some are unknown: utterances that target trials connect share a
    name, and so do those that have the same of ``speakers``."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    target = trials.labels == 1
    known = [(i, speaker) for i, speaker in enumerate(speakers) if speaker is not None]
    first = {speaker: i for i, speaker in reversed(known)}
    same = np.array([(i, first[speaker]) for i, speaker in known], dtype=np.int64).reshape(-1, 2)
    pairs = [np.append(trials.enrolment[target], same[:, 0]), np.append(trials.test[target], same[:, 1])]
    graph = coo_array((np.ones(len(pairs[0])), tuple(pairs)), shape=(len(trials.ids), len(trials.ids)))
    of = connected_components(graph, directed=False)[1].tolist()
    names = {of[i]: speaker for i, speaker in reversed(known)}
    return [names.get(component, f"{component}?" if known else str(component)) for component in of]


def check(name: str, trials: TrialList, utterances: Mapping[str, Utterance], trained: set[str]) -> None:
    """Refuse a list that cannot be scored or whose error rates would say nothing.

    Args:
        name: of the list, for messages.
        trials: the list.
        utterances: by id, those that there are.
        trained: speakers that training sees.

    Raises:
        BenchmarkError: utterances that are not there, trials of an utterance with itself, labels that contradict the
            speakers, speakers that training sees, one class only.
    """
    absent = [i for i in trials.ids if i not in utterances]
    if absent:
        raise BenchmarkError(
            f"trial list '{name}' names {len(absent)} utterances that the corpus does not have: {shorten(absent)}"
        )
    alone = np.flatnonzero(trials.enrolment == trials.test)
    if len(alone):
        raise BenchmarkError(
            f"trial list '{name}' has {len(alone)} trials of an utterance with itself: "
            f"{shorten(trials[i].enrolment for i in alone.tolist())}. Any system gets such a trial right; remove it"
        )
    speakers = [utterances[i].speaker for i in trials.ids]
    seen = sorted({speaker for speaker in speakers if speaker is not None} & trained)
    if seen:
        raise BenchmarkError(
            f"trial list '{name}' has {len(seen)} speakers that training sees: {shorten(seen)}. Its error rates "
            "would be those of known speakers and look better than they are; train without these speakers or "
            "score another list"
        )
    if None in speakers:
        unknown = [i for i, speaker in zip(trials.ids, speakers, strict=True) if speaker is None]
        log.warning(
            "trial list '%s': %d of %d utterances name no speaker (%s), so it is not known whether training saw "
            "their speakers", name, len(unknown), len(speakers), shorten(unknown),
        )  # fmt: skip
    known = np.array([speaker is not None for speaker in speakers])
    number = np.unique([str(speaker) for speaker in speakers], return_inverse=True)[1]
    same = number[trials.enrolment] == number[trials.test]
    wrong = np.flatnonzero((same != trials.labels) & known[trials.enrolment] & known[trials.test])
    if len(wrong):
        lines = (f"{t.label} {t.enrolment} {t.test}" for t in (trials[i] for i in wrong.tolist()))
        raise BenchmarkError(
            f"trial list '{name}' has {len(wrong)} trials whose label contradicts the utterances' speakers: "
            f"{shorten(lines)}. 1 is for one speaker, 0 for two; correct the list or the manifest"
        )
    if set(np.unique(trials.labels).tolist()) != {0, 1}:
        raise BenchmarkError(f"trial list '{name}' needs target (1) and nontarget (0) trials, it has one class only")


def hold_out_speakers(speakers: set[str], config: Options) -> set[str]:
    """The dev speakers: those first in the order of a hash of seed and name, so that adding a speaker to the corpus
    moves at most one.

    Raises:
        BenchmarkError: fewer than 4 speakers, 2 on either side.
    """
    count = max(2, min(config.dev_speakers, int(DEV_SHARE * len(speakers))))
    if len(speakers) < count + 2:
        raise BenchmarkError(
            f"split '{config.train_split}' has {len(speakers)} speakers; at least {count + 2} are needed: "
            f"{count} for dev trials and 2 to train on"
        )
    return set(in_order(speakers, config.dev_seed)[:count])


def make_trials(utterances: Sequence[Utterance], config: Options, *, speakers: int | None = None) -> list[Trial]:
    """Balanced trials between utterances.

    Of each speaker at most ``dev_utterances`` utterances take part, one of each session in turn. Target trials pair
    different sessions, or, of a speaker who has one session only, the utterances of it. As many target as nontarget
    trials are drawn, at most ``dev_trials`` together.

    Args:
        utterances: in any order; all with a speaker.
        config: how many, and the seed.
        speakers: take at most so many speakers, and as many as give ``MOST_UTTERANCES`` utterances; first in the order
            of a hash.

    Returns:
        trials sorted by enrolment and test id; empty where no pair of one speaker, or of two, can be made.
    """
    of_speaker = _spread(utterances, config)
    order = in_order(of_speaker, config.dev_seed)[:speakers]
    total = np.cumsum([len(of_speaker[name]) for name in order])
    taken = order[: int(np.searchsorted(total, MOST_UTTERANCES, side="right"))]
    if len(taken) < len(of_speaker):
        log.info("trials are made between utterances of %d of the %d speakers", len(taken), len(of_speaker))
    chosen = sorted((u for name in taken for u in of_speaker[name]), key=lambda utterance: utterance.id)
    if not chosen:
        return []
    speaker = np.unique([str(u.speaker) for u in chosen], return_inverse=True)[1]
    # an utterance that names no session is taken for one of its own
    session = np.unique([f"{u.speaker} {u.session or u.id}" for u in chosen], return_inverse=True)[1]
    one_session = np.array([len(np.unique(session[speaker == s])) == 1 for s in range(speaker.max() + 1)])

    first, second = np.triu_indices(len(chosen), k=1)
    same = speaker[first] == speaker[second]
    target = np.flatnonzero(same & ((session[first] != session[second]) | one_session[speaker[first]]))
    nontarget = np.flatnonzero(~same)
    count = min(len(target), len(nontarget), config.dev_trials // 2)
    random = np.random.RandomState(config.dev_seed)  # its stream is frozen (NEP 19), default_rng's is not
    drawn = np.concatenate([random.permutation(pairs)[:count] for pairs in (target, nontarget)])
    return [Trial(int(same[p]), chosen[first[p]].id, chosen[second[p]].id) for p in np.sort(drawn)]


def _spread(utterances: Sequence[Utterance], config: Options) -> dict[str, list[Utterance]]:
    """At most ``dev_utterances`` a speaker, as many of each session as of the others where there are enough."""
    speakers: defaultdict[str, defaultdict[str, list[Utterance]]] = defaultdict(lambda: defaultdict(list))
    for utterance in sorted(utterances, key=lambda utterance: order_key(config.dev_seed, utterance.id)):
        speakers[str(utterance.speaker)][utterance.session or utterance.id].append(utterance)
    chosen: dict[str, list[Utterance]] = {}
    for speaker, sessions in speakers.items():
        in_turn = sorted(
            ((turn, order_key(config.dev_seed, session), utterance.id, utterance)
             for session, those in sessions.items() for turn, utterance in enumerate(those)),
            key=lambda item: item[:3],
        )  # fmt: skip
        chosen[speaker] = [utterance for *_, utterance in in_turn[: config.dev_utterances]]
    return chosen


def in_order(names: Iterable[str], seed: int) -> list[str]:
    """Names in the order of a hash of seed and name."""
    return sorted(names, key=lambda name: order_key(seed, name))


def order_key(seed: int, name: str) -> str:
    """What :func:`in_order` sorts by."""
    return hashlib.sha256(f"{seed} {name}".encode(errors="surrogateescape")).hexdigest()
