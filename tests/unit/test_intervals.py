"""Intervals and differences of benchmark.statistics: formulas by brute force, consistency, coverage by simulation.

The coverage of more settings: recipes/benchmarks/interval_coverage.py and docs/statistics.md.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr
from scipy.stats import norm

from benchmark.statistics import Interval, Statistic, bootstrap, compare, error_rates, identification, summarise
from benchmark.statistics import verification as of_trials
from benchmark.statistics.trials import Side

Floats = NDArray[np.float64]
SPREAD = 0.6
"""Of the logarithm of the speakers' difficulty."""


def names(numbers: NDArray[np.int64]) -> list[str]:
    return [f"{number:06d}" for number in numbers]


@functools.cache
def distance(eer: float) -> float:
    """Of :func:`difficult_trials`' target scores: the miss rate is a mean over speakers' difficulties."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    deviation = np.sqrt(0.2 + 0.8 * np.exp(2 * SPREAD * nodes))

    def miss(mean: float) -> float:
        return float(weights @ ndtr((-norm.ppf(eer) - mean) / deviation) / weights.sum())

    return float(brentq(lambda mean: miss(mean) - eer, 0, 30))


def difficult_trials(
    random: np.random.Generator, speakers: int, each: int, eer: float, systems: int = 1
) -> list[Statistic]:
    """Statistics of ``each`` target and nontarget trials per speaker, whose difficulty varies; systems share 70 % of
    the variance of everything but the speakers' difficulty, which is common to them."""

    def made(*shape: int) -> list[Floats]:
        common = random.normal(size=shape)
        if systems == 1:
            return [common]
        return [np.sqrt(0.7) * common + np.sqrt(0.3) * random.normal(size=shape) for _ in range(systems)]

    first = np.repeat(np.arange(speakers), each)
    second = (first + 1 + random.integers(speakers - 1, size=first.size)) % speakers
    hard, size = random.normal(size=speakers), np.exp(SPREAD * random.normal(size=speakers))
    low, high = np.minimum(first, second), np.maximum(first, second)
    labels, one, other = np.repeat([1, 0], first.size), names(np.r_[first, first]), names(np.r_[first, second])
    drawn = zip(made(speakers), made(speakers, speakers), made(first.size), made(first.size), strict=True)
    found = []
    for wolf, pair, of_target, of_nontarget in drawn:
        target = distance(eer) - np.sqrt(0.2) * hard[first] + np.sqrt(0.8) * size[first] * of_target
        nontarget = np.sqrt(0.05) * (wolf[first] + wolf[second]) + np.sqrt(0.1) * pair[low, high]
        found.append(of_trials(labels, np.r_[target, nontarget + np.sqrt(0.8) * of_nontarget], one, other))
    return found


# --- formulas ---------------------------------------------------------------------------------------------------------


def some_side(random: np.random.Generator) -> Side:
    scores = np.sort(np.round(random.normal(size=60), 1))
    one = random.integers(6, size=60)
    return Side(scores, [one, (one + 1 + random.integers(5, size=60)) % 6], 6)


def test_trials_in_error_by_hand() -> None:
    """Scores 1, 2, 2, 2, 3 of speakers 0, 0, 1, 2, 1: at half of them, trial 1 and half of each of the three 2s."""
    side = Side(np.array([1.0, 2, 2, 2, 3]), [np.array([0, 0, 1, 2, 1])], 4)
    np.testing.assert_allclose(side.errors(0.5), [1.5, 0.5, 0.5, 0])
    np.testing.assert_allclose(side.errors(0.1), [0.5, 0, 0, 0])
    np.testing.assert_allclose(side.errors(0.2), [1, 0, 0, 0])
    np.testing.assert_allclose(side.errors(0), 0)
    np.testing.assert_allclose(side.errors(1), side.trials)
    assert side.present == 3


def test_trials_of_pairs_sum_to_those_of_speakers() -> None:
    side = some_side(np.random.default_rng(0))
    one, other = side.speakers
    for rate in (0.013, 0.2, 0.5, 0.97):
        of_pairs, of_speakers = side.pair_errors(rate), side.errors(rate)
        assert of_pairs.sum() == pytest.approx(60 * rate)
        assert of_speakers.sum() == pytest.approx(2 * 60 * rate)
        index, _ = side.pair_of
        for speaker in range(6):
            own = np.unique(index[(one == speaker) | (other == speaker)])
            assert of_pairs[own].sum() == pytest.approx(of_speakers[speaker])


