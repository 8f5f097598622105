"""benchmark.statistics.ranks against closed testing, scipy and simulations: families of equal systems, planted
differences."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from types import ModuleType

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from support import REPOSITORY

from benchmark.errors import BenchmarkError
from benchmark.statistics.ranks import (
    Pair,
    Ranks,
    adjust,
    clusters_to_separate,
    detectable_difference,
    letter_groups,
    rank,
)


def t_test(first: str, second: str, value: float, se: float, clusters: int = 40) -> Pair:
    return Pair(first, second, value, se, clusters, float(2 * scipy.stats.t.sf(abs(value) / se, clusters - 1)))


def made(values: dict[str, float], se: float, **options: bool | float) -> Ranks:
    """Ranks of systems whose differences all have one standard error."""
    pairs = [t_test(one, other, values[other] - values[one], se) for one, other in combinations(values, 2)]
    return rank(values, pairs, **options)  # type: ignore[arg-type]


# --- The procedure ----------------------------------------------------------------------------------------------------


def partitions(items: Sequence[int]) -> Iterator[list[list[int]]]:
    if not items:
        yield []
        return
    first, *rest = items
    for smaller in partitions(rest):
        yield [[first], *smaller]
        for index, group in enumerate(smaller):
            yield [*smaller[:index], [first, *group], *smaller[index + 1 :]]


def closed(p_values: Sequence[float], systems: int) -> list[float]:
    """Adjusted p-values by brute force: every way in which systems can be equal is tested by Bonferroni's rule."""
    pairs = list(combinations(range(systems), 2))
    found = [0.0] * len(pairs)
    for partition in partitions(range(systems)):
        equal = [index for index, pair in enumerate(pairs) if any({*pair} <= {*group} for group in partition)]
        if equal:
            p = min(1.0, len(equal) * min(p_values[index] for index in equal))
            for index in equal:
                found[index] = max(found[index], p)
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    found, highest = [0.0] * len(p_values), 0.0
    for step, index in enumerate(order):
        highest = found[index] = max(highest, min(1.0, (len(order) - step) * p_values[index]))
    return found


@given(st.integers(2, 5).flatmap(
    lambda k: st.tuples(st.just(k), st.lists(st.floats(0, 1), min_size=math.comb(k, 2), max_size=math.comb(k, 2)))
))  # fmt: skip
def test_the_procedure_lies_between_the_closed_one_and_holms(drawn: tuple[int, list[float]]) -> None:
    systems, p_values = drawn
    found = adjust(p_values, systems)
    for one, lowest, highest in zip(found, closed(p_values, systems), holm(p_values), strict=True):
        assert lowest - 1e-12 <= one <= highest + 1e-12


def test_adjusted_p_values_by_hand() -> None:
    assert adjust([0.01], 2) == [0.01]
    assert adjust([0.03, 0.01, 0.02], 3) == pytest.approx([0.03, 0.03, 0.03])  # times 3, 1, 1
    p_values = [0.001, 0.004, 0.005, 0.006, 0.03, 0.2]
    assert adjust(p_values, 4) == pytest.approx([0.006, 0.012, 0.015, 0.018, 0.06, 0.2])  # times 6, 3, 3, 3, 2, 1
    with pytest.raises(BenchmarkError, match="4 systems have 6 pairs, got 3"):
        adjust([0.1] * 3, 4)


@given(st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6)).filter(lambda pair: pair[0] < pair[1])))
def test_two_systems_share_a_letter_unless_they_are_separated(separated: set[tuple[int, int]]) -> None:
    names = list("ABCDEFG")
    groups = letter_groups(names, [{names[one], names[other]} for one, other in separated])
    for one, other in combinations(range(7), 2):
        shared = any(names[one] in group and names[other] in group for group in groups)
        assert shared is ((one, other) not in separated)
    assert all(not {*one} <= {*other} for one in groups for other in groups if one is not other)
    assert {name for group in groups for name in group} == {*names}


# --- Ranks ------------------------------------------------------------------------------------------------------------


def test_ranks_with_ties() -> None:
    ranks = made({"far": 30.0, "best": 10.0, "near": 10.5, "between": 13.0}, se=1.3)
    shown = {place.name: (place.rank, place.groups) for place in ranks.places}
    assert shown == {"best": ("1–3", "a"), "near": ("1–3", "a"), "between": ("1–3", "a"), "far": ("4", "b")}
    assert ranks.groups == (("best", "near", "between"),)
    assert [one.better for one in ranks.pairs] == [None, None, "best", None, "near", "between"]
    narrow = made({"far": 30.0, "best": 10.0, "near": 10.5, "between": 13.0}, se=1.1)
    assert [(place.name, place.rank, place.groups) for place in narrow.places] == [
        ("best", "1–2", "a"), ("near", "1–3", "ab"), ("between", "2–3", "b"), ("far", "4", "c"),
    ]  # fmt: skip
    assert narrow.groups == (("best", "near"), ("near", "between"))


def test_high_values_can_be_good() -> None:
    ranks = made({"low": 10.0, "high": 30.0}, se=1.0, higher_is_better=True)
    assert [(place.name, place.rank) for place in ranks.places] == [("high", "1"), ("low", "2")]
    assert ranks.pairs[0].better == "high"
    turned = rank({"low": 10.0, "high": 30.0}, [t_test("high", "low", -20.0, 1.0)], higher_is_better=True)
    assert turned.pairs[0].better == "high"
    assert made({"low": 10.0, "high": 30.0}, se=1.0).pairs[0].better == "low"


