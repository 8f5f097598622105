"""``wavbench extrapolate``: the error to expect at label budgets that were not run, and where regimes cross."""

from __future__ import annotations

import argparse
import json
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import registry
from benchmark.commands import Parser
from benchmark.errors import BenchmarkError

if TYPE_CHECKING:
    from benchmark.report.extrapolation import Meeting, Outlook

EXAMPLES = """examples:
  wavbench extrapolate results/pilot --to 10h
  wavbench extrapolate results/pilot --to 5h 20h 100h --task librispeech_asr --json
"""


def main(argv: Sequence[str]) -> int:
    """``wavbench extrapolate RESULTS… --to 100h``."""
    parser = Parser(
        "wavbench extrapolate",
        "From results at four or more small label budgets: the error to expect at larger ones, with a band, and the "
        "budget above which one regime beats another. Says so, and why, where the results cannot tell.",
        EXAMPLES,
    )
    parser.add_argument("folders", nargs="+", metavar="RESULTS", help="folders of studies ('wavbench recipe') or runs")
    parser.add_argument(
        "--to", nargs="+", required=True, type=_seconds, metavar="BUDGET", help="such as 100h; at most 30 x the largest"
    )
    parser.add_argument("--task", metavar="T", help="default: all")
    parser.add_argument("--level", metavar="L", type=_level, default=0.9, help="of the bands; default: 0.9")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--plugin", metavar="FILE", action="append", default=[], help="declares metrics of the runs")
    options = parser.parse_args(argv)
    registry.load_plugin(*options.plugin)

    from benchmark.report import extrapolation
    from benchmark.report.collect import gather
    from benchmark.report.compare import Bootstrap, task_view
    from benchmark.statistics import REPLICATES

    gathered = gather([Path(folder) for folder in options.folders])
    tasks = sorted({cell.task for cell in gathered.runs if cell.layer is None})
    if options.task is not None and options.task not in tasks:
        raise BenchmarkError(f"no results of task '{options.task}'. {registry.suggest(options.task, tasks)}")
    if not tasks:
        raise BenchmarkError("these are results of single layers only, which have no learning curves")
    bootstrap, to = Bootstrap(REPLICATES), sorted(set(options.to))
    printed: dict[str, Any] = {}
    for task in [options.task] if options.task else tasks:
        view = task_view(gathered, task)
        found = extrapolation.outlooks(view, to, bootstrap, options.level)
        pairs = extrapolation.meetings(view, found, to[-1], bootstrap, options.level)
        if options.json:
            printed[task] = {"metric": view.metric.name, **_plain(view.metric.error, found, pairs)}
            continue
        print(f"{task}: {view.metric.axis}; extrapolated, not measured\n")
        for text in extrapolation.sentences(view, found, pairs):
            print(textwrap.fill(f"- {text}", 100, subsequent_indent="  "))
        print()
    print(
        json.dumps(printed, indent=2, ensure_ascii=False) if options.json else textwrap.fill(extrapolation.CAPTION, 100)
    )
    return 0


def _plain(error: Any, found: Sequence[Outlook], pairs: Sequence[Meeting]) -> dict[str, Any]:
    """What was found, as JSON; budgets in seconds, values of the metric, ``null`` for ends beyond the range."""
    series = [
        {
            "regime": outlook.series.name,
            "declined": outlook.why or None,
            "forecasts": [
                {"seconds": at, "expected": error(of.error), "band": sorted((error(of.low), error(of.high)))}
                for at, of in outlook.forecasts.items()
            ]
            + [{"seconds": at, "declined": why} for at, why in outlook.declined.items()],
        }
        for outlook in found
    ]
    crossings: list[dict[str, Any]] = []
    for pair in pairs:
        names = [pair.first.name, pair.second.name]
        if pair.found is None:
            crossings.append({"regimes": names, "declined": pair.why})
            continue
        of = pair.found
        ends = [None if math.isinf(end) else end for end in (of.low, of.budget, of.high)]
        crossings.append(
            {
                "regimes": names, "gets_ahead": names[of.second_gets_ahead], "seconds": ends[1],
                "interval": [ends[0], ends[2]], "up_to": pair.to, "probability_ahead_there": of.ahead,
            }
        )  # fmt: skip
    return {"series": series, "crossings": crossings}


def _seconds(text: str) -> float:
    from benchmark.data import budget

    try:
        parts = budget.parse(text)
    except BenchmarkError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if len(parts) != 1 or parts[0].unit != "s":
        raise argparse.ArgumentTypeError(f"expected a length of labelled audio such as 90min or 100h, found {text!r}")
    return parts[0].amount


def _level(text: str) -> float:
    try:
        level = float(text)
    except ValueError:
        level = 0.0
    if not 0.5 <= level < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0.5 to below 1, found {text!r}")
    return level