def test_smoothed_errors_by_brute_force() -> None:
    """Every speaker's scores are shifted by each of the shifts, one speaker after the other."""
    random = np.random.default_rng(1)
    scores = random.normal(size=4000)
    one = random.integers(40, size=4000)
    scores += 0.7 * random.normal(size=40)[one]
    order = np.argsort(scores)
    side = Side(scores[order], [one[order]], 40)
    shares = np.bincount(one)
    mean = np.bincount(one, scores) / shares
    within = np.bincount(one, (scores - mean[one]) ** 2) / (shares - 1)
    spread = np.sqrt(mean.var(ddof=1) - within.mean() * (1 / shares).mean())
    from scipy.stats import t

    shifts = t.ppf((np.arange(64) + 0.5) / 64, 4)
    shifts *= spread * min(1, 1.5 * 40**-0.2) / np.sqrt((shifts**2).mean())
    for rate in (0.01, 0.1, 0.5):
        threshold = float(np.quantile(scores[:, None] - shifts, rate))
        errors = np.array([[(scores[one == a] - shift <= threshold).sum() for shift in shifts] for a in range(40)])
        expected = float(((errors - rate * shares[:, None]) ** 2).mean(axis=1).sum())
        assert side.smoothed(rate) == pytest.approx(expected, rel=0.05)


def some_languages(random: np.random.Generator) -> Statistic:
    """Each speaker says all of four languages."""
    speaker = np.arange(1200) // 20
    language = np.arange(1200) % 4
    llrs = random.normal(size=(1200, 4)) + 0.5 * random.normal(size=(60, 4))[speaker]
    llrs += np.where(language[:, None] == np.arange(4), 1.0, -1.0)
    return identification(language, llrs.argmax(axis=1), names(speaker), llrs)


def some_words(random: np.random.Generator) -> Statistic:
    speaker = random.integers(60, size=900)
    edits, words = random.poisson(1 + 2 * random.random(60)[speaker]), random.integers(3, 30, size=900)
    return error_rates({"wer": (edits, words)}, names(speaker))


@pytest.mark.parametrize("made", ["trials", "languages", "words"])
def test_standard_errors_are_those_of_a_bootstrap(made: str) -> None:
    """Draws of clusters know nothing of the formulas. (The bootstrap of trials counts a trial's own variance more than
    once; with 60 speakers and 200 trials each that is little.)"""
    random = np.random.default_rng(9)
    makers: dict[str, Any] = {"languages": some_languages, "words": some_words}
    system = makers[made](random) if made in makers else difficult_trials(random, 60, 200, 0.05)[0]
    drawn = bootstrap.resample([system], 1000)
    for m, (name, summary) in enumerate(summarise([system]).items()):
        tolerance = 0.25 if name.startswith("min_dcf") else 0.12  # not smooth
        assert summary.test_set.se == pytest.approx(drawn.draws[:, m].std(), rel=tolerance), name


@pytest.mark.parametrize("made", ["trials", "languages", "words"])
def test_errors_of_differences_are_those_of_a_bootstrap(made: str) -> None:
    random = np.random.default_rng(4)
    if made == "trials":
        systems = difficult_trials(random, 60, 200, 0.05, systems=2)
    else:
        makers: dict[str, Any] = {"languages": some_languages, "words": some_words}
        systems = [makers[made](np.random.default_rng(4)), makers[made](np.random.default_rng(4))]
        if made == "words":
            speaker = random.integers(60, size=900)
            words = random.integers(3, 30, size=900)
            edits = [random.poisson(1 + 2 * random.random(60)[speaker]) for _ in range(2)]
            systems = [error_rates({"wer": (of, words)}, names(speaker)) for of in edits]
        else:
            assert compare(systems[:1], systems[1:])["cavg"].test_set.se == 0
            systems[1] = some_languages(np.random.default_rng(5))
    drawn = bootstrap.resample(systems, 1000).difference(1)
    for m, (name, found) in enumerate(compare(systems[:1], systems[1:]).items()):
        expected = drawn.draws[:, m].std()
        # the EER's is taken at raised errors; the minimum of a resampled cost jumps more than that of a new test set
        low, high = (0.6, 1.5) if name.startswith("min_dcf") else (0.88, 1.4)
        assert low * expected < found.test_set.se < high * expected, name


# --- consistency ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair() -> list[Statistic]:
    return difficult_trials(np.random.default_rng(5), 20, 40, 0.05, systems=2)


