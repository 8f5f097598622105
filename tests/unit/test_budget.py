from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data import budget
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Utterance


def corpus(speakers: int = 12, seed: int = 0) -> tuple[list[Utterance], dict[str, float]]:
    """Speakers of unequal size, 1 to 4 sessions each, in three languages."""
    rng = random.Random(seed)
    utterances = []
    for speaker in range(speakers):
        for number in range(rng.randint(3, 20)):
            utterances.append(
                Utterance(
                    id=f"s{speaker}/{number}",
                    path="x",
                    speaker=f"s{speaker}",
                    session=f"v{number % (1 + speaker % 4)}",
                    language=("de", "en", "fi")[speaker % 3],
                )
            )
    return utterances, {utterance.id: rng.uniform(1, 8) for utterance in utterances}


UTTERANCES, SECONDS = corpus()


def take(text: str, seed: int = 0, strata: tuple[str, ...] = ("speaker",)) -> list[Utterance]:
    return budget.choose(text, UTTERANCES, SECONDS, seed=seed, strata=strata)


KINDS = [
    ["20s", "1min", "2min", "0.1h", "all"],
    ["1%", "10%", "50%", "100%"],
    ["1utt", "7utt", "50utt"],
    ["1utt/speaker", "3utt/speaker", "8utt/speaker"],
    ["1session/speaker", "2sessions/speaker", "4session/speaker"],
    ["1speaker", "3speakers", "12speakers"],
    ["3speakers+1utt/speaker", "3speakers+2utt/speaker"],
    ["1session/speaker+1utt/speaker", "1session/speaker+4utt/speaker"],
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[0])
@pytest.mark.parametrize("seed", range(3))
def test_smaller_budgets_are_subsets_of_larger_ones(kind: list[str], seed: int) -> None:
    sets = [{u.id for u in take(text, seed, ("language", "speaker"))} for text in kind]
    for smaller, larger in pairwise(sets):
        assert smaller
        assert smaller < larger or len(larger) == len(UTTERANCES)
        assert smaller <= larger


@given(st.permutations(UTTERANCES))
def test_the_order_of_the_list_decides_nothing(shuffled: list[Utterance]) -> None:
    for text in ("1min", "5utt/speaker", "4speakers"):
        chosen = budget.choose(text, shuffled, SECONDS, seed=1)
        assert {u.id for u in chosen} == {u.id for u in take(text, 1)}
    assert [u for u in shuffled if u in chosen] == chosen  # in the order of the list


def test_seeds_choose_differently() -> None:
    for text in ("1min", "5utt/speaker", "4speakers", "1session/speaker"):
        assert len({tuple(u.id for u in take(text, seed)) for seed in range(4)}) == 4


@pytest.mark.parametrize("text", ["1min", "3min", "25%"])
def test_time_is_kept_and_used(text: str) -> None:
    total = sum(SECONDS.values())
    allowed = {"1min": 60, "3min": 180, "25%": total / 4}[text]
    used = sum(SECONDS[u.id] for u in take(text))
    assert allowed - max(SECONDS.values()) < used <= allowed


def test_languages_are_balanced_though_the_corpus_is_not() -> None:
    utterances = [Utterance(f"{k}", "x", language="en" if k < 900 else "fi") for k in range(1000)]
    seconds = {u.id: 1.0 for u in utterances}
    chosen = budget.choose("50s", utterances, seconds, seed=0, strata=("language",))
    assert Counter(u.language for u in chosen) == {"en": 25, "fi": 25}
    chosen = budget.choose("300s", utterances, seconds, seed=0, strata=("language",))
    assert Counter(u.language for u in chosen) == {"en": 200, "fi": 100}  # all that there is
    seconds = {u.id: 1.0 if u.language == "en" else 3.0 for u in utterances}  # in time, not in utterances
    chosen = budget.choose("120s", utterances, seconds, seed=0, strata=("language",))
    assert Counter(u.language for u in chosen) == {"en": 60, "fi": 20}


def test_any_label_may_be_balanced() -> None:
    utterances = [Utterance(f"{k}", "x", labels={"emotion": "calm" if k < 90 else "joy"}) for k in range(100)]
    chosen = budget.choose("20s", utterances, {u.id: 1.0 for u in utterances}, seed=0, strata=("emotion",))
    assert Counter(u.labels["emotion"] for u in chosen) == {"calm": 10, "joy": 10}


def test_utterances_of_a_speaker_spread_over_its_sessions() -> None:
    for speaker, of in Counter((u.speaker) for u in take("4utt/speaker")).items():
        assert of <= 4
        sessions = {u.session for u in take("4utt/speaker") if u.speaker == speaker}
        there = Counter(u.session for u in UTTERANCES if u.speaker == speaker)
        assert len(sessions) == min(4, len(there))
    one_each = take("1session/speaker+3utt/speaker")
    assert all(n == 1 for n in Counter(s for s, _ in {(u.speaker, u.session) for u in one_each}).values())


def test_speakers_come_with_all_their_data() -> None:
    chosen = take("3speakers")
    speakers = {u.speaker for u in chosen}
    assert len(speakers) == 3
    assert len(chosen) == sum(u.speaker in speakers for u in UTTERANCES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ten minutes", "'ten minutes' is not a valid budget. Examples: 10min"),
        ("", "'' is not a valid budget"),
        ("1h+", "'' is not a valid budget"),
        ("0min", "out of range"),
        ("101%", "out of range"),
        ("1.5speakers", "not a whole number"),
        ("13speakers", "asks for 13 speakers, the training split has 12"),
        ("100h", "asks for 360000 seconds"),
        ("100000utt", "utterances, the training split has"),
        ("0.1s", "less than one utterance"),
    ],
)
def test_budgets_that_cannot_be_had(text: str, message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        take(text)


def test_speakers_must_be_known() -> None:
    with pytest.raises(BenchmarkError, match=r"needs speakers; 1 utterances have none: a$"):
        budget.choose("2speakers", [Utterance("a", "x")], {"a": 1.0}, seed=0)
