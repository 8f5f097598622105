"""How often ranks give an order to equal systems, and how often they find a planted difference.

    python recipes/benchmarks/ranks.py                   # minutes
    python recipes/benchmarks/ranks.py --draws 2000      # the tables of docs/statistics.md: an hour or two

Test sets are drawn with their speakers. The systems of a family share speakers and trials or utterances and have
effects of their own from one distribution, so that equal systems are equal whatever the model is; the true values of
unequal ones are formulas.
"""

from __future__ import annotations

import argparse
import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.stats import norm

from benchmark import statistics as stats
from benchmark.statistics import Statistic
from benchmark.statistics.ranks import Pair, Ranks, rank


@dataclass(frozen=True)
class Setting:
    """A kind of test sets."""

    metric: str
    """``wer`` of utterances, or ``eer`` of trials."""
    speakers: int
    """0: every utterance is a cluster of its own."""
    each: int
    """Utterances of a speaker (of all, without speakers), or target and nontarget trials of each speaker."""
    error: float
    """True error of the first system, a share."""
    spread: float = 0.0
    """Of trials: standard deviation over speakers of the logarithm of their targets' noise."""

    def draw(self, random: np.random.Generator, errors: Sequence[float]) -> list[Statistic]:
        """The systems with these true errors on one test set."""
        return (word_errors if self.metric == "wer" else verification_trials)(self, random, errors)

    def text(self) -> str:
        """Its name in the tables."""
        what = f"{self.speakers} × {self.each}" if self.speakers else f"{self.each} utterances"
        text = f"{self.metric.upper()} {100 * self.error:g} %, {what}"
        return f"{text}, spread {self.spread:g}" if self.spread else text


def word_errors(setting: Setting, random: np.random.Generator, errors: Sequence[float]) -> list[Statistic]:
    """Utterances of 5 to 25 words; speakers and utterances are difficult for all systems and for each."""
    speakers = setting.speakers or 1
    of = np.repeat(np.arange(speakers), setting.each)
    words = random.integers(5, 26, size=of.size)
    shared = (0.4 if setting.speakers else 0.0) * random.standard_normal(speakers)[of]
    shared = shared + 0.6 * random.standard_normal(of.size)
    clusters = [f"{number:05d}" for number in (of if setting.speakers else range(of.size))]
    found = []
    for error in errors:
        own = 0.2 * random.standard_normal(speakers)[of] + 0.4 * random.standard_normal(of.size)
        if not setting.speakers:
            own = 0.4 * random.standard_normal(of.size)
        variance = (0.4**2 + 0.2**2 if setting.speakers else 0.0) + 0.6**2 + 0.4**2
        edits = random.poisson(error * np.exp(shared + own - variance / 2) * words)
        found.append(stats.error_rates({"wer": (edits, words)}, clusters))
    return found


def verification_trials(setting: Setting, random: np.random.Generator, errors: Sequence[float]) -> list[Statistic]:
    """Normal scores; speakers are difficult as targets and as nontargets, for all systems and for each."""
    speakers = setting.speakers
    own = np.repeat(np.arange(speakers), setting.each)
    other = (own + random.integers(1, speakers, size=own.size)) % speakers
    shared, trial = random.standard_normal((2, speakers)), random.standard_normal((2, own.size))
    size = np.exp(setting.spread * random.standard_normal(speakers))[own]
    names = [f"{number:05d}" for number in range(speakers)]
    sides = [[names[number] for number in side] for side in (np.r_[own, own], np.r_[own, other])]
    labels = np.r_[np.ones(own.size, dtype=np.int64), np.zeros(own.size, dtype=np.int64)]
    deviation = math.sqrt(0.5**2 + 0.3**2 + 0.7**2 + 0.6**2)  # of targets, without a spread
    deviation += math.sqrt(2 * 0.5**2 * (0.5**2 + 0.3**2) + 0.7**2 + 0.6**2)  # of nontargets
    found = []
    for error in errors:
        hard, wolf = 0.5 * shared + 0.3 * random.standard_normal((2, speakers))
        noise = 0.7 * trial + 0.6 * random.standard_normal((2, own.size))
        target = -norm.ppf(error) * deviation - hard[own] + size * noise[0]
        nontarget = 0.5 * (wolf[own] + wolf[other]) + noise[1]
        found.append(stats.verification(labels, np.r_[target, nontarget], *sides))
    return found


