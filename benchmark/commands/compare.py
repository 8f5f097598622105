"""``wavbench compare``: ranks with ties of the systems of one task."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from benchmark import registry
from benchmark.commands import Parser
from benchmark.errors import BenchmarkError

EXAMPLES = """examples:
  wavbench compare results/frozen_vs_finetuned --task voxceleb1_sv
  wavbench compare results/base results/large --task librispeech_asr --metric cer --budget 1h --json
  wavbench compare results/slow results/fast --by-folder       # two runs that differ in other settings
"""


def main(argv: Sequence[str]) -> int:
    """``wavbench compare RESULTS… --task T``."""
    parser = Parser(
        "wavbench compare",
        "Rank the upstreams and regimes of one task, with ties where its test set cannot separate them.",
        EXAMPLES,
    )
    parser.add_argument("folders", nargs="+", metavar="RESULTS", help="folders of studies ('wavbench recipe') or runs")
    parser.add_argument("--task", metavar="T", help="may be left out where there is one")
    parser.add_argument("--metric", metavar="M", help="default: the one that chose the checkpoints")
    parser.add_argument("--budget", metavar="B", help="of labels; default: the one that most systems have")
    parser.add_argument(
        "--systems", metavar="NAME", nargs="+", default=[], help="only these, by the names in the table"
    )
    parser.add_argument(
        "--level",
        metavar="L",
        type=_level,
        default=0.95,
        help="1 - the probability of any order between equal systems; default: 0.95",
    )
    parser.add_argument(
        "--by-folder", action="store_true", help="tell results apart by folder and layer, whatever their settings"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--plugin", metavar="FILE", action="append", default=[], help="declares metrics of the runs")
    options = parser.parse_args(argv)
    registry.load_plugin(*options.plugin)

    from benchmark.report import ranking
    from benchmark.report.collect import gather
    from benchmark.report.compare import Bootstrap, task_view
    from benchmark.statistics import REPLICATES

    read = ranking.gather_by_folder if options.by_folder else gather
    gathered = read([Path(folder) for folder in options.folders])
    tasks = sorted({cell.task for cell in gathered.runs})
    task = options.task or tasks[0]
    if task not in tasks:
        raise BenchmarkError(f"no results of task '{task}'. {registry.suggest(task, tasks)}")
    if options.task is None and len(tasks) > 1:
        raise BenchmarkError(f"results of {len(tasks)} tasks; choose one by --task: {', '.join(tasks)}")
    view = task_view(gathered, task)
    found = ranking.ranks(
        view,
        options.budget,
        Bootstrap(REPLICATES),
        metric=options.metric,
        names=options.systems,
        level=options.level,
    )
    if left := ranking.left_out(view):
        print(f"{left}.", file=sys.stderr)
    if options.json:
        print(json.dumps(found.as_dict(), indent=2, ensure_ascii=False))
        return 0
    for table in ranking.tables(found, task):
        print(f"{table.title}\n\n{table.text()}\n\n{textwrap.fill(table.caption, 100)}\n")
    print("\n".join(textwrap.fill(f"- {text}", 100, subsequent_indent="  ") for text in ranking.sentences(found)))
    return 0


def _level(text: str) -> float:
    try:
        level = float(text)
    except ValueError:
        level = 0.0
    if not 0 < level < 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, found {text!r}")
    return level
