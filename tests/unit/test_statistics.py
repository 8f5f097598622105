"""benchmark.statistics against resampled data, scipy and curves worked out by hand; intervals: test_intervals.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmark import metrics
from benchmark import statistics as stats
from benchmark.errors import BenchmarkError
from benchmark.evaluation import Classes, Edits, Items, Trials
from benchmark.metrics import METRICS, Metric
from benchmark.statistics import (
    Curve,
    Statistic,
    Target,
    area,
    bootstrap,
    compare,
    crossovers,
    error_rates,
    identification,
    label_multiplier,
    labels_to_target,
    learning_curve,
    seed_spread,
    summarise,
    verification,
)
from benchmark.statistics import statistic as statistic_module

Floats = NDArray[np.float64]


def names(numbers: NDArray[np.int64]) -> list[str]:
    return [f"{number:06d}" for number in numbers]


def trials(
    random: np.random.Generator, speakers: int, each: int, *, distance: float = 3.3, levels: int = 0
) -> tuple[NDArray[np.int64], Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Labels, scores and speakers of ``each`` target and nontarget trials per speaker.

    All scores have variance 1, a share of it from their speakers (as targets: 0.2, as nontargets: 0.1) and from the
    pair (0.1), so that the population's EER is ``normal cdf(-distance / 2)``.
    """
    first = np.repeat(np.arange(speakers), each)
    second = (first + 1 + random.integers(speakers - 1, size=first.size)) % speakers
    own, as_nontarget, pair = (random.normal(size=shape) for shape in (speakers, speakers, (speakers, speakers)))
    target = distance + np.sqrt(0.2) * own[first] + np.sqrt(0.8) * random.normal(size=first.size)
    nontarget = np.sqrt(0.05) * (as_nontarget[first] + as_nontarget[second])
    low, high = np.minimum(first, second), np.maximum(first, second)
    nontarget += np.sqrt(0.1) * pair[low, high] + np.sqrt(0.8) * random.normal(size=first.size)
    scores = np.r_[target, nontarget]
    if levels:
        scores = np.round(scores * levels) / levels
    return np.r_[np.ones_like(first), np.zeros_like(first)], scores, np.r_[first, first], np.r_[first, second]


def of_trials(made: tuple[NDArray[np.int64], Floats, NDArray[np.int64], NDArray[np.int64]]) -> Statistic:
    labels, scores, first, second = made
    return verification(labels, scores, names(first), names(second))


# --- statistics are the metrics of the drawn data ---------------------------------------------------------------------


@pytest.mark.parametrize("levels", [0, 1, 3])
@pytest.mark.parametrize("distance", [0.0, 2.0, 8.0])
def test_drawn_trials_are_counted_by_their_speakers(distance: float, levels: int) -> None:
    random = np.random.default_rng(7)
    for _ in range(5):
        labels, scores, first, second = made = trials(random, 8, 15, distance=distance, levels=levels)
        counts = random.multinomial(8, np.full(8, 1 / 8), size=6).astype(float)
        counts[0] = 1
        found = of_trials(made).compute(counts)
        for row, values in zip(counts, found, strict=True):
            weights = np.where(labels == 1, row[first], row[first] * row[second]).astype(int)
            drawn = np.repeat(labels, weights), np.repeat(scores, weights)
            expected = [metrics.eer(*drawn), metrics.min_dcf(*drawn, 0.01), metrics.min_dcf(*drawn, 0.05)]
            np.testing.assert_allclose(values, expected, atol=1e-9)


def test_undrawn_targets_or_nontargets_leave_the_metrics_undetermined() -> None:
    statistic = verification([1, 0, 0], [2.0, 1.0, 0.0], ["a", "a", "b"], ["a", "b", "c"])
    found = statistic.compute(np.array([[0.0, 1, 2], [3, 0, 0], [1, 1, 1]]))
    assert np.isnan(found[:2]).all()
    assert np.isfinite(found[2]).all()


