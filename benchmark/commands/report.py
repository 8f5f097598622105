"""``wavbench report``: one page on studies and runs, with its tables and figures beside it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmark import registry
from benchmark.commands import Parser, page_file


def main(argv: Sequence[str]) -> int:
    """``wavbench report RESULTS…``."""
    parser = Parser(
        "wavbench report",
        "One page on one or more studies, with its tables (CSV, LaTeX) and figures (PNG) in folders beside it.",
    )
    parser.add_argument("folders", nargs="+", metavar="RESULTS", help="folders of studies ('wavbench recipe') or runs")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=page_file, default="report.html", help="default: report.html"
    )
    parser.add_argument("--title", help="default: the names of the studies")
    parser.add_argument(
        "--replicates", type=_replicates, default=500, metavar="N",
        help="of the bootstrap of metrics that plug-ins declare; default: 500",
    )  # fmt: skip
    parser.add_argument("--audio", action="store_true", help="put clips of what single speakers said beside their page")
    parser.add_argument("--data-root", metavar="DIR", help="of --audio; default: where the runs had it")
    parser.add_argument("--plugin", metavar="FILE", action="append", default=[], help="declares metrics of the runs")
    options = parser.parse_args(argv)
    registry.load_plugin(*options.plugin)

    from benchmark.report import page

    output = Path(options.output)
    folders = [Path(folder) for folder in options.folders]
    report = page.make(
        folders, title=options.title, replicates=options.replicates, stem=output.stem,
        audio=options.audio, data_root=options.data_root,
    )  # fmt: skip
    page.write(report, output)
    beside = f"{output.stem}_tables/, {output.stem}_figures/"
    print(f"{output}: {len(report.pictures)} figures, {len(report.tables)} tables ({beside})")
    return 0


def _replicates(text: str) -> int:
    if not text.isdigit() or int(text) < 100:
        raise argparse.ArgumentTypeError(f"expected a number of 100 or more, found {text!r}")
    return int(text)