@given(level=st.floats(0.01, 0.9999), of=st.sampled_from(["eer", "min_dcf_p01", "min_dcf_p05"]))
@settings(max_examples=30, deadline=None)
def test_p_value_and_interval_agree_at_every_level(pair: list[Statistic], level: float, of: str) -> None:
    found = compare(pair[:1], pair[1:], level=level)[of]
    excludes = found.test_set.low > 0 or found.test_set.high < 0
    assert excludes == (found.p_value < 1 - level)
    at_its_level = compare(pair[:1], pair[1:], level=1 - found.p_value)[of].test_set
    assert min(abs(at_its_level.low), abs(at_its_level.high)) == pytest.approx(0, abs=1e-9)


def test_intervals_grow_with_the_level(pair: list[Statistic]) -> None:
    random = np.random.default_rng(0)
    for systems in (pair[:1], [some_languages(random)], [some_words(random)]):
        for name in systems[0].names:
            found = [summarise(systems, level=level)[name].test_set for level in (0.5, 0.8, 0.95, 0.99, 0.999, 0.99999)]
            lows, highs = [each.low for each in found], [each.high for each in found]
            assert lows == sorted(lows, reverse=True)
            assert highs == sorted(highs)
            assert all(each.low <= each.value <= each.high for each in found)
            assert (found[0].se, found[0].top_cluster) == (found[-1].se, found[-1].top_cluster)


def test_exchanged_systems_mirror_their_difference(pair: list[Statistic]) -> None:
    for name, found in compare(pair[:1], pair[1:]).items():
        mirrored = compare(pair[1:], pair[:1])[name]
        assert (mirrored.test_set.low, mirrored.test_set.high) == (
            pytest.approx(-found.test_set.high),
            pytest.approx(-found.test_set.low),
        )
        assert mirrored.p_value == pytest.approx(found.p_value)
        assert mirrored.probability_of_improvement == pytest.approx(1 - found.probability_of_improvement)


def test_a_system_against_itself() -> None:
    random = np.random.default_rng(0)
    for system in (difficult_trials(random, 10, 10, 0.05)[0], some_languages(random), some_words(random)):
        for found in compare([system], [system]).values():
            assert (found.test_set.low, found.test_set.high, found.test_set.se) == (0, 0, 0)
            assert (found.probability_of_improvement, found.p_value) == (0.5, 1)
            assert found.test_set.effective_clusters is None


def test_better_everywhere() -> None:
    references = np.arange(40) % 2
    clusters = names(np.arange(40))
    poor = identification(references, np.where(np.arange(40) % 4 < 2, references, 1 - references), clusters)
    good = identification(references, references, clusters)
    found = compare([poor], [good])["accuracy"]
    assert found.test_set.value == 50
    assert found.test_set.low > 25
    assert found.probability_of_improvement > 0.999
    assert found.p_value < 1e-5


