"""How often the intervals of docs/statistics.md contain the truth, by simulation.

    python recipes/benchmarks/interval_coverage.py --quick
    python recipes/benchmarks/interval_coverage.py --simulations 1000 -o coverage.md

Every case draws test sets from a model whose true error is known (by formula, or from millions of independent trials),
computes the 95 % intervals of each and counts: how many contain the truth, how many lie above or below it, and, for two
systems of equal error, how many call them different. ``--quick`` takes minutes, the full table hours. The result is a
table in Markdown, or CSV where the name of the file ends so.

Cases of trials are named ``MODEL SPEAKERSxTARGETS EER spread``. ``--simulator FILE`` takes the trials of another
simulator: a module with ``Setting``, ``population``, ``draw``, ``truth_eer`` and ``truth_min_dcf``.
"""

from __future__ import annotations

import argparse
import csv
import functools
import importlib.util
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from benchmark import statistics

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Draw = Callable[[np.random.Generator], Sequence[Sequence[Any]]]

HIGHER_IS_BETTER = ("accuracy", "macro_accuracy", "macro_f1")
POPULATION = 1_000_000
"""Independent trials of each class that the truth of a model of trials comes from."""


@dataclass(frozen=True)
class Case:
    """Test sets of one kind."""

    name: str
    truth: Callable[[], Mapping[str, float]]
    """Metric -> value, or difference (second - first)."""
    draw: Draw
    """One test set: a list of runs (one a seed) of one system, or of two that are compared."""
    quick: bool = False
    """Also with ``--quick``."""


@dataclass
class Row:
    """What was counted."""

    case: str
    metric: str
    truth: float
    simulations: int
    covered: float
    """Percent."""
    above: float
    """Percent of intervals that lie above the truth."""
    below: float
    different: float | None
    """Percent of differences whose interval excludes 0."""
    width: float
    """Median width, over the true error (of a difference: as it is)."""

    HEADER = ("case", "metric", "truth", "simulations", "covered", "above", "below", "different", "width")

    def cells(self) -> list[str]:
        """Texts."""
        different = "" if self.different is None else f"{self.different:.1f}"
        return [
            self.case, self.metric, f"{self.truth:.4g}", str(self.simulations), f"{self.covered:.1f}",
            f"{self.above:.1f}", f"{self.below:.1f}", different, f"{self.width:.2g}",
        ]  # fmt: skip


def count(case: Case, simulations: int, api: Any = statistics, **options: Any) -> list[Row]:
    """The rows of a case.

    Args:
        case: what to draw; the same test sets whatever the method.
        simulations: test sets.
        api: a module with ``summarise`` and ``compare``.
        options: of these.
    """
    truths = case.truth()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in truths}
    compared = False
    for simulation in range(simulations):
        systems = case.draw(np.random.default_rng([simulation, len(case.name), *case.name.encode()]))
        compared = len(systems) == 2
        result = api.compare(*systems, **options) if compared else api.summarise(*systems, **options)
        for name in truths:
            found[name].append((result[name].test_set.low, result[name].test_set.high))
    rows = []
    for name, truth in truths.items():
        low, high = np.array(found[name]).T
        above, below = 100 * float((low > truth).mean()), 100 * float((high < truth).mean())
        different = 100 * float(((low > 0) | (high < 0)).mean()) if compared else None
        error = 100 - truth if name in HIGHER_IS_BETTER else truth
        width = float(np.median(high - low)) / (1 if compared else error)
        rows.append(Row(case.name, name, truth, simulations, 100 - above - below, above, below, different, width))
    return rows


def texts(numbers: Ints) -> NDArray[np.str_]:
    """Names of speakers, in the order of their numbers."""
    return np.array([f"{number:05d}" for number in range(int(numbers.max()) + 1)])[numbers]


# --- Trials: embeddings with heavy tails, scored by a likelihood ratio ------------------------------------------------


