"""``wavbench report``: one page on studies and runs, with its tables and figures beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark import registry
from benchmark.commands import Parser


def main(argv: Sequence[str]) -> int:
    """``wavbench report RESULTS…``."""
    parser = Parser(
        "wavbench report",
        "One page on one or more studies, with its tables (CSV, LaTeX) and figures (PNG) in folders beside it.",
    )
    parser.add_argument("folders", nargs="+", metavar="RESULTS", help="folders of studies ('wavbench recipe') or runs")
    parser.add_argument("-o", "--output", metavar="FILE", default="report.html", help="default: report.html")
    parser.add_argument("--title", help="default: the names of the studies")
    parser.add_argument(
        "--replicates", type=int, metavar="N", help="of the bootstrap of metrics that plug-ins declare; default: 500"
    )
    parser.add_argument("--audio", action="store_true", help="put clips of what single speakers said beside their page")
    parser.add_argument("--data-root", metavar="DIR", help="of --audio; default: where the runs had it")
    parser.add_argument("--plugin", metavar="FILE", action="append", default=[], help="declares metrics of the runs")
    options = parser.parse_args(argv)
    registry.load_plugin(*options.plugin)

    from benchmark.report import page
    from benchmark.statistics import REPLICATES

    output = Path(options.output)
    folders = [Path(folder) for folder in options.folders]
    report = page.make(
        folders, title=options.title, replicates=options.replicates or REPLICATES, stem=output.stem,
        audio=options.audio, data_root=options.data_root,
    )  # fmt: skip
    page.write(report, output)
    beside = f"{output.stem}_tables/, {output.stem}_figures/"
    print(f"{output}: {len(report.pictures)} figures, {len(report.tables)} tables ({beside})")
    return 0