def test_drawn_utterances_of_languages() -> None:
    random = np.random.default_rng(3)
    for size in (2, 3, 5):
        references = np.r_[0, 1, random.integers(size, size=40)]
        logs = random.normal(size=(42, size + 1)) + 2 * (references[:, None] == np.arange(size + 1))
        predictions, llrs = logs.argmax(axis=1), metrics.detection_llrs(logs)
        speakers = 10 * references + random.integers(3, size=42)
        statistic = identification(references, predictions, names(speakers), llrs, p_target=0.3)
        _, of = np.unique(speakers, return_inverse=True)
        for row in random.multinomial(statistic.clusters, np.full(statistic.clusters, 1 / statistic.clusters), size=25):
            drawn = np.repeat(np.arange(42), row[of])
            r, p = references[drawn], predictions[drawn]
            values = statistic.compute(row[None].astype(float))[0]
            expected = [metrics.accuracy(r, p), metrics.macro_accuracy(r, p), metrics.macro_f1(r, p)]
            np.testing.assert_allclose(values[:3], expected, atol=1e-9)
            if len(np.unique(r)) > 1:
                assert values[3] == pytest.approx(metrics.cavg(r, llrs[drawn], 0.3), abs=1e-12)
            else:
                assert np.isnan(values[3])
        assert statistic.names == ("accuracy", "macro_accuracy", "macro_f1", "cavg")
        assert statistic.higher_is_better == (True, True, True, False)


def some_trials() -> Trials:
    labels, scores, first, second = trials(np.random.default_rng(2), 8, 15)
    speakers = names(np.arange(8))
    ids = [f"{speaker}/{side}" for side in "ab" for speaker in speakers]
    return Trials(ids, [name.split("/")[0] for name in ids], "speaker", labels, first, second + 8, scores)


def some_classes() -> Classes:
    random = np.random.default_rng(3)
    references = np.arange(42) % 3
    logs = random.normal(size=(42, 4)) + 2 * (references[:, None] == np.arange(4))
    ids = names(np.arange(42))
    clusters = [f"{k % 14}" for k in range(42)]
    return Classes(ids, clusters, "session", ["a", "b", "c", "d"], references, logs.argmax(axis=1), logs)


def some_edits() -> Edits:
    random = np.random.default_rng(4)
    references = [" ".join(f"w{j}" for j in range(3 + k % 4)) for k in range(30)]
    hypotheses = [" ".join(w for w in text.split() if random.random() > 0.3) for text in references]
    return Edits(names(np.arange(30)), [f"{k % 7}" for k in range(30)], "speaker", references, hypotheses)


@pytest.mark.parametrize("items", [some_trials(), some_classes(), some_edits()], ids=["trials", "classes", "edits"])
def test_metrics_of_drawn_items_are_those_of_counts(items: Items) -> None:
    """The way of all declared metrics, against the fast way of a few."""
    fast = stats.of(items, {})
    own = {name: METRICS[name] for name in fast.names}
    assert set(own) <= set(statistic_module._FAST[items.kind])
    slow = statistic_module._of_items(items, own)
    assert (slow.names, slow.clusters, slow.higher_is_better) == (fast.names, fast.clusters, fast.higher_is_better)
    assert (set(fast.errors), slow.errors) == (set(own), {})
    counts = np.random.default_rng(0).multinomial(fast.clusters, np.full(fast.clusters, 1 / fast.clusters), size=20)
    counts[0] = 1
    np.testing.assert_allclose(slow.compute(counts.astype(float)), fast.compute(counts.astype(float)), atol=1e-9)


