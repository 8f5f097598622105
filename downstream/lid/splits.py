"""A dev set held out of training data that have none."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Sequence

from benchmark.errors import BenchmarkError
from benchmark.interfaces import Utterance
from benchmark.data.manifest import some

log = logging.getLogger("wavbench")


def unit(utterance: Utterance) -> str:
    """What is held out as a whole: the speaker where it is known, else the session (VoxLingua107: the video), else the
    utterance itself. Otherwise voices and channels of training would be recognised in dev."""
    for kind in ("speaker", "session"):
        name = getattr(utterance, kind)
        if name is not None:
            return f"{kind} {name}"
    return f"utterance {utterance.id}"


def hold_out(utterances: Sequence[Utterance], share: float, most: int, seed: int) -> set[str]:
    """Choose a dev set, language by language.

    Units are taken in the order of a hash of seed and name, as long as they fit into ``share`` of the language's
    utterances and ``most``; a language of which none fits gives its smallest unit, if it has another one to train on.
    Which utterances are taken depends on what there is, not on its order.

    Args:
        utterances: of the training data; all with a language.
        share: of each language's utterances, between 0 and 1.
        most: utterances a language.
        seed: of the hash.

    Returns:
        ids of the dev utterances.

    Raises:
        BenchmarkError: nothing can be held out.
    """
    ids: defaultdict[str, list[str]] = defaultdict(list)
    sizes: defaultdict[str, Counter[str]] = defaultdict(Counter)  # unit -> language -> utterances
    for utterance in utterances:
        ids[unit(utterance)].append(utterance.id)
        sizes[unit(utterance)][str(utterance.language)] += 1
    order = {name: hashlib.sha256(f"{seed} {name}".encode()).hexdigest() for name in ids}
    available: Counter[str] = sum(sizes.values(), Counter())
    held: Counter[str] = Counter()
    chosen: set[str] = set()

    def take(name: str) -> None:
        chosen.add(name)
        held.update(sizes[name])

    quota = {language: min(most, int(share * count)) for language, count in available.items()}
    for name in sorted(ids, key=order.__getitem__):
        if all(held[language] + count <= quota[language] for language, count in sizes[name].items()):
            take(name)
    without = []
    of_language: defaultdict[str, list[str]] = defaultdict(list)
    for name, counts in sizes.items():
        for language in counts:
            of_language[language].append(name)
    for language in sorted(available):
        if held[language]:
            continue
        spare = [
            name
            for name in of_language[language]
            if all(held[other] + count < available[other] for other, count in sizes[name].items())
        ]
        if spare:
            take(min(spare, key=lambda name: (sizes[name].total(), order[name])))
        else:
            without.append(language)
    if not chosen:
        raise BenchmarkError(
            "no dev set can be held out of the training data: every language has one speaker or session (or, where "
            "neither is known, one utterance) only. Give a dev set, with own data by --dev FILE"
        )
    if without:
        log.warning(
            "%d languages have one speaker or session only and are not in dev: %s", len(without), some(without, 8)
        )
    return {utterance for name in chosen for utterance in ids[name]}
