"""WER and CER against jiwer over whole corpora, a plain edit distance, and published examples."""

from __future__ import annotations

import jiwer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.errors import BenchmarkError
from benchmark.metrics import Edits, cer, character_edits, edit_rate, wer, word_edits


def distance(reference: list[str], hypothesis: list[str]) -> int:
    """Levenshtein's recursion, row by row."""
    row = list(range(len(hypothesis) + 1))
    for i, r in enumerate(reference, start=1):
        last, row[0] = row[0], i
        for j, h in enumerate(hypothesis, start=1):
            last, row[j] = row[j], min(last + (r != h), row[j] + 1, row[j - 1] + 1)
    return row[-1]


TEXTS = st.lists(st.sampled_from(["a", "b", "ab", "ba", "é", "l'an"]), max_size=7).map(" ".join)
PAIRS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6)


@given(PAIRS)
@settings(max_examples=300, deadline=None)
def test_rates_are_edit_distances_over_the_corpus(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = [list(texts) for texts in zip(*pairs, strict=True)]
    for metric, edits, split in ((wer, word_edits, str.split), (cer, character_edits, list)):
        length = sum(len(split(reference)) for reference in references)
        for reference, hypothesis in pairs:
            found = edits(reference, hypothesis)
            assert found.substitutions + found.deletions + found.insertions == distance(
                split(reference), split(hypothesis)
            )
            assert found.length == len(split(reference))
            assert found.length - found.deletions + found.insertions == len(split(hypothesis))
        if length:
            total = sum(distance(split(r), split(h)) for r, h in pairs)
            assert metric(references, hypotheses) == pytest.approx(100 * total / length)
        else:
            with pytest.raises(BenchmarkError, match="not all empty"):
                metric(references, hypotheses)


def test_rates_are_jiwers_over_the_corpus() -> None:
    random = np.random.default_rng(0)
    words = ["the", "a", "cat", "cats", "sat", "on", "mat", "matter", "it's"]
    for _ in range(30):
        references = [" ".join(random.choice(words, random.integers(1, 12))) for _ in range(10)]
        hypotheses = [" ".join(random.choice(words, random.integers(0, 12))) for _ in range(10)]
        assert wer(references, hypotheses) == pytest.approx(100 * jiwer.wer(references, hypotheses))
        assert cer(references, hypotheses) == pytest.approx(100 * jiwer.cer(references, hypotheses))


def test_published_examples() -> None:
    # Jurafsky and Martin, Speech and Language Processing, 3rd edition, section on word error rate: 6 substitutions,
    # 3 insertions and 1 deletion in 13 words of CallHome, 76.9 %
    reference = "i um the phone is i left the portable phone upstairs last night"
    hypothesis = "i got it to the fullest i love to portable form of stores last night"
    assert word_edits(reference, hypothesis) == Edits(substitutions=6, deletions=1, insertions=3, length=13)
    assert wer([reference], [hypothesis]) == pytest.approx(76.923, abs=1e-3)
    # Levenshtein's distances in every textbook
    assert cer(["kitten"], ["sitting"]) == pytest.approx(100 * 3 / 6)
    assert cer(["saturday"], ["sunday"]) == pytest.approx(100 * 3 / 8)


def test_edges() -> None:
    assert word_edits("", "") == Edits(0, 0, 0, 0)
    assert word_edits("", "a b") == Edits(0, 0, 2, 0)
    assert word_edits("a b", "") == Edits(0, 2, 0, 2)
    assert wer(["a b", ""], ["", "c"]) == pytest.approx(150)  # what is said where nothing was counts
    assert wer(["a b", "c"], ["a b", "d"]) == pytest.approx(100 / 3)  # over the corpus, not the mean over utterances
    assert wer(["a  b\tc"], [" a b c\n"]) == 0
    assert cer(["a b"], ["ab"]) == pytest.approx(100 / 3)
    assert wer(["a"], ["A"]) == 100
    assert edit_rate([Edits(1, 2, 3, 4), Edits(0, 0, 0, 8)]) == 50
    for references, hypotheses in (([], []), ([""], ["a"])):
        with pytest.raises(BenchmarkError, match="not all empty"):
            wer(references, hypotheses)
    with pytest.raises(ValueError, match="shorter"):
        wer(["a", "b"], ["a"])
