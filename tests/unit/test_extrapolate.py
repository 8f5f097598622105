"""Extrapolated learning curves: bands that hold, crossings, and refusals where a pilot cannot tell."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import made_studies
import numpy as np
import pytest
from support import REPOSITORY

from benchmark import cli
from benchmark.errors import BenchmarkError
from benchmark.report import extrapolation
from benchmark.report.collect import gather
from benchmark.report.compare import Bootstrap, TaskView, task_view
from benchmark.statistics.extrapolate import DRAWS, FAMILIES, Declined, _members, crossing, fit

HOURS = {"10min": 1 / 6, "20min": 1 / 3, "40min": 2 / 3, "80min": 4 / 3, "160min": 8 / 3, "all": 5.2}


def power(scale: float, exponent: float, floor: float = 0.0, *, budgets: Sequence[float] = (1, 2, 4, 8, 16),
          noise: float = 0.0, runs: int = 3) -> dict[float, list[float]]:  # fmt: skip
    """A pilot of a power law."""
    random = np.random.default_rng(7)
    return {
        n: [(floor + scale * n**-exponent) * math.exp(noise * random.normal()) for _ in range(runs)] for n in budgets
    }


# -- bands -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluation() -> ModuleType:
    """recipes/benchmarks/extrapolation.py."""
    spec = importlib.util.spec_from_file_location("evaluation", REPOSITORY / "recipes/benchmarks/extrapolation.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["evaluation"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("make", ["fitted", "other"])
def test_bands_hold_on_held_out_budgets(evaluation: ModuleType, make: str) -> None:
    """90 % bands on 100 made-up curves of the fitted families, and on 100 of others.

    The table of docs/extrapolation.md in small. Measured: 89 and 92 %, beyond 4 times the pilot 87 and 88 %. Without
    the drift beyond the pilot, 85, 85, 80 and 78 %; with power laws alone, 51 and 86 % in all.
    """
    tallies, reasons = evaluation.evaluate(evaluation.made_up(100, getattr(evaluation, make), seed=2))
    far = [tally for (_, distance), tally in tallies.items() if distance >= 10]

    def covered(of: Sequence[Any]) -> float:
        return 100 * sum(tally.inside for tally in of) / sum(tally.said for tally in of)

    assert 87 <= covered(list(tallies.values())) <= 95
    assert covered(far) >= 83
    assert sum(reasons.values()) < 160


def test_intervals_of_crossings_hold(evaluation: ModuleType) -> None:
    text = evaluation.crossings(evaluation.made_up_pairs(40, seed=2), 10.0)
    assert 80 <= float(text.split("for ")[1].split(" %")[0]) <= 98, text


def test_a_band_grows_with_distance_and_holds_the_truth() -> None:
    found = fit(power(30, 0.4, 2, noise=0.02))
    bands = found.band([20, 50, 150, 400])
    assert all(band.error == pytest.approx(2 + 30 * band.budget**-0.4, rel=0.35) for band in bands)
    assert all(band.low < 2 + 30 * band.budget**-0.4 < band.high for band in bands)
    ratios = [band.high / band.low for band in bands]
    assert ratios == sorted(ratios)
    assert ratios[-1] > 1.3 * ratios[0]
    assert all(band.low <= band.error <= band.high for band in bands)
    narrow = found.band([50], level=0.5)[0]
    assert bands[1].low < narrow.low < narrow.high < bands[1].high


def test_more_noise_fewer_runs_and_a_test_set_widen_a_band() -> None:
    def ratio(points: Mapping[float, Sequence[float]], test_set: float = 0.0) -> float:
        band = fit(points, test_set=test_set).at(40)
        return band.high / band.low

    quiet = ratio(power(30, 0.4, noise=0.01))
    assert ratio(power(30, 0.4, noise=0.12)) > 1.1 * quiet
    assert ratio(power(30, 0.4, noise=0.01, runs=1)) > 1.02 * quiet
    assert ratio(power(30, 0.4, noise=0.01), test_set=0.1) > 1.1 * quiet


def test_the_unit_of_budgets_and_the_order_of_runs_do_not_matter() -> None:
    points = power(30, 0.4, 2, noise=0.03)
    hours = fit(points).at(100)
    seconds = fit({3600 * n: runs[::-1] for n, runs in reversed(points.items())}).at(360_000)
    assert (seconds.low, seconds.error, seconds.high) == pytest.approx((hours.low, hours.error, hours.high), rel=1e-9)


def test_families_fall_and_are_one_at_the_largest_budget_of_the_pilot() -> None:
    n = np.geomspace(0.004, 30, 60)
    for name, family in FAMILIES.items():
        members = _members(family, float(n[0]))
        logs = members.logs(np.append(n, 1.0))
        assert np.isfinite(logs).all(), name
        assert np.allclose(logs[:, -1], 0), name
        falls = np.diff(logs[:, :-1]) <= 1e-12
        delayed = name == "vapour pressure"  # some of them rise first, below the pilot's smallest budgets
        assert falls.all() if not delayed else falls[:, 20:].mean() > 0.99, name


def test_weights_follow_the_fit() -> None:
    """Errors that a power law without a floor explains exactly, over a wide range, are not taken for an exponential."""
    found = fit(power(30, 0.5, budgets=(1, 3, 9, 27, 81, 243), noise=0.005))
    assert sum(found.weights.values()) == pytest.approx(1)
    assert found.weights["exponential"] < 0.01 < found.weights["power law"]
    assert found.curves([10.0, 1000.0]).shape == (DRAWS, 2)


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        (power(30, 0.4, budgets=(1, 4, 16)), "there are results at 3 budgets, and a forecast needs at least 4"),
        (power(30, 0.4, budgets=(1, 1.5, 2, 3)), "is 3 times the smallest, and a forecast needs at least 4 times"),
        (power(1, 0.0, 9, noise=0.02), "no more than noise: there is no trend to follow"),
        (power(3, 0.1, 9, noise=0.4), "no more than noise|which is more than noise"),
        ({1: [30, 31], 2: [20, 21], 4: [30, 31], 8: [15, 16]}, r"rises by 49 % from 2 to 4, which is more than noise"),
        ({1: [30.0], 2: [9.0], 4: [2.0], 8: [0.0]}, "some runs make no error"),
    ],
    ids=["few budgets", "short", "flat", "noisy", "not monotone", "no errors"],
)
def test_declined(points: dict[float, list[float]], reason: str) -> None:
    with pytest.raises(Declined, match=reason):
        fit(points)


def test_declined_at_budgets() -> None:
    found = fit(power(30, 0.4, noise=0.02))
    assert found.at(480).budget == 480
    with pytest.raises(Declined, match=r"31\.2 times the largest budget that was run; nothing is said beyond 30 times"):
        found.at(500)
    with pytest.raises(Declined, match="within the budgets that were run"):
        found.at(16)
    with pytest.raises(Declined, match=r"too wide to say anything: its ends are a factor [\d.]+ apart \(at most 4\)"):
        fit(power(30, 0.8, noise=0.15, budgets=(1, 2, 4, 8))).at(240)
    with pytest.raises(Declined, match="most of that is due to the small test set"):
        fit(power(30, 0.4, noise=0.02), test_set=0.6).at(20)


@pytest.mark.parametrize("points", [{}, {0: [1.0]}, {1: []}, {1: [math.nan]}, {1: [-1.0]}])
def test_refused(points: dict[float, list[float]]) -> None:
    with pytest.raises(BenchmarkError):
        fit(points)


# -- crossings ---------------------------------------------------------------------------------------------------------


def test_a_crossing_beyond_the_pilot_and_its_mirror_image() -> None:
    frozen, tuned = fit(power(12, 0.1, noise=0.01)), fit(power(40, 0.5, noise=0.01))
    truth = (40 / 12) ** (1 / 0.4)  # 20, where the pilot ends at 16
    found = crossing(frozen, tuned, 160)
    assert found.second_gets_ahead
    assert 10 < found.low < truth < found.high < 60
    assert found.ahead > 0.95
    mirrored = crossing(tuned, frozen, 160)
    assert not mirrored.second_gets_ahead
    assert mirrored.budget == pytest.approx(found.budget, rel=0.1)
    wider = crossing(frozen, tuned, 160, difference=0.2)
    assert wider.high / wider.low > 1.3 * found.high / found.low


def test_curves_that_do_not_cross() -> None:
    better, worse = fit(power(10, 0.3, noise=0.01)), fit(power(20, 0.3, noise=0.01))
    found = crossing(better, worse, 50)
    assert found.second_gets_ahead
    assert math.isinf(found.budget)
    assert math.isinf(found.high)
    assert found.ahead < 0.05
    with pytest.raises(Declined, match="more than 30 times"):
        crossing(better, worse, 1000)
    with pytest.raises(Declined, match="within"):
        crossing(better, worse, 16)


# -- studies -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of three tasks with six budgets, whose curves cross at about 40 minutes."""
    root = tmp_path_factory.mktemp("extrapolate") / "toy"
    with pytest.MonkeyPatch.context() as patch:
        hours = list(HOURS.values())
        patch.setattr(made_studies, "HOURS", HOURS)
        levels = {
            "frozen": tuple(3 + 10 * h**-0.15 for h in hours),
            "finetuned": tuple(0.5 + 11 * h**-0.45 for h in hours),
        }
        patch.setattr(made_studies, "LEVELS", levels)
        recipe = made_studies.study_yaml()
        del recipe["regimes"]["layers"]
        made_studies.write_study(
            root, tasks=("verify", "words", "languages"), seeds=(0, 1, 2), layers=False, regimes=recipe["regimes"]
        )
    return root