def test_intervals_hold_together() -> None:
    ranks = made({"a": 1.0, "b": 2.0, "c": 4.0}, se=0.5)
    half = float(scipy.stats.t.ppf(1 - 0.025 / 3, 39)) * 0.5
    for one in ranks.pairs:
        assert (one.low, one.high) == pytest.approx((one.pair.value - half, one.pair.value + half))
        if not one.low <= 0 <= one.high:
            assert one.better is not None


def test_equal_systems_are_never_ordered() -> None:
    pairs = [Pair("a", "b", 0.0, 0.0, 40, 1.0)]
    ranks = rank({"a": 3.0, "b": 3.0}, pairs)
    assert [place.rank for place in ranks.places] == ["1–2", "1–2"]
    assert ranks.detectable is None
    assert ranks.pairs[0].clusters_needed is None


@pytest.mark.parametrize(
    ("values", "pairs", "message"),
    [
        ({"a": 1.0}, [], "at least two systems"),
        ({"a": 1.0, "b": math.nan}, [t_test("a", "b", 1, 1)], "finite values"),
        ({"a": 1.0, "b": 2.0, "c": 3.0}, [t_test("a", "b", 1, 1)], "every pair"),
        ({"a": 1.0, "b": 2.0}, [t_test("a", "b", 1, 1), t_test("b", "a", 1, 1)], "every pair"),
        ({"a": 1.0, "b": 2.0}, [replace(t_test("a", "b", 1, 1), p_value=math.nan)], "has no test"),
        ({"a": 1.0, "b": 2.0}, [replace(t_test("a", "b", 1, 1), clusters=1)], "has no test"),
    ],
)
def test_what_cannot_be_ranked(values: dict[str, float], pairs: list[Pair], message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        rank(values, pairs)
    with pytest.raises(BenchmarkError, match="level"):
        rank(values, pairs, level=1.0)


def test_many_systems() -> None:
    """Letters go on after z, and 40 systems take no time."""
    ranks = made({f"system{number}": float(number) for number in range(40)}, se=0.7)
    assert "(27)" in "".join(place.groups for place in ranks.places)
    assert all(place.best <= number <= place.worst for number, place in enumerate(ranks.places, 1))


# --- What a test set can detect ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("df", [2, 9, 39, 400])
@pytest.mark.parametrize("level", [0.95, 0.995, 1 - 1e-12])
def test_the_minimal_detectable_difference_is_found_at_the_stated_power(df: int, level: float) -> None:
    random = np.random.default_rng(5)
    truth, draws = detectable_difference(2.0, df, level=level), 200_000
    values = truth + 2.0 * random.standard_normal(draws)
    errors = 2.0 * np.sqrt(random.chisquare(df, draws) / df)
    found = 2 * scipy.stats.t.sf(values / errors, df) < 1 - level
    assert found.mean() == pytest.approx(0.8, abs=0.005)


@settings(deadline=None)
@given(st.floats(0.01, 10), st.integers(5, 500), st.sampled_from([0.9, 0.95, 0.999]))
def test_as_many_clusters_as_are_needed(value: float, clusters: int, level: float) -> None:
    number = clusters_to_separate(-value, 1.0, clusters, level=level)
    assert number is not None
    needed = [detectable_difference(math.sqrt(clusters / n), n - 1, level=level) for n in (number, max(number - 1, 2))]
    assert needed[0] <= value
    assert needed[1] > value or number == 3


def test_differences_that_no_number_of_clusters_separates() -> None:
    assert clusters_to_separate(0.0, 1.0, 40) is None
    assert clusters_to_separate(1e-9, 1.0, 40) is None
    assert clusters_to_separate(1.0, 0.0, 40) == 3


# --- Simulated test sets ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def simulator() -> ModuleType:
    """What draws the test sets of the tables in docs/statistics.md."""
    spec = importlib.util.spec_from_file_location("recipes_ranks", REPOSITORY / "recipes" / "benchmarks" / "ranks.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def most(draws: int, share: float) -> float:
    """The share of successes that has a probability of one in a thousand to be exceeded, where each has ``share``."""
    return float(scipy.stats.binom.ppf(0.999, draws, share)) / draws


def test_equal_recognisers_are_seldom_ordered(simulator: ModuleType) -> None:
    setting = simulator.Setting("wer", speakers=20, each=12, error=0.1)
    by_ranks, one_by_one = simulator.false_orders(setting, systems=5, draws=150)
    assert by_ranks <= most(150, 0.05)
    assert one_by_one > most(150, 0.05)  # what the procedure is for


def test_equal_verifiers_are_seldom_ordered(simulator: ModuleType) -> None:
    setting = simulator.Setting("eer", speakers=20, each=30, error=0.1)
    by_ranks, _ = simulator.false_orders(setting, systems=4, draws=40)
    assert by_ranks <= most(40, 0.05)


def test_a_planted_difference_is_found_at_the_stated_power(simulator: ModuleType) -> None:
    setting, draws = simulator.Setting("wer", speakers=40, each=20, error=0.1), 300
    found = simulator.planted(setting, simulator.detectable(setting, 60), draws)
    assert found.detectable == pytest.approx(found.difference, rel=0.05)
    assert abs(found.found - 0.8) <= 3.3 * math.sqrt(0.8 * 0.2 / draws) + 0.02  # the simulation's error, and se's
    assert found.reversed == 0