def test_a_metric_of_a_plug_in_has_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "METRICS", dict(METRICS))

    @metrics.metric("mistakes", kind="classes", label="mistakes", unit="%")
    def mistakes(items: Classes) -> float | None:
        return 100 * float((items.references != items.predictions).mean())

    items = some_classes()
    plug_in = [stats.of(items, {"mistakes": metrics.find("mistakes")})]
    of_plug_in = summarise(plug_in)["mistakes"].test_set
    accuracy = summarise([stats.of(items, {"accuracy": metrics.find("accuracy")})])["accuracy"].test_set
    assert (of_plug_in.method, accuracy.method) == ("bootstrap over clusters", "inversion, variance scaled")
    assert of_plug_in.value == pytest.approx(100 - accuracy.value)
    assert of_plug_in.se == pytest.approx(accuracy.se, rel=0.1)
    assert (of_plug_in.low, of_plug_in.high) == pytest.approx((100 - accuracy.high, 100 - accuracy.low), rel=0.4)
    assert of_plug_in.top_cluster == accuracy.top_cluster
    assert of_plug_in.top_share == pytest.approx(accuracy.top_share, abs=0.02)
    assert of_plug_in.effective_clusters == pytest.approx(accuracy.effective_clusters, rel=0.05)
    itself = compare(plug_in, plug_in)["mistakes"]
    assert (itself.test_set.low, itself.test_set.high, itself.p_value) == (0, 0, 1)


def test_metrics_that_items_do_not_determine() -> None:
    with pytest.raises(BenchmarkError, match="metric 'wer' is not defined on classes"):
        stats.of(some_classes(), {"wer": METRICS["wer"]})
    few = replace(some_classes(), log_posteriors=None)
    assert np.isnan(stats.of(few, {"cavg": METRICS["cavg"]}).values()["cavg"])
    undetermined = Metric("odd", "odd", compute={"classes": lambda items: None})
    with pytest.raises(BenchmarkError, match="does not determine odd"):
        summarise([stats.of(some_classes(), {"odd": undetermined})])


def test_error_rates_are_ratios_of_sums() -> None:
    statistic = error_rates({"wer": ([1, 0, 3], [4, 6, 5]), "cer": ([2, 2, 2], [20, 0, 10])}, ["a", "b", "a"])
    assert statistic.values() == {"wer": pytest.approx(100 * 4 / 15), "cer": pytest.approx(20)}
    np.testing.assert_allclose(statistic.compute(np.array([[2.0, 0], [0, 2]])), [[400 / 9, 400 / 30], [0, np.nan]])


def test_draws_do_not_depend_on_the_blocks() -> None:
    blocks = [np.concatenate(list(bootstrap.draws(7, 23, rows, np.random.default_rng(5)))) for rows in (1, 4, 23, 100)]
    for block in blocks:
        np.testing.assert_array_equal(block, blocks[0])
        assert (block.sum(axis=1) == 7).all()


# --- seeds and comparisons --------------------------------------------------------------------------------------------


def test_seed_spread_is_students() -> None:
    values = [4.0, 5.0, 7.0, 4.5]
    found = seed_spread(values, level=0.9)
    low, high = scipy.stats.t.interval(0.9, 3, loc=np.mean(values), scale=scipy.stats.sem(values))
    assert (found.mean, found.sd, found.low, found.high, found.n) == pytest.approx(
        (5.125, np.std(values, ddof=1), low, high, 4)
    )
    assert seed_spread([3.0]) == stats.SeedSpread(3.0, None, None, None, 1, 0.95)


def rates_of(edits: list[list[int]]) -> list[Statistic]:
    return [error_rates({"wer": (of, [10] * len(of))}, names(np.arange(len(of)))) for of in edits]


def of_two_trials(second: list[str]) -> Statistic:
    return verification([1, 0, 0], [2, 1, 0], ["a", "a", "a"], [*second, "d"])


def test_seeds_and_test_set_are_kept_apart() -> None:
    same = summarise(rates_of([[1, 2, 3, 4, 5, 9]] * 2))["wer"]
    assert same.seeds.sd == 0
    alone = summarise(rates_of([[1, 2, 3, 4, 5, 9]]))["wer"]
    assert same.test_set == alone.test_set
    assert alone.test_set.low < 40 < alone.test_set.high
    assert alone.seeds.sd is None
    apart = summarise(rates_of([[2, 1, 3, 2], [3, 3, 2, 4], [4, 5, 4, 3]]))["wer"]
    assert (apart.test_set.value, apart.seeds.mean, apart.seeds.n) == (pytest.approx(30), pytest.approx(30), 3)
    assert apart.seeds.sd == pytest.approx(10)
    constant = compare(rates_of([[1, 2, 3], [4, 5, 6]]), rates_of([[2, 3, 4], [6, 7, 8]]))["wer"]
    assert constant.test_set.value == pytest.approx(15)
    assert constant.seeds.sd == pytest.approx(10 / np.sqrt(2))


