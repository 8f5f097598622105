"""The answer in one sentence: what it claims, and what it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from scipy.stats import t

from benchmark import statistics as stats
from benchmark.metrics import METRICS
from benchmark.report import compare
from benchmark.report.collect import Run
from benchmark.report.headline import headline, ranks_headline
from benchmark.report.parts import estimate, rounded
from benchmark.statistics.ranks import Pair, rank

SECONDS = {"3min": 180.0, "9min": 540.0, "27min": 1620.0}


class Interval:
    """What stands in for :class:`benchmark.report.compare.Bootstrap`: intervals of one half width."""

    def __init__(self, half: float | None) -> None:
        self.half = half

    def difference(self, budget: str, first: Mapping[int, Run], second: Mapping[int, Run]) -> compare.Difference:
        seeds = stats.seed_spread([second[seed].value - first[seed].value for seed in first])
        over = None
        if self.half is not None:
            over = stats.Interval(seeds.mean, seeds.mean - self.half, seeds.mean + self.half, 0.95, self.half / 2, 24)
        return compare.Difference(budget, seeds, over, 0.9, "speakers")


def series(
    regime: str, values: Sequence[Sequence[float]], *, upstream: str = "tiny", title: str = ""
) -> compare.Series:
    points = {
        budget: {seed: cast(Run, SimpleNamespace(value=value)) for seed, value in enumerate(of)}
        for budget, of in zip(SECONDS, values, strict=False)
    }
    name = title or regime
    made = compare.Series(upstream, regime, "audio", regime, points)
    made.title, made.regime_title, made.upstream_title = name, name, upstream
    return made


def view(*all_series: compare.Series, half: float | None, metric: str = "eer", kinds: Any = ()) -> compare.TaskView:
    seconds = {budget: SECONDS[budget] for budget in all_series[0].points}
    made = compare.TaskView("task", METRICS[metric], seconds, list(all_series), {}, title="Task")
    for second in all_series[1:]:
        made.contrasts.append(compare._contrast(made, all_series[0], second, cast(Any, Interval(half))))
    return made


FROZEN = series("frozen", [(20, 20.1, 19.9), (15, 15.1, 14.9), (12, 12.1, 11.9)])


@pytest.mark.parametrize(
    ("values", "half", "sentence"),
    [
        # better by a factor of three in labels, at every budget
        ([(15, 15.1, 14.9), (12, 12.1, 11.9), (9, 9.1, 8.9)], 1,
         "Fine-tuning needs 3 times fewer labels than frozen for the same EER."),
        # the same curves, which this test set cannot tell apart
        ([(15, 15.1, 14.9), (12, 12.1, 11.9), (9, 9.1, 8.9)], 8,
         "No clear difference between fine-tuning and frozen from 3 min to 27 min of labels (EER 9.0 % against 12.0 % "
         "with 27 min)."),
        ([(15, 15.1, 14.9), (12, 12.1, 11.9), (9, 9.1, 8.9)], None,
         "Fine-tuning needs 3 times fewer labels than frozen for the same EER on this test set (no interval says "
         "whether others would agree)."),
        # worse: the baseline needs fewer
        ([(26, 26.1, 25.9), (20, 20.1, 19.9), (15, 15.1, 14.9)], 1,
         "Frozen needs 3 times fewer labels than fine-tuning for the same EER."),
        # seeds that vary too much to generalise
        ([(10, 19), (6, 17), (3, 15)], 1, "Fine-tuning needs 3.7 times fewer labels than frozen for the same EER (with "
         "these 2 seeds)."),
        # clear at one budget only
        ([(19.5, 19.6, 19.4), (14.5, 14.6, 14.4), (8, 8.1, 7.9)], 1,
         "Fine-tuning needs 1.2 times fewer labels than frozen for the same EER; clearly better only with 27 min."),
        # no error in common: no multiplier
        ([(5, 5.1, 4.9), (4, 4.1, 3.9), (3, 3.1, 2.9)], 1,
         "Fine-tuning is better than frozen from 3 min to 27 min of labels: EER 3.0 % against 12.0 % with 27 min."),
        # crossing half way (in logarithms) between 9 and 27 min
        ([(15, 15.1, 14.9), (14, 14.1, 13.9), (13, 13.1, 12.9)], 0.5,
         "Fine-tuning needs 1.7 times fewer labels below 16 min; above, frozen wins."),
        ([(24, 24.1, 23.9), (16, 16.1, 15.9), (11, 11.1, 10.9)], 0.9,
         "Frozen needs 1.3 times fewer labels below 16 min; above, fine-tuning wins."),
        ([(24, 24.1, 23.9), (16, 16.1, 15.9), (11, 11.1, 10.9)], 2,
         "Frozen needs 1.3 times fewer labels below 16 min; above, no clear difference."),
        ([(20.5, 20.6, 20.4), (16, 16.1, 15.9), (6, 6.1, 5.9)], 2,
         "No clear difference below 11 min of labels; above, fine-tuning wins."),
        ([(15, 15.1, 14.9), (18, 18.1, 17.9), (9, 9.1, 8.9)], 1,
         "The curves of fine-tuning and frozen cross 2 times: neither is better throughout."),
    ],
)  # fmt: skip
def test_two_regimes_over_budgets(values: list[tuple[float, ...]], half: float | None, sentence: str) -> None:
    baseline = FROZEN
    if len(values[0]) == 2:
        baseline = series("frozen", [(20, 20.1), (15, 15.1), (12, 12.1)])
    assert headline(view(baseline, series("finetuned", values, title="fine-tuning"), half=half)) == sentence


def test_one_budget_and_a_metric_of_which_more_is_better() -> None:
    one = series("frozen", [(80.0, 80.2, 79.8)])
    two = series("finetuned", [(91.0, 91.2, 90.8)], title="fine-tuning")
    metric = "macro_accuracy"
    assert headline(view(one, two, half=3, metric=metric)) == (
        "With 3 min of labels, fine-tuning is better than frozen: macro accuracy 91.0 % against 80.0 %."
    )
    assert headline(view(two, one, half=3, metric=metric)) == (
        "With 3 min of labels, fine-tuning is better than frozen: macro accuracy 91.0 % against 80.0 %."
    )
    assert headline(view(one, two, half=30, metric=metric)) == (
        "With 3 min of labels, no clear difference between fine-tuning and frozen (macro accuracy 91 % against 80 %)."
    )
    seed = series("finetuned", [(91.0,)], title="fine-tuning")
    assert headline(view(series("frozen", [(80.0,)]), seed, half=3, metric=metric)).endswith("(one seed).")


def test_several_regimes_and_several_upstreams() -> None:
    partial = series("partial", [(18.0, 18.1), (13.0, 13.1), (11.5, 11.6)])
    lora = series("lora", [(17.0, 17.1), (12.0, 12.1), (9.0, 9.1)], title="LoRA")
    frozen = series("frozen", [(20.0, 20.1), (15.0, 15.1), (12.0, 12.1)])
    assert headline(view(frozen, partial, lora, half=1)) == (
        "With 27 min of labels, LoRA has the lowest EER of 3, better than frozen: EER 9.1 % against 12.1 %."
    )
    assert headline(view(frozen, partial, lora, half=4)).startswith(
        "With 27 min of labels, LoRA has the lowest EER of 3, not clearly better than frozen: "
    )
    assert headline(view(lora, partial, frozen, half=2.6)) == (
        "With 27 min of labels, LoRA has the lowest EER of 3, clearly better than frozen."
    )
    other = series("frozen", [(10.0, 10.1), (8.0, 8.1), (6.0, 6.1)], upstream="large")
    assert headline(view(frozen, other, half=1)).startswith("Large is better than tiny from 3 min to 27 min")


@pytest.mark.parametrize(
    ("se", "sentence"),
    [
        ((0.5, 0.5, 0.5), "With 9 min of labels, A is the best of 3 systems."),
        ((5.0, 0.5, 0.5), "With 9 min of labels, A is first of 3 systems, but not separated from B."),
        ((5.0, 5.0, 0.5), "With 9 min of labels, A is first of 3 systems, but not separated from B and C."),
        ((5.0, 5.0, 5.0), "With 9 min of labels, the test set separates none of the 3 systems."),
    ],
)
def test_ranks(se: tuple[float, float, float], sentence: str) -> None:
    values = {"A": 5.0, "B": 8.0, "C": 11.0}
    pairs = []
    for (first, second), error in zip((("A", "B"), ("A", "C"), ("B", "C")), se, strict=True):
        difference = values[second] - values[first]
        p_value = float(2 * t.sf(difference / error, 39))
        pairs.append(Pair(first, second, difference, error, 40, p_value))
    ranked = SimpleNamespace(budget="9min", ranks=rank(values, pairs, higher_is_better=False))
    assert ranks_headline(view(FROZEN, half=1), cast(Any, ranked)) == sentence


def test_a_result_alone() -> None:
    assert headline(view(FROZEN, half=1)) == "EER 12.0 % with 27 min of labels."


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (12.3456, 9.8, 15.1, "12.3 [9.8,\u00a015.1]"),
        (12.3456, 12.3, 12.4, "12.3 [12.3,\u00a012.4]"),
        (-3.21, -17.0, 11.0, "−3 [−17,\u00a011]"),
        (0.0123, 0.010, 0.015, "0.0123 [0.0100,\u00a00.0150]"),
        (1234.5, None, None, "1,234"),
        (0.0, 0.0, 3.0, "0 [0,\u00a03.0]"),
        (5.0, 5.0, 5.0, "5.00 [5.00,\u00a05.00]"),
    ],
)
def test_numbers_have_the_digits_that_mean_something(
    value: float, low: float | None, high: float | None, text: str
) -> None:
    assert estimate(value, low, high) == text


def test_an_end_of_an_interval_that_is_not_zero_is_not_shown_as_zero() -> None:
    assert estimate(-31.25, -62.4, -0.132, sign=True) == "−31 [−62,\u00a0−0.1]"
    assert estimate(31.25, 0.0432, 62.4) == "31 [0.04,\u00a062]"


def test_a_negative_zero_is_zero() -> None:
    assert rounded(-0.01, 3.0) == "0"
    assert estimate(2.0, 1.0, 3.0, sign=True).startswith("+2.0")