def view_of(results: Path, task: str = "words") -> TaskView:
    return task_view(gather([results]), task)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    status = cli.main(["extrapolate", *map(str, arguments)])
    shown = capsys.readouterr()
    assert status == 0, shown.err
    return " ".join(shown.out.split())


def test_the_command_forecasts_and_says_where_regimes_cross(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = run(capsys, results, "--to", "20h", "200h", "--task", "words")
    assert shown.startswith("words: WER (%), lower is better; extrapolated, not measured")
    assert "frozen with 20 h of labels: WER " in shown
    assert "% expected, 90 % band [" in shown
    assert "38.5 times the largest budget that was run; nothing is said beyond 30 times" in shown
    assert "finetuned is better than frozen above " in shown
    assert "90 % interval: " in shown
    assert "verify" not in shown
    assert "verify: EER" in run(capsys, results, "--to", "20h")

    found = json.loads(run(capsys, results, "--to", "20h", "--json"))["words"]
    low, high = found["series"][1]["forecasts"][0]["band"]
    assert low < 0.5 + 11 * 20**-0.45 < high
    start, end = found["crossings"][0]["interval"]
    assert start < 40 * 60 < end
    assert found["crossings"][0]["gets_ahead"] == "finetuned"


class NoIntervals(Bootstrap):
    """Of a test set that gives none."""

    def summary(self, *_: object, **__: object) -> tuple[None, str]:
        return None, "no clusters"

    def difference(self, *_: object) -> None:
        return None


def test_accuracies_are_forecast_as_accuracies(results: Path) -> None:
    view = view_of(results, "languages")
    found = extrapolation.outlooks(view, [36_000.0], NoIntervals(1))
    for row, series in zip(extrapolation.table(view, found).rows, view.series, strict=True):
        expected, low, high = (float(value or 0) for value in row[5:8])
        assert series.mean("10min") < expected < 100
        assert low < expected < high <= 100
        assert not row[8]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "8utt"], "expected a length of labelled audio"),
        (["--to", "much"], "is not a valid budget"),
        (["--to", "20h", "--level", "90"], "expected a number from 0.5"),
        ([], "--to"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["extrapolate", "results", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_an_unknown_task_is_named(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["extrapolate", str(results), "--to", "20h", "--task", "wrds"]) == 1
    assert "no results of task 'wrds'" in capsys.readouterr().err


def test_three_budgets_are_declined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = made_studies.write_study(tmp_path / "small", tasks=("words",), layers=False)
    shown = run(capsys, study, "--to", "20h")
    assert shown.count("no forecast, because there are results at 3 budgets, and a forecast needs at least 4") == 2
    assert extrapolation.panel(view_of(study), Bootstrap(200)) is None


def test_the_panel_draws_what_is_extrapolated_apart(results: Path) -> None:
    view = view_of(results)
    panel = extrapolation.panel(view, Bootstrap(200))
    assert panel is not None
    assert panel.picture is not None
    assert "Extrapolated" in panel.picture.alt
    assert panel.picture.png.startswith(b"\x89PNG")
    assert panel.sheet.shown.columns[2] == "extrapolated to 52 h"
    end = 52 * 3600.0
    axes = extrapolation.figure(view, extrapolation.outlooks(view, [end], Bootstrap(200))).axes[0]
    largest = 5.2 * 3600
    curves = [line for line in axes.lines if np.size(line.get_xdata()) > 2]
    for line in curves:
        x = np.asarray(line.get_xdata(), dtype=float)
        beyond = bool((x > largest * 1.001).any())
        assert line.get_linestyle() == ("--" if beyond else "-")
        assert not (beyond and (x < largest * 0.999).any())
    assert len(curves) == 4
    texts = {text.get_text().strip() for text in axes.texts}
    assert texts == {"measured", "extrapolated"}
