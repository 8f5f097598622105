"""Labelled splits of a corpus, and a dev set held out of training data that have none."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from benchmark.config import MANIFESTS
from benchmark.data.manifest import OWN_DATA
from benchmark.errors import BenchmarkError, MissingData, shorten
from benchmark.interfaces import Corpus, Utterance
from benchmark.registry import suggest

log = logging.getLogger("wavbench")


def values(utterances: Iterable[Utterance], label: str) -> set[str]:
    """The values of a label."""
    return {str(utterance.label(label)) for utterance in utterances}


def labelled(corpus: Corpus, name: str, option: str, label: str) -> list[Utterance]:
    """A split of a corpus, whose utterances all have the label.

    Raises:
        MissingData: the split is not there; ``option`` is the one that names it.
        BenchmarkError: it is empty; an utterance without the label.
    """
    if name not in corpus.splits:
        own = corpus.name == OWN_DATA and name in MANIFESTS
        raise MissingData(
            f"corpus '{corpus.name}' has no split '{name}' (task.{option})."
            + (f" With own data, give it as --{name} FILE. " if own else " ")
            + suggest(name, sorted(corpus.splits)),
            split=name,
        )
    utterances = corpus.splits[name]
    if not utterances:
        raise BenchmarkError(f"split '{name}' of '{corpus.name}' is empty")
    unknown = [utterance.id for utterance in utterances if not utterance.label(label)]
    if unknown:
        raise BenchmarkError(
            f"split '{name}' of '{corpus.name}' has {len(unknown):,} utterances without the label '{label}': "
            f"{shorten(unknown)}. Every utterance needs one, in manifests as the field '{label}'"
        )
    return utterances


def warn_of_unknown(name: str) -> None:
    """Warn that the evaluation set ``name`` cannot be compared with training data, which are not there."""
    log.warning(
        "%s: without the training data it is not known whether training has seen some of its utterances, speakers or "
        "sessions, which would look better than others", name,
    )  # fmt: skip


def hold_out(
    utterances: Sequence[Utterance], label: str, groups: Sequence[str], share: float, most: int, seed: int
) -> set[str]:
    """Choose a dev set, class by class.

    Speakers are held out as a whole where they are known, else sessions (VoxLingua107: videos), else utterances:
    otherwise voices and channels of training would be recognised in dev. They are taken in the order of a hash of seed
    and name, as long as they fit into ``share`` of the class' utterances and ``most``; a class of which none fits gives
    its smallest one, if it has another one to train on. Which utterances are taken depends on what there is, not on its
    order.

    Args:
        utterances: of the training data; all with the label.
        label: whose values are the classes.
        groups: ``speaker`` and ``session``, or fewer of them.
        share: of each class' utterances, between 0 and 1.
        most: utterances a class.
        seed: of the hash.

    Returns:
        ids of the dev utterances.

    Raises:
        BenchmarkError: nothing can be held out.
    """
    ids: defaultdict[str, list[str]] = defaultdict(list)
    sizes: defaultdict[str, Counter[str]] = defaultdict(Counter)  # speaker, session or utterance -> class -> utterances
    for utterance in utterances:
        kind = next((kind for kind in groups if utterance.label(kind) is not None), None)
        name = f"utterance {utterance.id}" if kind is None else f"{kind} {utterance.label(kind)}"
        ids[name].append(utterance.id)
        sizes[name][str(utterance.label(label))] += 1
    order = {name: hashlib.sha256(f"{seed} {name}".encode(errors="surrogateescape")).hexdigest() for name in ids}
    available: Counter[str] = sum(sizes.values(), Counter())
    held: Counter[str] = Counter()
    chosen: set[str] = set()

    def take(name: str) -> None:
        chosen.add(name)
        held.update(sizes[name])

    quota = {value: min(most, int(share * count)) for value, count in available.items()}
    for name in sorted(ids, key=order.__getitem__):
        if all(held[value] + count <= quota[value] for value, count in sizes[name].items()):
            take(name)
    names_of: defaultdict[str, list[str]] = defaultdict(list)
    for name, counts in sizes.items():
        for value in counts:
            names_of[value].append(name)
    without = []
    for value in sorted(available):
        if held[value]:
            continue
        spare = [
            name
            for name in names_of[value]
            if all(held[other] + count < available[other] for other, count in sizes[name].items())
        ]
        if spare:
            take(min(spare, key=lambda name: (sizes[name].total(), order[name])))
        else:
            without.append(value)
    if not chosen:
        raise BenchmarkError(
            f"no dev set can be held out of the training data: each value of '{label}' has only one speaker or "
            "session (or, where neither is known, only one utterance). Give a dev set, with own data by --dev FILE"
        )
    if without:
        log.warning(
            "%d values of '%s' have only one speaker or session and are not in dev: %s",
            len(without), label, shorten(without, 8),
        )  # fmt: skip
    return {utterance for name in chosen for utterance in ids[name]}