def test_comparison_over_seeds_pairs_the_seeds() -> None:
    found = compare(rates_of([[1] * 4, [5] * 4]), rates_of([[3] * 4, [7] * 4]))["wer"]
    assert (found.seeds.mean, found.seeds.sd) == (pytest.approx(20), pytest.approx(0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: seed_spread([]), "finite values"),
        (lambda: seed_spread([1.0, float("nan")]), "finite values"),
        (lambda: seed_spread([1.0], level=95), "between 0 and 1"),
        (lambda: summarise([]), "needs runs"),
        (lambda: summarise(rates_of([[1, 2]]), replicates=5), "100 replicates"),
        (lambda: summarise(rates_of([[1, 2]]), level=1), "between 0 and 1"),
        (lambda: summarise(rates_of([[1, 2], [1, 2, 3]])), "different test sets"),
        (lambda: summarise([of_two_trials(["a", "b"]), of_two_trials(["a", "d"])]), "different test sets"),
        (lambda: compare(rates_of([[1, 2]]), rates_of([[1, 2], [1, 2]])), "paired by seed"),
        (lambda: error_rates({"wer": ([1], [1])}, ["a"]), "at least 2 clusters"),
        (lambda: error_rates({"wer": ([1, 2], [0, 0])}, ["a", "b"]), "all empty"),
        (lambda: error_rates({"wer": ([1, 2, 3], [1, 1, 1])}, ["a", "b"]), "2 utterances"),
        (lambda: error_rates({"wer": ([1, -2], [1, 1])}, ["a", "b"]), "not negative"),
        (lambda: verification([1, 0], [1, 0], ["a", "a"], ["b", "b"]), "contradict"),
        (lambda: verification([1, 0], [1, 0], ["a", "a"], ["a"]), "speakers of 2 and 1"),
        (lambda: verification([1, 0], [1, 0], ["a", "a"], ["a", "b"], [1.0]), "priors"),
        (lambda: identification([0, 1], [0], ["a", "b"]), "have one size"),
        (lambda: identification([0, 0], [0, 0], ["a", "b"], [[1, 0], [1, 0]]), "2 languages"),
        (lambda: identification([0, 2], [0, 0], ["a", "b"], [[1, 0], [1, 0]]), "at least 3 classes"),
        (lambda: summarise([verification([1, 0], [1, 0], ["a", "a"], ["a", "b"])]), "at least 3 speakers"),
        (lambda: learning_curve({}), "positive and finite"),
        (lambda: learning_curve({0.0: [1.0]}), "positive and finite"),
        (lambda: area(learning_curve({1.0: [1.0]})), "two budgets"),
        (lambda: area(learning_curve({1.0: [1.0], 2.0: [1.0]}), budgets=(0.5, 2)), "nothing is extrapolated"),
        (lambda: labels_to_target(learning_curve({1.0: [1.0]}), float("nan")), "finite"),
    ],
)
def test_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        call()


# --- curves -----------------------------------------------------------------------------------------------------------


def curve(*errors: float, start: float = 1.0, factor: float = 10.0) -> Curve:
    return learning_curve({start * factor**index: [error] for index, error in enumerate(errors)})


def test_learning_curve_has_a_band() -> None:
    found = learning_curve({600: [20, 22], 60: [41, 39, 40], 3600: [10]})
    assert (found.budgets, found.errors) == ((60, 600, 3600), (40, 21, 10))
    assert [spread.n for spread in found.seeds] == [3, 2, 1]
    assert found.at([60, np.sqrt(60 * 600), 3600]) == pytest.approx([40, 30.5, 10])


