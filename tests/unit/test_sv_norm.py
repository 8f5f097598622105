"""Adaptive s-norm against the formula, one trial at a time."""

from __future__ import annotations

import logging
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.errors import BenchmarkError
from benchmark.interfaces import Trial, Utterance
from downstream.sv.norm import AdaptiveSNorm, NormConfig, cohort_utterances
from downstream.sv.scoring import stack
from downstream.sv.trials import TrialList


def made(speakers: int, each: int, size: int, seed: int) -> tuple[list[Utterance], TrialList, dict[str, Any]]:
    """A cohort, trials of other utterances, and embeddings of all of them."""
    rng = np.random.RandomState(seed % 2**32)
    cohort = [Utterance(f"c{s}/{u}", "", speaker=f"c{s}") for s in range(speakers) for u in range(each)]
    names = [f"t{k}" for k in range(7)]
    pairs = [(a, b) for a in names for b in names if a != b]
    trials = [Trial(k % 2, *pairs[i]) for k, i in enumerate(rng.permutation(len(pairs))[:20])]
    embeddings = {u.id: rng.randn(size).astype(np.float32) + 0.5 for u in cohort}
    embeddings |= {name: rng.randn(size).astype(np.float32) + 0.5 for name in names}
    return cohort, TrialList(trials), embeddings


def by_hand(
    cohort: list[Utterance], trials: TrialList, embeddings: dict[str, Any], top_n: int, subtract: bool
) -> list[float]:
    """s' = ½ [(s - μe) / σe + (s - μt) / σt] (peers.md, section 5), trial by trial."""
    mean = np.mean([embeddings[u.id].astype(float) for u in cohort], axis=0) if subtract else 0.0

    def cosine(a: Any, b: Any) -> float:
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))

    speakers = sorted({str(u.speaker) for u in cohort})
    means = [np.mean([embeddings[u.id].astype(float) for u in cohort if u.speaker == s], axis=0) - mean
             for s in speakers]  # fmt: skip
    found = []
    for trial in trials:
        e, t = (embeddings[name].astype(float) - mean for name in (trial.enrolment, trial.test))
        score, halves = cosine(e, t), []
        for x in (e, t):
            top = sorted((cosine(x, m) for m in means), reverse=True)[:top_n]
            mu = sum(top) / len(top)
            sigma = (sum((c - mu) ** 2 for c in top) / len(top)) ** 0.5
            halves.append((score - mu) / sigma)
        found.append(sum(halves) / 2)
    return found


@settings(max_examples=30, deadline=None)
@given(
    speakers=st.integers(3, 12), each=st.integers(1, 3), top_n=st.integers(2, 15), subtract=st.booleans(),
    seed=st.integers(0),
)  # fmt: skip
def test_is_the_formula(speakers: int, each: int, top_n: int, subtract: bool, seed: int) -> None:
    cohort, trials, embeddings = made(speakers, each, size=6, seed=seed)
    config = NormConfig("snorm", top_n=top_n, utterances=each, subtract_mean=subtract)
    norm = AdaptiveSNorm(random.Random(seed).sample(cohort, len(cohort)), embeddings, config)
    expected = by_hand(cohort, trials, embeddings, top_n, subtract)
    np.testing.assert_allclose(norm(trials, stack(trials.ids, embeddings) - norm.mean), expected, rtol=5e-3, atol=2e-2)


def test_does_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    cohort, trials, embeddings = made(9, 2, size=8, seed=0)
    norm = AdaptiveSNorm(cohort, embeddings, NormConfig("snorm", top_n=4))
    rows = stack(trials.ids, embeddings) - norm.mean
    whole = norm(trials, rows)
    assert whole.dtype == np.float32
    monkeypatch.setattr("downstream.sv.norm.CHUNK", 2)
    monkeypatch.setattr("downstream.sv.scoring.CHUNK", 3)
    np.testing.assert_allclose(norm(trials, rows), whole, rtol=1e-5)


def test_a_small_cohort_is_used_whole_and_said(caplog: pytest.LogCaptureFixture) -> None:
    cohort, _, embeddings = made(5, 2, size=8, seed=0)
    with caplog.at_level(logging.WARNING):
        assert AdaptiveSNorm(cohort, embeddings, NormConfig("snorm", top_n=300)).top_n == 5
    assert "task.norm.top_n is 300, but the cohort has 5 speakers" in caplog.text
    with pytest.raises(BenchmarkError, match="at least 2 speakers, got 1"):
        AdaptiveSNorm(cohort[:2], embeddings, NormConfig("snorm"))


def test_collapsed_embeddings_stay_finite() -> None:
    cohort, trials, embeddings = made(5, 2, size=8, seed=0)
    for same in (np.zeros(8, dtype=np.float32), np.ones(8, dtype=np.float32)):
        collapsed = dict.fromkeys(embeddings, same)
        norm = AdaptiveSNorm(cohort, collapsed, NormConfig("snorm", top_n=3))
        assert np.isfinite(norm(trials, stack(trials.ids, collapsed) - norm.mean)).all()


def test_the_cohort_is_chosen_by_hash() -> None:
    train = [Utterance(f"s{s}/{u}", "", speaker=f"s{s}") for s in range(6) for u in range(s + 1)]
    config = NormConfig("snorm", utterances=3)
    chosen = cohort_utterances(train, config, seed=0)
    assert [sum(u.speaker == f"s{s}" for u in chosen) for s in range(6)] == [1, 2, 3, 3, 3, 3]
    assert cohort_utterances(train[::-1], config, seed=0) == chosen
    assert cohort_utterances(train, config, seed=1) != chosen
    # part of the protocol: never changes
    assert [u.id for u in chosen if u.speaker == "s5"] == ["s5/4", "s5/0", "s5/3"]