def ranked(setting: Setting, systems: Sequence[Statistic]) -> Ranks:
    """The ranks that ``wavbench compare`` gives."""
    names = [f"system {number}" for number in range(len(systems))]
    values = {name: system.values()[setting.metric] for name, system in zip(names, systems, strict=True)}
    pairs = []
    for one, other in combinations(range(len(systems)), 2):
        compared = stats.compare([systems[one]], [systems[other]])[setting.metric]
        over = compared.test_set
        pairs.append(Pair(names[one], names[other], over.value, over.se, over.clusters, compared.p_value, over.df))
    return rank(values, pairs)


def false_orders(setting: Setting, systems: int, draws: int, seed: int = 0) -> tuple[float, float]:
    """Shares of families of equal systems in which any order is shown: by ranks, and by p-values taken one by one."""
    random = np.random.default_rng(seed)
    families = [ranked(setting, setting.draw(random, [setting.error] * systems)) for _ in range(draws)]
    by_ranks = [any(one.better is not None for one in family.pairs) for family in families]
    one_by_one = [any(one.pair.p_value < 0.05 for one in family.pairs) for family in families]
    return float(np.mean(by_ranks)), float(np.mean(one_by_one))


@dataclass(frozen=True)
class Planted:
    """A true difference of as much as the test set is said to detect."""

    difference: float
    """In percent."""
    detectable: float
    """What the test sets said, their median."""
    found: float
    """Share of test sets that show the true order."""
    reversed: float
    """Share of test sets that show the other one."""


def planted(setting: Setting, difference: float, draws: int, seed: int = 0) -> Planted:
    """Two systems with a true difference in percent."""
    random = np.random.default_rng(seed)
    errors = [setting.error, setting.error + difference / 100]
    families = [ranked(setting, setting.draw(random, errors)) for _ in range(draws)]
    winners = [family.pairs[0].better for family in families]
    detectable = float(np.median([family.detectable or math.nan for family in families]))
    shares = (float(np.mean([winner == name for winner in winners])) for name in ("system 0", "system 1"))
    return Planted(difference, detectable, *shares)


def detectable(setting: Setting, draws: int) -> float:
    """The difference that test sets in which it is true say they detect."""
    difference = 0.0
    for seed in range(5):
        difference = planted(setting, difference, draws, seed=100 + seed).detectable
    return difference


SETTINGS = [
    Setting("wer", 20, 12, 0.1), Setting("wer", 40, 50, 0.05), Setting("wer", 0, 300, 0.1),
    Setting("eer", 20, 40, 0.1), Setting("eer", 40, 100, 0.05), Setting("eer", 40, 100, 0.02, 0.35),
]  # fmt: skip


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200, help="test sets of each kind; default: 200")
    parser.add_argument("--systems", type=int, nargs="+", default=[4, 6], help="of a family; default: 4 6")
    parser.add_argument("--only", choices=("wer", "eer"), help="settings of one metric")
    options = parser.parse_args()
    settings = [setting for setting in SETTINGS if options.only in (None, setting.metric)]

    def timed(make: Callable[[], str]) -> None:
        start = time.perf_counter()
        print(f"{make()} {time.perf_counter() - start:.0f} s |", flush=True)

    print("| equal systems | systems | any order shown, % | by p-values one by one, % | took |\n|---|---|---|---|---|")
    for setting in settings:
        for systems in options.systems:
            timed(functools.partial(_null_row, setting, systems, options.draws))
    print("\n| planted | difference | detectable, as the test sets say | found, % | reversed, % | took |")
    print("|---|---|---|---|---|---|")
    for setting in settings:
        if not setting.spread:  # its true difference has no formula
            timed(functools.partial(_planted_row, setting, options.draws))


def _null_row(setting: Setting, systems: int, draws: int) -> str:
    by_ranks, one_by_one = false_orders(setting, systems, draws)
    return f"| {setting.text()} | {systems} | {100 * by_ranks:.1f} | {100 * one_by_one:.1f} |"


def _planted_row(setting: Setting, draws: int) -> str:
    found = planted(setting, detectable(setting, min(draws, 200)), draws)
    shares = f"{100 * found.found:.1f} | {100 * found.reversed:.1f}"
    return f"| {setting.text()} | {found.difference:.3g} | {found.detectable:.3g} | {shares} |"


if __name__ == "__main__":
    main()