def test_area_by_hand() -> None:
    """40, 20, 10 at 1, 10, 100: trapezoids of 30 and 15, mean 22.5 %."""
    assert area(curve(40, 20, 10)).value == pytest.approx(0.225)
    assert area(curve(40, 20, 10), errors=(10, 60)).value == pytest.approx(0.25)
    assert area(curve(40, 20, 10), budgets=(10, 100)).value == pytest.approx(0.15)
    # half of the second decade: from 20 to 15
    assert area(curve(40, 20, 10), budgets=(10, 10**1.5)).value == pytest.approx(0.175)
    uneven = learning_curve({1: [40], 10: [20], 1000: [10]})
    assert area(uneven).value == pytest.approx((30 + 2 * 15) / 300)
    assert area(curve(150, 50)).value == pytest.approx(1)
    assert area(curve(40, 20, 10)).budgets == (1, 100)


def test_labels_to_target_by_hand() -> None:
    falling = curve(40, 20, 10)
    assert labels_to_target(falling, 30) == Target(30, True, pytest.approx(10**0.5))
    assert labels_to_target(falling, 20) == Target(20, True, pytest.approx(10))
    assert labels_to_target(falling, 10) == Target(10, True, pytest.approx(100))
    assert labels_to_target(falling, 9.99) == Target(9.99, False, None)
    assert labels_to_target(falling, 40) == Target(40, True, 1, at_smallest=True)
    assert labels_to_target(falling, 70) == Target(70, True, 1, at_smallest=True)
    # the first crossing of a curve that rises again
    assert labels_to_target(curve(40, 20, 30, 10), 25) == Target(25, True, pytest.approx(10**0.75))
    assert labels_to_target(curve(20, 40, 10), 30) == Target(30, True, 1, at_smallest=True)
    assert labels_to_target(curve(40, 40, 30), 35) == Target(35, True, pytest.approx(10**1.5))


def test_label_multiplier_by_hand() -> None:
    """Shifted by one decade, ten times the labels; only where both are known."""
    found = label_multiplier(curve(40, 30, 20, 10, start=10), curve(40, 30, 20, 10))
    assert found.mean == pytest.approx(10)
    assert found.ratios == pytest.approx([10] * len(found.ratios))
    assert (found.errors[0], found.errors[-1]) == (40, 10)
    # frozen from 50 to 20, fine-tuned from 40 to 10: errors from 40 to 20; n = 10^((50-e)/15) and 10^((40-e)/15)
    found = label_multiplier(curve(50, 35, 20), curve(40, 25, 10))
    assert (found.errors[0], found.errors[-1]) == (40, 20)
    assert found.ratios == pytest.approx([10 ** (10 / 15)] * len(found.ratios))
    # slopes that differ: n = 10^((40-e)/10) and 10^((40-e)/20) for e from 40 to 20; mean log10 ratio = 10/20
    assert label_multiplier(curve(40, 30, 20), curve(40, 20, 0)).mean == pytest.approx(10**0.5)
    assert label_multiplier(curve(40, 30), curve(20, 10)) == stats.Multiplier((), (), None)
    assert label_multiplier(curve(40, 20), curve(20, 10)).mean == pytest.approx(10)  # 20 alone


def test_crossovers_by_hand() -> None:
    (found,) = crossovers(curve(20, 15, 10), curve(40, 15.5, 5))  # -20, -0.5, 5
    assert found.budget == pytest.approx(10 ** (1 + 0.5 / 5.5))
    assert found.second_better_after
    assert crossovers(curve(40, 30), curve(30, 20)) == ()
    (found,) = crossovers(curve(20, 15, 10), curve(40, 15, 5))
    assert found.budget == pytest.approx(10)
    (found,) = crossovers(curve(20, 15, 12, 10), curve(40, 15, 12, 5))  # on each other from 10 to 100
    assert found.budget == pytest.approx(10**1.5)
    assert crossovers(curve(20, 15, 10), curve(40, 15, 20)) == ()  # they touch
    twice = crossovers(curve(10, 30, 10), curve(20, 20, 20))
    assert [(c.budget, c.second_better_after) for c in twice] == [
        (pytest.approx(10**0.5), True),
        (pytest.approx(10**1.5), False),
    ]
    # budgets of their own: the common range is 10 to 100, where -5 to +5
    (found,) = crossovers(curve(90, 20, 10), learning_curve({10: [25], 100: [5], 1000: [50]}))
    assert found.budget == pytest.approx(10**1.5)
    assert crossovers(curve(5, 4), curve(50, 1, start=1000)) == ()