@dataclass(frozen=True)
class Voices:
    """A model of trials.

    A speaker's mean is that of its group plus normal noise; an utterance adds Student-t noise (5 degrees of freedom),
    whose size has a gamma distribution over speakers and a log-normal one over sessions. The score is the likelihood
    ratio of a two-covariance model that knows none of this. Nontargets are of one group.
    """

    speakers: int = 40
    each: int = 100
    eer: float = 0.05
    spread: float = 0.0
    """Coefficient of variation of the size of the noise over speakers."""
    unequal: bool = False
    """Numbers of trials vary by a factor of about 4 between speakers."""
    systems: int = 1
    shared: float = 0.7
    """Of the variance of the noise, between systems (or seeds)."""

    SIZE, GROUPS, SESSIONS, UTTERANCES = 16, 4, 6, 30

    @property
    def name(self) -> str:
        """Of the case."""
        more = " unequal" if self.unequal else ""
        return f"voices {self.speakers}x{self.each} {100 * self.eer:g} % {self.spread:g}{more}"

    def sizes(self, random: np.random.Generator, count: int) -> Floats:
        """Of the noise of speakers, mean 1."""
        if not self.spread:
            return np.ones(count)
        return random.gamma(self.spread**-2, self.spread**2, count)

    def means(self, random: np.random.Generator, group: Ints) -> Floats:
        """(speaker, dimension)."""
        centres = np.random.default_rng(4).normal(size=(self.GROUPS, self.SIZE)) * 0.5
        return centres[group] + random.normal(size=(group.size, self.SIZE))

    def noise(self, random: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        """Student-t vectors of variance 1, one size a vector."""
        scale = np.sqrt(3 / random.chisquare(5, shape))[..., None]
        return scale * random.normal(size=(*shape, self.SIZE))

    def score(self, one: Floats, other: Floats, noise: float) -> Floats:
        """Log-likelihood ratio (up to a constant) of one speaker against two: variance 1.25 of means."""
        between, within = 1.25, noise**2
        total = between + within
        both = total**2 - between**2
        product = np.einsum("ij,ij->i", one, other)
        squares = np.einsum("ij,ij->i", one, one) + np.einsum("ij,ij->i", other, other)
        return np.asarray(between / both * product - 0.5 * (total / both - 1 / total) * squares)

    def truth(self) -> dict[str, float]:
        """EER (percent) and minDCF of independent trials of new speakers."""
        _, prior_01, prior_05 = _population(self.eer, self.spread)
        return {"eer": 100 * self.eer, "min_dcf_p01": prior_01, "min_dcf_p05": prior_05}

    def draw(self, random: np.random.Generator) -> list[Any]:
        """The systems' statistics on one test set."""
        noise, n = _population(self.eer, self.spread)[0], self.speakers
        number = np.full(n, self.each)
        if self.unequal:
            number = np.maximum(4, np.rint(self.each * random.gamma(2.5, 1 / 2.5, n)).astype(int))
        groups = self.GROUPS if n >= 2 * self.GROUPS else 2
        group = np.arange(n) % groups
        mean, size = self.means(random, group), self.sizes(random, n)
        size = size[:, None] * np.exp(0.2 * random.normal(size=(n, self.SESSIONS)))
        of_session = np.repeat(np.arange(self.SESSIONS), self.UTTERANCES // self.SESSIONS)
        session, utterance = (n, self.SESSIONS), (n, self.UTTERANCES)
        common = self.noise(random, session), self.noise(random, utterance)
        target = np.repeat(np.arange(n), number)
        pick = random.integers(self.UTTERANCES, size=(4, target.size))
        again = of_session[pick[0]] == of_session[pick[1]]
        pick[1, again] = (pick[1, again] + self.UTTERANCES // self.SESSIONS) % self.UTTERANCES
        other = target.copy()
        while (again := other == target).any():
            other[again] = group[target[again]] + groups * random.integers((n - 1 - group[target[again]]) // groups + 1)
        labels = np.repeat([1, 0], target.size)
        systems = []
        for _ in range(self.systems):
            parts = common
            if self.systems > 1:
                own = self.noise(random, session), self.noise(random, utterance)
                keep, add = math.sqrt(self.shared), math.sqrt(1 - self.shared)
                parts = keep * common[0] + add * own[0], keep * common[1] + add * own[1]
            x = math.sqrt(0.3) * parts[0][:, of_session] + math.sqrt(0.7) * parts[1]
            x = mean[:, None] + noise * size[:, of_session, None] * x
            same = self.score(x[target, pick[0]], x[target, pick[1]], noise)
            different = self.score(x[target, pick[2]], x[other, pick[3]], noise)
            first, second = (texts(np.r_[target, side]).tolist() for side in (target, other))
            systems.append(statistics.verification(labels, np.r_[same, different], first, second))
        return systems


@functools.cache
def _population(eer: float, spread: float) -> tuple[float, float, float]:
    """Size of the noise at which the EER is as wanted, and the minDCF there at priors of 0.01 and 0.05."""
    model = Voices(eer=eer, spread=spread)
    size = brentq(lambda size: math.log(_equal(*_independent(model, math.exp(size))) / eer), -3, 1, xtol=1e-3)
    same, different = _independent(model, math.exp(size))
    return math.exp(size), _cost(same, different, 0.01), _cost(same, different, 0.05)


def _independent(model: Voices, noise: float) -> tuple[Floats, Floats]:
    """Sorted scores of independent targets and nontargets, the same draws for any size of the noise."""
    random = np.random.default_rng(17)
    scores: list[list[Floats]] = [[], []]
    block = 100_000
    for _ in range(POPULATION // block):
        group = random.integers(model.GROUPS, size=block)
        mean, foreign = model.means(random, group), model.means(random, group)
        sizes = [model.sizes(random, block), model.sizes(random, block)]
        x = []
        for who in (0, 0, 1):
            session = math.sqrt(0.3) * model.noise(random, (block,)) + math.sqrt(0.7) * model.noise(random, (block,))
            x.append((noise * sizes[who] * np.exp(0.2 * random.normal(size=block)))[:, None] * session)
        scores[0].append(model.score(mean + x[0], mean + x[1], noise))
        scores[1].append(model.score(mean + x[0], foreign + x[2], noise))
    same, different = (np.sort(np.concatenate(of)) for of in scores)
    return same, different


def _rates(same: Floats, different: Floats) -> tuple[Floats, Floats]:
    """Miss and false alarm rates at many thresholds."""
    threshold = np.quantile(different, 1 - np.geomspace(1e-6, 0.6, 6000))
    return np.searchsorted(same, threshold) / same.size, 1 - np.searchsorted(different, threshold) / different.size


def _equal(same: Floats, different: Floats) -> float:
    miss, alarm = _rates(same, different)
    at = int(np.abs(miss - alarm).argmin())
    return float((miss[at] + alarm[at]) / 2)


def _cost(same: Floats, different: Floats, prior: float) -> float:
    miss, alarm = _rates(same, different)
    return float((prior * miss + (1 - prior) * alarm).min() / prior)


# --- Utterances -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Speech:
    """Recognised utterances: the rate of edits varies over speakers and over utterances (gamma distributions)."""

    speakers: int
    each: int
    wer: float
    speaker_cv: float = 0.5
    """Coefficient of variation of the speakers' rates."""
    systems: int = 1
    unequal: bool = False

    UTTERANCE_CV = 1.0

    @property
    def name(self) -> str:
        """Of the case."""
        more = " unequal" if self.unequal else ""
        return f"speech {self.speakers}x{self.each} {100 * self.wer:g} % {self.speaker_cv:g}{more}"

    def truth(self) -> dict[str, float]:
        """WER in percent."""
        return {"wer": 100 * self.wer}

    def draw(self, random: np.random.Generator) -> list[Any]:
        """The systems' statistics on one test set."""
        number = np.full(self.speakers, self.each)
        if self.unequal:
            number = np.maximum(1, random.geometric(1 / self.each, self.speakers))
        speaker = np.repeat(np.arange(self.speakers), number)
        words = 1 + random.negative_binomial(2, 0.1, speaker.size)
        of_speaker = _gamma(random, self.speaker_cv, self.speakers)
        of_utterance = _gamma(random, self.UTTERANCE_CV, speaker.size)
        systems = []
        for _ in range(self.systems):
            taste = _gamma(random, 0.5 * self.speaker_cv, self.speakers) if self.systems > 1 else np.ones(self.speakers)
            edits = random.poisson(self.wer * words * (of_speaker * taste)[speaker] * of_utterance)
            systems.append(statistics.error_rates({"wer": (edits, words)}, texts(speaker).tolist()))
        return systems


def _gamma(random: np.random.Generator, cv: float, count: int) -> Floats:
    """Positive numbers of mean 1."""
    return random.gamma(cv**-2, cv**2, count) if cv else np.ones(count)


@dataclass(frozen=True)
class Languages:
    """Classified utterances: each class has speakers of its own, or every speaker says all classes.

    The logit of the truth has a normal effect of the speaker. A detector of each class has a score of its own for Cavg;
    the answer is the class with the highest.
    """

    classes: int
    speakers: int
    """Of each class, or in all."""
    each: int
    """Utterances of a speaker."""
    distance: float
    """Of scores of the right class from others, in standard deviations."""
    crossed: bool = False
    """Every speaker says all classes."""
    effect: float = 0.3
    """Share of the speaker in the variance of the scores."""
    systems: int = 1

    @property
    def name(self) -> str:
        """Of the case."""
        of = "each says all" if self.crossed else "a class"
        return f"{self.classes} classes, {self.speakers} speakers {of} x{self.each}, distance {self.distance:g}"

    def scores(self, random: np.random.Generator, speaker: Ints, language: Ints, count: int) -> Iterator[Floats]:
        """(utterance, class) log-likelihood ratios of one system after the other."""
        share = self.effect if self.systems == 1 else 0.7 * self.effect

        def of_speaker(variance: float) -> Floats:
            """(speaker, class, and one for the right class)."""
            return math.sqrt(variance) * random.normal(size=(count, self.classes + 1))

        common, right = of_speaker(share), language[:, None] == np.arange(self.classes)
        for _ in range(self.systems):
            own = (common + of_speaker(self.effect - share))[speaker]
            z = own[:, 1:] + math.sqrt(1 - self.effect) * random.normal(size=right.shape)
            yield z + np.where(right, self.distance / 2 + own[:, :1], -self.distance / 2)

    def make(self, random: np.random.Generator, speakers: int, each: int) -> list[Any]:
        """The systems' statistics on a test set of a given size."""
        count = speakers if self.crossed else speakers * self.classes
        speaker = np.repeat(np.arange(count), each)
        language = np.arange(speaker.size) % self.classes if self.crossed else speaker % self.classes
        clusters = texts(speaker).tolist()
        return [
            statistics.identification(language, llrs.argmax(axis=1), clusters, llrs)
            for llrs in self.scores(random, speaker, language, count)
        ]

    def draw(self, random: np.random.Generator) -> list[Any]:
        """The systems' statistics on one test set."""
        return self.make(random, self.speakers, self.each)

    def truth(self) -> dict[str, float]:
        """Of a test set of 400,000 utterances, one of a speaker (crossed: one of each class)."""
        return _large(self)


@functools.cache
def _large(model: Languages) -> dict[str, float]:
    made = replace(model, systems=1).make(
        np.random.default_rng(3), 400_000 // model.classes, model.classes if model.crossed else 1
    )
    return dict(made[0].values())


# --- Cases ------------------------------------------------------------------------------------------------------------


def of_model(model: Voices | Speech | Languages, kind: str, quick: bool = False) -> Case:
    """``one`` system, the ``mean`` of three seeds, or an ``equal pair``: two systems with one true error."""
    if kind == "one":
        return Case(model.name, model.truth, lambda random: [model.draw(random)], quick)
    several = replace(model, systems=3 if kind == "mean" else 2)
    if kind == "mean":
        return Case(f"{model.name}, mean of 3 seeds", model.truth, lambda random: [several.draw(random)], quick)

    def none() -> dict[str, float]:
        return dict.fromkeys(model.truth(), 0.0)

    return Case(f"{model.name}, {kind}", none, lambda random: [[run] for run in several.draw(random)], quick)


def cases() -> Iterator[Case]:
    """All cases."""
    for model, quick in (
        (Voices(40, 100, 0.01, 0.35), True), (Voices(40, 100, 0.05, 0.35), False), (Voices(40, 100, 0.05, 0.0), False),
        (Voices(40, 470, 0.01, 0.35), False), (Voices(10, 40, 0.05, 0.35), False), (Voices(20, 100, 0.01, 0.35), False),
        (Voices(40, 100, 0.01, 0.35, unequal=True), False), (Voices(200, 100, 0.01, 0.35), False),
        (Speech(20, 40, 0.05), True), (Speech(40, 65, 0.03), True), (Speech(100, 6, 0.2), False),
        (Speech(10, 40, 0.1, 0.8), False), (Speech(40, 40, 0.01, 0.8, unequal=True), False),
        (Speech(2000, 1, 0.1, 0.0), False),
        (Languages(4, 10, 10, 3.0), False), (Languages(10, 10, 5, 4.0), True), (Languages(10, 25, 4, 4.0), False),
        (Languages(12, 40, 12, 4.0, crossed=True), False), (Languages(30, 20, 30, 5.0, crossed=True), False),
        (Languages(40, 6, 5, 4.5), False),
    ):  # fmt: skip
        for kind in ("one", "equal pair", "mean"):
            yield of_model(model, kind, quick)


def of_simulator(path: Path) -> Iterator[Case]:
    """The cases of the settings that the reference simulator was made for."""
    spec = importlib.util.spec_from_file_location("simulator", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is not a module")
    simulator = importlib.util.module_from_spec(spec)
    sys.modules["simulator"] = simulator
    spec.loader.exec_module(simulator)

    def statistic(trials: Any) -> Any:
        labels = np.repeat([1, 0], [trials.target.size, trials.first.size])
        first, second = (texts(np.r_[trials.target, side]).tolist() for side in (trials.first, trials.second))
        scores = np.r_[trials.target_scores, trials.nontarget_scores]
        return statistics.verification(labels, scores, first, second)

    few, hard = {"speakers": 10, "each": 40}, {"log_sd": 0.35}
    for options in (
        {"each": 470, "eer": 0.01, **hard}, {"each": 470, **hard}, {"each": 470, "eer": 0.01}, {"eer": 0.01, **hard},
        {**hard}, {}, {**few, "eer": 0.01, **hard}, {**few, "eer": 0.01}, {**few, **hard}, {**few},
        {"speakers": 20, "eer": 0.01, **hard}, {"eer": 0.01, "unbalanced": True, **hard}, {"unbalanced": True, **hard},
        {"speakers": 200, "eer": 0.01, **hard}, {"model": "effects", "each": 60},
        {"model": "effects", "tail": "t3", "log_sd": 0.2}, {"tail": "goats", **hard},
    ):  # fmt: skip
        setting = simulator.Setting(**options)
        truth = functools.partial(_of_simulator, simulator, setting)

        def draw(
            random: np.random.Generator, systems: int = 1, setting: Any = setting, truth: Callable[[], Any] = truth
        ) -> list[Any]:
            drawn = simulator.draw(setting, random, truth()[0], systems)
            return [statistic(trials) for trials in (drawn if systems > 1 else [drawn])]

        def equal(truth: Callable[[], Any] = truth) -> dict[str, float]:
            return dict.fromkeys(truth()[1], 0.0)

        def value(truth: Callable[[], Any] = truth) -> Any:
            return truth()[1]

        def one(random: np.random.Generator, draw: Callable[..., list[Any]] = draw) -> list[list[Any]]:
            return [draw(random)]

        def pair(random: np.random.Generator, draw: Callable[..., list[Any]] = draw) -> list[list[Any]]:
            return [[run] for run in draw(random, systems=2)]

        yield Case(setting.name(), value, one)
        yield Case(f"{setting.name()}, equal pair", equal, pair)


@functools.cache
def _of_simulator(simulator: Any, setting: Any) -> tuple[Any, dict[str, float]]:
    """What the simulator is set to, and the true metrics."""
    parameter, targets, nontargets = simulator.population(setting)
    truth = {"eer": 100 * simulator.truth_eer(targets, nontargets)}
    for prior in (0.01, 0.05):
        truth[f"min_dcf_p{round(100 * prior):02d}"] = simulator.truth_min_dcf(targets, nontargets, prior)
    return parameter, truth


def write(rows: Sequence[Row], output: Path) -> None:
    """As CSV or Markdown."""
    with output.open("w", newline="") as file:
        if output.suffix == ".csv":
            csv.writer(file).writerows([Row.HEADER, *(row.cells() for row in rows)])
        else:
            lines = [Row.HEADER, ["---"] * len(Row.HEADER), *(row.cells() for row in rows)]
            file.writelines(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    """Count, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer cases, 100 simulations")
    parser.add_argument("--simulations", type=int, metavar="N", help="test sets a case; default: 1000")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases with this in their names")
    parser.add_argument("--simulator", type=Path, metavar="FILE", help="trials of another simulator")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="table in Markdown, or CSV (.csv)")
    options = parser.parse_args()
    simulations = options.simulations or (100 if options.quick else 1000)
    rows = []
    for case in cases() if options.simulator is None else of_simulator(options.simulator):
        if options.only in case.name and (case.quick or not options.quick):
            begun = time.process_time()
            found = count(case, simulations)
            for row in found:
                print("  ".join(f"{cell:>10}" if at else f"{cell:<60}" for at, cell in enumerate(row.cells())))
            print(f"{(time.process_time() - begun) / simulations:.3f} s of processor a test set", flush=True)
            rows += found
            if options.output is not None:
                write(rows, options.output)


if __name__ == "__main__":
    main()