@pytest.mark.parametrize("each", [1, 3])
def test_a_difference_that_all_clusters_share_is_not_certain(each: int) -> None:
    """One system is right everywhere, the other nowhere: two utterances do not separate them, thirty do."""

    def found(count: int) -> tuple[float, float]:
        clusters, references = names(np.arange(count) // each), np.arange(count) % 2
        poor, good = (identification(references, said, clusters) for said in (1 - references, references))
        of = compare([poor], [good])["accuracy"]
        assert of.test_set.low < of.test_set.value == 100 < of.test_set.high
        return of.p_value, compare([poor], [good])["macro_f1"].p_value

    assert min(found(2 * each)) > 0.05
    assert max(found(30 * each)) < 1e-6
    words = [error_rates({"wer": ([wrong] * 2, [10] * 2)}, ["a", "b"]) for wrong in (0, 1)]
    without = compare(words[:1], words[:1])["wer"]
    assert without.test_set.low < 0 < without.test_set.high
    assert without.p_value == 1
    assert compare(words[:1], words[1:])["wer"].p_value > 0.05


def test_runs_that_are_equal_are_as_one(pair: list[Statistic]) -> None:
    for name, one in summarise(pair[:1]).items():
        three = summarise([pair[0]] * 3)[name]
        assert three.test_set.value == pytest.approx(one.test_set.value)
        assert (three.test_set.low, three.test_set.high, three.test_set.se) == pytest.approx(
            (one.test_set.low, one.test_set.high, one.test_set.se)
        )
    for name, one_pair in compare(pair[:1], pair[1:]).items():
        assert compare([pair[0]] * 2, [pair[1]] * 2)[name].test_set.se == pytest.approx(one_pair.test_set.se)


# --- what the test set cannot show ------------------------------------------------------------------------------------


def test_no_error_at_all() -> None:
    """The lower limit is 0; the upper one is above that of independent trials and falls with their number."""
    first = np.repeat(np.arange(20), 50)
    highs = []
    for each in (1, 10):
        one, other = np.repeat(first, each), np.repeat((first + 1 + np.arange(1000) % 19) % 20, each)
        labels = np.repeat([1, 0], one.size)
        scores = labels * 10 + np.random.default_rng(0).normal(size=labels.size)
        system = of_trials(labels, scores, names(np.r_[one, one]), names(np.r_[one, other]))
        found = {name: summary.test_set for name, summary in summarise([system]).items()}
        for name, scale in (("eer", 100), ("min_dcf_p01", 1), ("min_dcf_p05", 1)):
            assert (found[name].value, found[name].low) == (0, 0)
            assert scale * 0.5 / one.size < found[name].high < scale
            assert found[name].too_few
            assert (found[name].se, found[name].effective_clusters) == (0, None)
        highs.append(found["eer"].high)
    assert highs[1] < highs[0]
    words = summarise([error_rates({"wer": ([0] * 300, [20] * 300)}, names(np.arange(300) % 30))])["wer"].test_set
    assert (words.value, words.low) == (0, 0)
    assert 100 * 3.7 / 6000 < words.high < 1


@pytest.mark.parametrize("edits", [[0, 2], [0, 10], [0, 500], [0, 0]])
@pytest.mark.parametrize("level", [0.95, 0.99999999])
def test_two_speakers_bound_no_word_error_rate(edits: list[int], level: float) -> None:
    """The search ends, and at a rate that a figure can show."""
    found = summarise([error_rates({"wer": (edits, [10, 10])}, ["a", "b"])], level=level)["wer"].test_set
    assert found.high <= max(1000, 10 * found.value)
    assert found.low <= found.value <= found.high
    assert found.too_few


def test_nothing_but_errors() -> None:
    wrong = summarise([identification([0, 1] * 30, [1, 0] * 30, names(np.arange(60) % 12))])
    for name in ("accuracy", "macro_accuracy", "macro_f1"):
        found = wrong[name].test_set
        assert (found.value, found.low) == (0, 0)
        assert 0 < found.high < 50
    first = np.repeat(np.arange(10), 30)
    second = (first + 1 + np.arange(300) % 9) % 10
    scores = np.r_[np.random.default_rng(0).normal(size=600)]
    found = summarise(
        [of_trials(np.repeat([1, 0], 300), scores, names(np.r_[first, first]), names(np.r_[first, second]))]
    )
    cost = found["min_dcf_p01"].test_set
    assert cost.high == 1
    assert 0.5 < cost.low < cost.value


def test_the_most_influential_speaker_is_named() -> None:
    """Four speakers, ten utterances each: 0, 0, 0 and 4 errors; distances from the mean rate -1, -1, -1 and 3."""
    correct = np.ones(40)
    correct[30:34] = 0
    found = summarise([error_rates({"accuracy": (correct, np.ones(40))}, list("abcd" * 0) + names(np.arange(40) // 10),
                                   higher_is_better=True)])["accuracy"].test_set  # fmt: skip
    assert found.top_cluster == "000003"
    assert found.top_share == pytest.approx(9 / 12)
    assert found.effective_clusters == pytest.approx(144 / 84)
    assert found.se == pytest.approx(100 * np.sqrt(4 / 3 * 12) / 40)
    assert found.value == pytest.approx(90)
    assert found.too_few
    assert found.notes == (
        "Too few clusters: the error could be more than 3 times what was measured.",
        "Kinds of clusters rarer than 60 % may be absent from these 4 clusters; no interval shows what they would "
        "change.",
    )


def test_classes_of_one_speaker_are_said() -> None:
    speaker = np.arange(60) // 6
    language = np.where(speaker < 9, speaker % 3, 3)
    system = identification(language, np.where(np.arange(60) % 7, language, 0), names(speaker))
    found = summarise([system])
    assert found["macro_f1"].test_set.notes[-2].startswith("1 of 4 classes have utterances of one cluster only")
    assert len(found["accuracy"].test_set.notes) == 1


# --- coverage ---------------------------------------------------------------------------------------------------------


def holds(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def test_coverage_of_an_eer_with_difficult_speakers() -> None:
    """95 % intervals at an EER of 1 %, 40 speakers; measured with 2,000 simulations: see docs/statistics.md. The BCa
    bootstrap that they replace covers about 80 %."""
    found = [
        summarise(difficult_trials(np.random.default_rng([1, seed]), 40, 60, 0.01))["eer"].test_set
        for seed in range(200)
    ]
    assert 0.92 <= np.mean([holds(each, 1) for each in found]) <= 0.99
    assert np.median([each.high - each.low for each in found]) < 4


def test_equal_systems_are_seldom_called_different() -> None:
    different = []
    for seed in range(150):
        first, second = difficult_trials(np.random.default_rng([2, seed]), 40, 60, 0.02, systems=2)
        different.append({name: found.p_value < 0.05 for name, found in compare([first], [second]).items()})
    shares = {name: np.mean([each[name] for each in different]) for name in different[0]}
    assert all(share <= 0.07 for share in shares.values()), shares
    assert shares["eer"] > 0.005  # not for lack of power


def test_a_planted_difference_is_found() -> None:
    found = []
    for seed in range(40):
        first = difficult_trials(np.random.default_rng([3, seed]), 60, 60, 0.02)[0]
        second = difficult_trials(np.random.default_rng([3, seed]), 60, 60, 0.05)[0]
        found.append(compare([first], [second])["eer"].p_value < 0.05)
    assert np.mean(found) > 0.9


def test_coverage_of_error_rates_and_of_languages() -> None:
    """Clustered by speaker; the WER's interval that takes utterances for independent does not hold."""
    speaker = np.repeat(np.arange(40), 15)
    language = speaker % 4
    truth = {"wer": 10.0, "naive": 10.0, "accuracy": 90.0, "macro_accuracy": 90.0, "cavg": norm.cdf(-1.5)}
    covered: dict[str, list[bool]] = {kind: [] for kind in truth}
    for seed in range(250):
        random = np.random.default_rng([4, seed])
        words = random.integers(5, 25, size=speaker.size)
        edits = random.binomial(words, random.beta(1, 9, size=40)[speaker])
        right = random.random(speaker.size) < random.beta(9, 1, size=40)[speaker]
        # LLRs about 1.5 and -1.5, of variance 1, 0.2 of it the speaker's
        llrs = np.sqrt(0.8) * random.normal(size=(600, 4)) + np.sqrt(0.2) * random.normal(size=40)[speaker, None]
        llrs += np.where(language[:, None] == np.arange(4), 1.5, -1.5)
        predictions = np.where(right, language, (language + 1) % 4)
        results = {
            **summarise([error_rates({"wer": (edits, words)}, names(speaker))]),
            **summarise([error_rates({"naive": (edits, words)}, names(np.arange(600)))]),
            **summarise([identification(language, predictions, names(speaker), llrs)]),
        }
        for kind, value in truth.items():
            covered[kind].append(holds(results[kind].test_set, value))
    shares = {kind: float(np.mean(some)) for kind, some in covered.items()}
    assert shares.pop("naive") < 0.8
    assert all(0.91 <= share <= 0.985 for share in shares.values()), shares


def test_one_speaker_with_most_of_the_words() -> None:
    """Half of all words are one speaker's. With ``n - 1`` degrees of freedom and a correction by ``n / (n - 1)``, 70 %
    of the intervals hold and 24 % of equal systems are called different."""
    lengths = np.array([4000] + [200] * 19)
    covered, different = [], []
    for seed in range(250):
        random = np.random.default_rng([5, seed])
        rates = np.minimum(0.1 * np.exp(0.5 * random.normal(size=(2, 20)) - 0.125), 0.9)
        first, second = (
            error_rates({"wer": (random.binomial(lengths, rate), lengths)}, names(np.arange(20))) for rate in rates
        )
        covered.append(holds(summarise([first])["wer"].test_set, 10))
        different.append(compare([first], [second])["wer"].p_value < 0.05)
    assert np.mean(covered) > 0.93
    assert np.mean(different) < 0.07


def test_one_speaker_with_most_of_the_trials() -> None:
    """As above; before, the EERs of two thirds of such equal systems were called different."""
    different = []
    for seed in range(40):
        random = np.random.default_rng([6, seed])
        first = np.repeat(np.arange(20), [2000] + [50] * 19)
        second = (first + 1 + random.integers(19, size=first.size)) % 20
        labels, one, other = np.repeat([1, 0], first.size), names(np.r_[first, first]), names(np.r_[first, second])
        systems = []
        for _ in range(2):
            target = 3.3 + 0.5 * random.normal(size=20)[first] + random.normal(size=first.size)
            systems.append(of_trials(labels, np.r_[target, random.normal(size=first.size)], one, other))
        different.append(compare(systems[:1], systems[1:])["eer"].p_value < 0.05)
    assert np.mean(different) < 0.1


@pytest.mark.slow
def test_an_interval_of_580000_trials_takes_a_second() -> None:
    """Of processor time, with sorting, for three metrics; measured 0.45 s, and 0.6 s for a difference."""
    import time

    (system,) = difficult_trials(np.random.default_rng(0), 1200, 241, 0.03)
    begun = time.process_time()
    found = summarise([system])["eer"].test_set
    assert time.process_time() - begun < 1
    assert holds(found, 3)