SOME = st.lists(st.integers(0, 40), min_size=2, max_size=6)


def drawn_curve(errors: list[int], start: int) -> Curve:
    return curve(*map(float, errors), start=3.0**start, factor=3.0)


@given(SOME, st.integers(0, 3), st.integers(0, 40))
@settings(max_examples=200, deadline=None)
def test_target_is_the_first_crossing(errors: list[int], start: int, error: int) -> None:
    drawn = drawn_curve(errors, start)
    found = labels_to_target(drawn, error)
    assert found.reached == (min(errors) <= error)
    if found.budget is None:
        return
    assert drawn.budgets[0] <= found.budget <= drawn.budgets[-1]
    assert found.at_smallest == (found.budget == drawn.budgets[0] and errors[0] <= error)
    assert found.at_smallest or drawn.at(found.budget) == pytest.approx(error, abs=1e-6)
    before = np.geomspace(drawn.budgets[0], found.budget, 50)[:-1].clip(drawn.budgets[0])
    if not found.at_smallest:
        assert (drawn.at(before) > error - 1e-6).all()


@given(SOME, st.integers(0, 3), st.floats(0.1, 10))
@settings(max_examples=100, deadline=None)
def test_area_ignores_the_unit_and_lies_between_the_errors(errors: list[int], start: int, unit: float) -> None:
    drawn = drawn_curve(errors, start)
    found = area(drawn).value
    assert min(errors) / 100 - 1e-12 <= found <= max(errors) / 100 + 1e-12
    scaled = learning_curve({unit * n: [e] for n, e in zip(drawn.budgets, drawn.errors, strict=True)})
    assert area(scaled).value == pytest.approx(found)
    better = learning_curve({n: [e - 1] for n, e in zip(drawn.budgets, drawn.errors, strict=True)})
    assert area(better).value == pytest.approx(found - 0.01)


@given(SOME, SOME, st.integers(0, 3), st.integers(0, 3))
@settings(max_examples=200, deadline=None)
@example([20, 15, 15, 10], [40, 15, 15, 5], 0, 0)
def test_pairs_of_curves(ones: list[int], others: list[int], start: int, later: int) -> None:
    first, second = drawn_curve(ones, start), drawn_curve(others, later)
    found, swapped = crossovers(first, second), crossovers(second, first)
    assert [c.budget for c in found] == pytest.approx([c.budget for c in swapped])
    assert [c.second_better_after for c in found] == [not c.second_better_after for c in swapped]
    assert all(a.second_better_after != b.second_better_after for a, b in pairwise(found))
    for crossing in found:
        assert first.at(crossing.budget) == pytest.approx(second.at(crossing.budget), abs=1e-6)
    low, high = max(first.budgets[0], second.budgets[0]), min(first.budgets[-1], second.budgets[-1])
    if low < high:  # as many changes of sign as a fine grid sees
        grid = np.exp(np.linspace(np.log(low), np.log(high), 12 * 40 + 1)).clip(low, high)
        gaps = np.round(first.at(grid) - second.at(grid), 9)
        signs = np.sign(gaps[gaps != 0])
        assert int((np.diff(signs) != 0).sum()) <= len(found)
    many, few = label_multiplier(first, second), label_multiplier(second, first)
    assume(many.mean is not None and few.mean is not None)
    assert many.mean == pytest.approx(1 / few.mean)
    assert np.all(np.diff(many.errors) < 0)
    assert len(many.errors) == len(many.ratios)
